"""The command line of `train.py`: gates first, then Hydra runs the points.

Hydra composes and launches. This module checks before it, `medllm.point` is what Hydra calls, and `medllm.command` tells how it
ended.
"""

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from medllm import ranks
from medllm.command import guarded
from medllm.config.compose import compose_config
from medllm.config.plan import Plan, make_plan
from medllm.config.validate import explain
from medllm.console import say
from medllm.errors import ConfigError, Fault
from medllm.gpus import refuse_sharing
from medllm.help import help_text
from medllm.libraries import prepare_libraries
from medllm.point import refuse_held
from medllm.stopping import stop


def launch(main: Callable[[], Any]) -> None:
    """Runs a `@hydra.main` function behind the gates, and exits.

    Args:
        main: The decorated function; it calls `run_point`.
    """
    sys.exit(guarded(lambda: _launch(main)))


def _launch(main: Callable[[], Any]) -> None:
    prepare_libraries()
    stop.listen()
    sys.argv[1:] = overrides_first(sys.argv[1:])
    arguments = get_args_parser().parse_args(sys.argv[1:])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises to us instead of printing and exiting by itself
    composed = [*_searchpath(arguments), *arguments.overrides]
    if arguments.help:
        print(help_text(composed))
        return
    if arguments.hydra_help or arguments.cfg or arguments.info:
        compose_config(composed)
        _explained(main, arguments.overrides)
        return
    if arguments.shell_completion:
        _explained(main, arguments.overrides)
        return
    if arguments.multirun and ranks.world_size() > 1:
        fix = "python train.py ... -m, with hydra/launcher=joblib for several points at once"
        raise ConfigError(Fault("-m", f"a sweep in {ranks.world_size()} processes that train together", fix=fix))
    plan = make_plan(composed, multirun=arguments.multirun)
    with contextlib.ExitStack() as held:
        _hold(plan, held, only_if_there=True)
        from medllm.experiment import check  # imports torch: only after every key, type and range is right

        plan = _as_possible(plan)
        check(plan.points)
        if any(point.conf.hub.push_to_hub for point in plan.points):
            _check_upload(plan)
        if arguments.multirun:
            _run_sweep(main, plan, arguments.overrides)
        else:
            _hold(plan, held)
            if plan.run_dir is not None and ranks.is_main():
                refuse_held(plan.points[0].conf, plan.run_dir)  # before Hydra writes to it
            _run(main, plan, arguments.overrides)


def _hold(plan: Plan, held: contextlib.ExitStack, *, only_if_there: bool = False) -> None:
    """Takes the folder of a run, or of a sweep that is not only planned, for this process alone."""
    from medllm.run_folder import lock_run, lock_sweep

    folder = plan.run_dir or plan.sweep_dir
    if plan.sweep.dry_run or folder == Path() or not ranks.is_main() or (only_if_there and not folder.is_dir()):
        return
    lock = lock_run(folder) if plan.run_dir else lock_sweep(folder, str(plan.sweep.name))
    held.callback(lock.release)


def _run(main: Callable[[], Any], plan: Plan, overrides: list[str]) -> None:
    """One run, in the folder of the plan; of a rank that is not the main one, in one for what nobody reads."""
    if ranks.is_main():
        if plan.run_dir is not None:  # the time may be in its name
            sys.argv[1:] = overrides_first([*sys.argv[1:], f"hydra.run.dir='{_quoted(plan.run_dir)}'"])
        _explained(main, overrides)
    else:
        with tempfile.TemporaryDirectory(prefix="medllm.") as folder:  # for what a run writes without asking its rank
            sys.argv[1:] = overrides_first([*sys.argv[1:], f"hydra.run.dir='{folder}'"])
            _explained(main, overrides)


def _quoted(path: Path) -> str:
    """Between single quotes, in an override."""
    return str(path).replace("\\", "\\\\").replace("'", "\\'")


def _as_possible(plan: Plan) -> Plan:
    """The plan as this machine can compute it, of runs that allow that they are changed; what other machines can is not known."""
    from medllm.models.preflight import degraded

    if plan.elsewhere:
        return plan
    found = [degraded(point.conf) for point in plan.points]
    for reason in dict.fromkeys(reason for _, reason in found if reason):
        say("degraded", f"quantization=none, as quantization.on_missing allows: {reason}")
    points = (replace(point, conf=conf) for point, (conf, _) in zip(plan.points, found, strict=True))
    return replace(plan, points=tuple(points))


