"""The command line of `train.py`: gates first, then Hydra runs the points.

Hydra composes and launches; this module checks before it and reports after it, so that people see one message with a
remedy instead of a traceback, and exit codes mean something: 0 done, 1 failed, 2 the configuration is wrong, 130 and 143
interrupted.
"""

import argparse
import contextlib
import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from medllm import ranks
from medllm.config.compose import compose_config
from medllm.config.plan import Plan, Point, make_plan
from medllm.config.run import RunConf
from medllm.config.store import SCHEMAS
from medllm.config.tracking import MlflowConf
from medllm.config.trainer import LOSS
from medllm.config.validate import explain, to_run_conf
from medllm.console import console, say
from medllm.errors import ConfigError, Fault, MedLLMError, PointFailedError, PointPrunedError, RankError, in_brief
from medllm.gpus import claim_gpu, refuse_sharing
from medllm.help import help_text
from medllm.libraries import prepare_libraries
from medllm.redaction import redacted
from medllm.stopping import is_sweeps_child, stop
from medllm.storage import explained_storage

if TYPE_CHECKING:
    from medllm.result import Result

Value = TypeVar("Value", int, str)

# What a file or folder of the user's is, and is not meant to be: another kind, not theirs, or with a name that no disk takes.
MISPLACED = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP)


def launch(main: Callable[[], Any]) -> None:
    """Runs a `@hydra.main` function behind the gates, and exits.

    Args:
        main: The decorated function; it calls `run_point`.
    """
    sys.exit(guarded(lambda: _launch(main)))


def run_script(main: Callable[[list[str]], None], text: str | None) -> NoReturn:
    """What a file of `scripts/` does when it is started: `main` behind the gates, or its own text for -h and --help."""
    if {"-h", "--help"} & set(sys.argv):
        sys.exit(guarded(lambda: print(text)))
    prepare_libraries()
    stop.listen()  # SIGTERM too then ends by way of what cleans up
    sys.exit(guarded(lambda: main(sys.argv[1:])))


def guarded(action: Callable[[], None]) -> int:
    """Runs an action and turns what it raises into a message and an exit code."""
    try:
        with explained_storage():
            action()
            sys.stdout.flush()
    except BrokenPipeError:  # who read has read enough, as `| head` does; what is still to be written goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MedLLMError as error:
        _complain(str(error), of_all=isinstance(error, ConfigError | RankError))
        return error.exit_code
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(bool(error.code))
    except OSError as error:
        if error.errno not in MISPLACED or error.filename is None:
            return _defect()
        fix = "name another file or folder, or put that one right"
        _complain(f"{error.filename}: {os.strerror(error.errno)}\n    fix: {fix}")
        return 1
    except Exception:
        return _defect()
    return 0


def _defect() -> int:
    """Of medllm or of a library: its traceback as Python would show it, but for secrets."""
    print(redacted(traceback.format_exc()), end="", file=sys.stderr)
    return 1


def _complain(text: str, *, of_all: bool = True) -> None:
    """Tells on stderr why the program ends. What all ranks come to, rank 0 tells alone."""
    text = redacted(text)  # an error may quote a file or a library
    if ranks.is_main():
        print(f"medllm: {text}", file=sys.stderr)
    elif not of_all:
        print(f"medllm: rank {ranks.rank()}: {text}", file=sys.stderr)


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
    if isinstance(default, int) and not is_whole_number(value):
        _complain(f"{name}={value}: is no whole number\n    allowed: {DIGITS}, such as {name}={default}")
        raise SystemExit(2)
    return rest, type(default)(value)


# Python makes no number of thousands of digits; the longest that anybody needs is a seed of 64 bits.
MOST_DIGITS = 100
DIGITS = f"digits 0 to 9, at most {MOST_DIGITS}"


def is_whole_number(text: str) -> bool:
    """Whether it is of `DIGITS`: others count as digits, too, and are no number to Python, or one that nobody meant."""
    return text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS


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
                _refuse_held(plan.points[0].conf, plan.run_dir)  # before Hydra writes to it
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
    """Calls Hydra's main; what it refuses becomes a ConfigError, and so does a folder that it cannot make."""
    try:
        with explained_storage():
            main()
    except OSError as error:
        if error.filename is None:
            raise
        raise ConfigError(Fault("hydra.run.dir", f"cannot be used: {error.strerror}", str(error.filename))) from None
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # the last: a wrong mix of Hydra's flags
        raise ConfigError(explain(error, overrides)) from None


