"""The command line of `train.py`: gates first, then Hydra runs the points.

Hydra composes and launches; this module checks before it and reports after it, so that people see one message with a
remedy instead of a traceback, and exit codes mean something: 0 done, 1 failed, 2 the configuration is wrong, 130 and 143
interrupted.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from medllm.config.compose import Plan, Point, make_plan
from medllm.config.run import RunConf
from medllm.config.store import SCHEMAS
from medllm.config.tracking import MlflowConf
from medllm.config.validate import explain, to_run_conf
from medllm.errors import ConfigError, Fault, MedLLMError, PointFailedError
from medllm.help import help_text
from medllm.quiet import quiet_libraries

Value = TypeVar("Value", int, str)


def launch(main: Callable[[], Any]) -> None:
    """Runs a `@hydra.main` function behind the gates, and exits.

    Args:
        main: The decorated function; it calls `run_point`.
    """
    sys.exit(guarded(lambda: _launch(main)))


def guarded(action: Callable[[], None]) -> int:
    """Runs an action and turns what it raises into a message and an exit code."""
    try:
        action()
    except MedLLMError as error:
        print(f"medllm: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("medllm: interrupted", file=sys.stderr)
        return 130
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(bool(error.code))
    return 0


def pop_option(arguments: list[str], name: str, default: Value) -> tuple[list[str], Value]:
    """Takes a script's own `name=VALUE` out of its arguments; the rest are overrides. Numbers have a number as default.

    Raises:
        SystemExit: with code 2, if it should be a number and is none.
    """
    own = [argument for argument in arguments if argument.startswith(f"{name}=")]
    rest = [argument for argument in arguments if argument not in own]
    if not own:
        return rest, default
    value = own[-1].partition("=")[2]
    if isinstance(default, int) and not value.isdigit():
        print(f"medllm: {name}={value}: is no whole number", file=sys.stderr)
        raise SystemExit(2)
    return rest, type(default)(value)


def _launch(main: Callable[[], Any]) -> None:
    signal.signal(signal.SIGTERM, _terminate)
    sys.argv[1:] = overrides_first(sys.argv[1:])
    arguments = get_args_parser().parse_args(sys.argv[1:])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises to us instead of printing and exiting by itself
    if arguments.help:
        print(help_text(arguments.overrides))
        return
    passive = arguments.hydra_help or arguments.cfg or arguments.info
    if passive or arguments.shell_completion or arguments.config_name or arguments.config_path:
        _explained(main, arguments.overrides)
        return
    searchpath = [f"hydra.searchpath=[{arguments.config_dir}]"] if arguments.config_dir else []
    plan = make_plan([*searchpath, *arguments.overrides], multirun=arguments.multirun)
    quiet_libraries()
    from medllm.experiment import check  # imports torch: only after every key, type and range is right

    check(plan.points)
    if arguments.multirun:
        _run_sweep(main, plan, arguments.overrides)
    else:
        _explained(main, arguments.overrides)


def overrides_first(arguments: list[str]) -> list[str]:
    """Moves overrides in front of flags: argparse refuses `lora.r=8,16 -m seed=1`, where both sides of -m hold some."""
    overrides: list[str] = []
    flags: list[str] = []
    for argument in arguments:
        is_override = not argument.startswith("-") and ("=" in argument or argument.startswith("~"))
        (overrides if is_override else flags).append(argument)
    return [*overrides, *flags]


def _run_sweep(main: Callable[[], Any], plan: Plan, overrides: list[str]) -> None:
    from medllm.console import console
    from medllm.sweep.record import open_sweep

    console.print(f"sweep of {len(plan.points)} points in {plan.sweep_dir}", markup=False)
    for number, point in enumerate(plan.points):
        console.print(f"  {number}  {', '.join(point.overrides)}", markup=False)
    # The folder, because Hydra would otherwise read the clock again; and folder names of what differs between points.
    differing = {override.partition("=")[0] for point in plan.points for override in point.overrides}
    constant = sorted({override.partition("=")[0] for override in overrides} - differing)
    exclude = ",".join(f"'{key}'" for key in constant)
    sys.argv[1:1] = [
        f"hydra.sweep.dir='{plan.sweep_dir}'",
        f"hydra.job.config.override_dirname.exclude_keys=[{exclude}]",
    ]
    with open_sweep(plan, plan.points[0].conf):
        _explained(main, overrides)


def _explained(main: Callable[[], Any], overrides: list[str]) -> None:
    """Calls Hydra's main; what it refuses becomes a ConfigError."""
    try:
        main()
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # the last: a wrong mix of Hydra's flags
        raise ConfigError(explain(error, overrides)) from None


def run_point(config: DictConfig) -> float:
    """Trains one composed configuration inside Hydra, writes its result and returns the objective.

    Raises:
        PointFailedError: in a sweep, if the point failed; it carries a reason and no frames, because Hydra keeps it until
            the sweep ends, and a traceback would keep the point's model.
    """
    quiet_libraries()  # again, for points in processes of their own
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    sweeping = hydra_config.mode is RunMode.MULTIRUN
    from medllm.experiment import free_memory
    from medllm.hub import push
    from medllm.sweep.points import RESULT, write_result

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    if (folder / RESULT).exists():
        raise ConfigError(Fault("hydra.run.dir", "holds a run already", str(folder), fix="choose another folder"))
    reason = ""
    try:
        objective, conf = _train(config, folder, sweeping=sweeping)
    except (KeyboardInterrupt, SystemExit):
        write_result(folder, "KILLED", reason="interrupted")
        raise
    except Exception as error:
        known = isinstance(error, MedLLMError)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        write_result(folder, "FAILED", reason=reason)
        (folder / "traceback.txt").write_text(traceback.format_exc())
        if not known:
            traceback.print_exc()
        if not sweeping:
            if known:
                raise
            raise SystemExit(1) from None
        traceback.clear_frames(error.__traceback__)
    finally:
        free_memory()
    if reason:
        raise PointFailedError(reason)
    if conf.hub.push_to_hub:  # last, so that a refused upload costs nothing
        print(f"uploaded to {push(conf.hub, folder / 'artifact')}", file=sys.stderr)
    return objective


def _train(config: DictConfig, folder: Path, *, sweeping: bool) -> tuple[float, RunConf]:
    from medllm.experiment import check, run_training
    from medllm.result import result_metrics
    from medllm.summary import print_point, print_run
    from medllm.sweep.points import parent_of, write_result

    conf = to_run_conf(config)
    check([Point((), conf)])
    options = {group: str(option) for group, option in HydraConfig.get().runtime.choices.items() if group in SCHEMAS}
    result = run_training(conf, folder, parent_id=parent_of(folder), choices=options)
    metrics = result_metrics(result)
    write_result(folder, "FINISHED", objective=result.objective, metrics=metrics, run_id=result.run_id)
    if sweeping:
        print_point(folder.name, result)
    else:
        shown = {"artifact": str(result.artifact)}
        if isinstance(conf.tracking, MlflowConf):
            shown["run"] = f"{result.run_id} in {conf.tracking.tracking_uri}"
        print_run(result, shown)
    return result.objective, conf


def _terminate(signum: int, frame: Any) -> None:
    """SIGTERM ends the run in order: records say KILLED, no later point starts."""
    raise SystemExit(128 + signum)