# What Hydra would take from elsewhere than what is checked here; a rerun even unpickles what it is given.
UNCHECKED = ("config_name", "config_path", "experimental_rerun")


def _searchpath(arguments: argparse.Namespace) -> list[str]:
    """`--config-dir` as the override that composes the same; flags that compose what no gate has seen are refused."""
    fix = "experiment=NAME for a whole run; --config-dir=FOLDER for a folder of options"
    for name in UNCHECKED:
        if getattr(arguments, name):
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(Fault(flag, "is not taken here", getattr(arguments, name), "--config-dir", fix))
    if not arguments.config_dir:
        return []
    if any(override.lstrip("+~").startswith("hydra.searchpath") for override in arguments.overrides):
        fix = "name every folder in hydra.searchpath"
        raise ConfigError(Fault("--config-dir", "and hydra.searchpath name folders", arguments.config_dir, fix=fix))
    return [f"hydra.searchpath=['file://{_quoted(Path(arguments.config_dir).absolute())}']"]


def _check_upload(plan: Plan) -> None:
    """Whether what the points will make could be published, before the first one trains."""
    from medllm.publication.checks import faults_before_training

    faults = [fault for point in plan.points for fault in faults_before_training(point.conf)]
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))


def overrides_first(arguments: list[str]) -> list[str]:
    """Moves overrides in front of flags: argparse refuses `lora.r=8,16 -m seed=1`, where both sides of -m hold some."""
    overrides: list[str] = []
    flags: list[str] = []
    for argument in arguments:
        is_override = not argument.startswith("-") and ("=" in argument or argument.startswith("~"))
        (overrides if is_override else flags).append(argument)
    return [*overrides, *flags]


def _run_sweep(main: Callable[[], Any], plan: Plan, overrides: list[str]) -> None:
    from medllm.summary import print_plan, print_search
    from medllm.sweep.fitting import memory_faults
    from medllm.sweep.identity import sameness_faults
    from medllm.sweep.outlook import outlooks
    from medllm.sweep.run import Sweep
    from medllm.tracking.build import import_tracker
    from medllm.training.fitting import limit_name

    if any(not point.conf.trainer.use_cpu for point in plan.points):
        refuse_sharing(plan.processes)
    import_tracker(plan.points[0].conf.tracking)  # a point's memory is counted with all libraries
    priced = len(plan.points) if plan.space is None else 1
    prices = outlooks(plan.points[:priced], calibrate=plan.sweep.dry_run, elsewhere=plan.elsewhere)
    prices += outlooks(plan.points[priced:], elsewhere=plan.elsewhere)
    faults = sameness_faults(plan.points, [price.fingerprint for price in prices])
    if faults:
        raise ConfigError(faults)
    if plan.space is None:
        sweep = Sweep(plan, prices)
        labelled = [(point.label, sweep.state(point)) for point in sweep.points]
        print_plan(labelled, prices, limit_name(plan.points[0].conf), str(sweep.folder))
        left = {point.key for point in sweep.todo()}
    else:
        from medllm.sweep.search import Search  # imports optuna

        sweep = Search(plan, prices)
        states = [sweep.state(point) for point in sweep.points]
        print_search(plan.space, states, ", ".join(plan.points[0].overrides), prices[0], str(sweep.folder))
        left = {price.key for price in prices}
    faults = memory_faults(plan, prices, left)
    if faults:
        raise ConfigError(faults)
    if plan.sweep.dry_run:
        return
    sys.argv[1:1] = [f"hydra.sweep.dir='{_quoted(plan.sweep_dir)}'"]
    with sweep.open(plan.points[0].conf):
        _explained(main, overrides)


def _explained(main: Callable[[], Any], overrides: list[str]) -> None:
    """Calls Hydra's main; what it refuses becomes a ConfigError."""
    try:
        main()
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # the last: a wrong mix of Hydra's flags
        raise ConfigError(explain(error, overrides)) from None