def run_point(config: DictConfig) -> float:
    """Trains one composed configuration inside Hydra, writes its result and returns the objective.

    Raises:
        PointFailedError: in a sweep, if the point failed; it carries a reason and no frames, because Hydra keeps it until
            the sweep ends, and a traceback would keep the point's model.
    """
    prepare_libraries()  # again, for points in processes of their own
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    sweeping = hydra_config.mode is RunMode.MULTIRUN
    from medllm.models.preflight import degraded
    from medllm.run_folder import RESULT, STOP, lock_run, read_result, write_result

    if sweeping:
        stop.file = folder.parent / STOP
        done = read_result(folder)
        objective = done.get("objective")
        if done.get("status") in ("FINISHED", "PRUNED") and objective is not None:  # an engine started it again
            return float(objective)
        if is_sweeps_child() and not config.trainer.use_cpu:
            claim_gpu(stop.requested)
        if stop.requested():
            write_result(folder, "NOT STARTED", reason="the sweep was stopped")
            raise PointFailedError("the sweep was stopped before this point")
        return _train_to_the_end(config, folder, sweeping=True)
    lock = lock_run(folder)
    try:
        conf, _ = degraded(to_run_conf(config))
        _refuse_held(conf, folder)
        (folder / RESULT).unlink(missing_ok=True)  # gives way to this one's
        return _train_to_the_end(config, folder, sweeping=False)
    finally:
        lock.release()


def _refuse_held(conf: RunConf, folder: Path) -> None:
    """A folder takes one run, which goes on there if it was ended before its time."""
    from medllm.run_folder import read_result, require_readable
    from medllm.sameness import refuse_other_run

    if read_result(folder).get("status") == "FINISHED":
        raise ConfigError(Fault("hydra.run.dir", "holds a run already", str(folder), fix="choose another folder"))
    require_readable(folder)
    refuse_other_run(conf, folder)


def _train_to_the_end(config: DictConfig, folder: Path, *, sweeping: bool) -> float:
    """See `run_point`."""
    from medllm.experiment import free_memory  # imports what touches CUDA: only after a GPU is claimed
    from medllm.publication.publish import publish_trained
    from medllm.run_folder import write_result

    stop.listen()
    reason = ""
    try:
        with stop.no_other_exit():  # also before there is a record, and after
            result, conf = _train(config, folder, sweeping=sweeping)
    except (KeyboardInterrupt, SystemExit):
        write_result(folder, "KILLED", reason="interrupted")
        if is_sweeps_child():
            reason = "interrupted"  # the process that runs the sweep decides what it means
        else:
            raise
    except PointPrunedError as error:
        write_result(folder, "PRUNED", objective=error.loss, reason=str(error))
        console.print(f"pruned {folder.name}: {error}")
        traceback.clear_frames(error.__traceback__)
        return error.loss
    except Exception as error:
        known = isinstance(error, MedLLMError)
        reason = redacted(in_brief(error))
        frames = redacted(traceback.format_exc())
        with contextlib.suppress(OSError):  # on a full disk the reason is still told
            write_result(folder, "FAILED", reason=reason)
            (folder / "traceback.txt").write_text(frames, encoding="utf-8")
        if not known:
            print(frames, end="", file=sys.stderr)
        if not sweeping:
            if known:
                raise
            raise SystemExit(1) from None
        traceback.clear_frames(error.__traceback__)
    finally:
        free_memory()
    if reason:
        raise PointFailedError(reason)
    _tell(result, conf, folder, sweeping=sweeping)
    if conf.hub.push_to_hub and ranks.is_main():  # last, so that a refused upload costs nothing
        say("uploaded", publish_trained(conf, folder / "artifact"))
    return result.objective


def _train(config: DictConfig, folder: Path, *, sweeping: bool) -> "tuple[Result, RunConf]":
    from medllm.experiment import check, run_training
    from medllm.models.preflight import degraded
    from medllm.result import result_metrics
    from medllm.run_folder import STUDY, SWEEP, SweepFile, write_result

    conf, missing = degraded(to_run_conf(config))
    check([Point((), conf)])
    options = {group: str(option) for group, option in HydraConfig.get().runtime.choices.items() if group in SCHEMAS}
    if missing:
        options["quantization"] = "none"
    parent_id = SweepFile.load(folder.parent).parent_id if sweeping and (folder.parent / SWEEP).is_file() else ""
    report = None
    if sweeping and (folder.parent / STUDY).is_file() and conf.trainer.objective == LOSS:  # what is pruned by
        from medllm.sweep.study import reporter  # imports optuna

        report = reporter(folder)

    def conclude(result: "Result") -> None:
        write_result(
            folder,
            "FINISHED",
            objective=result.objective,
            metrics=result_metrics(result),
            run_id=result.run_id,
            aim=result.aim,
            choices=options,
        )

    result = run_training(
        conf,
        folder,
        parent_id=parent_id,
        choices=options,
        missing=missing,
        is_point=sweeping,
        report=report,
        conclude=conclude,
    )
    return result, conf


def _tell(result: "Result", conf: RunConf, folder: Path, *, sweeping: bool) -> None:
    """The last words of a run that has finished, which it stays whatever ends them: a signal, a closed pipe."""
    from medllm.summary import print_point, print_run
    from medllm.sweep.rates import rate_of, write_rate

    if ranks.world_size() == 1 and result.train_seconds:  # plans are of one process, and learn nothing from no step
        write_rate(conf, rate_of(result, folder.name))
    if sweeping:
        print_point(folder.name, result)
    else:
        shown = {"artifact": str(result.artifact)}
        if isinstance(conf.tracking, MlflowConf):
            shown["run"] = f"{result.run_id} in {conf.tracking.tracking_uri}"
        print_run(result, shown)
