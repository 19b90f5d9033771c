"""One run, or one point of a sweep, as Hydra calls it: its folder, its result, and how it ended."""

import contextlib
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from medllm import ranks
from medllm.command import report
from medllm.config.plan import Point
from medllm.config.run import RunConf
from medllm.config.store import SCHEMAS
from medllm.config.tracking import MlflowConf
from medllm.config.trainer import LOSS
from medllm.config.validate import to_run_conf
from medllm.console import console, say
from medllm.errors import ConfigError, Fault, MedLLMError, PointFailedError, PointPrunedError, in_brief
from medllm.gpus import claim_gpu
from medllm.libraries import prepare_libraries
from medllm.redaction import redacted
from medllm.stopping import is_sweeps_child, stop

if TYPE_CHECKING:
    from medllm.result import Result


def run_point(config: DictConfig) -> float:
    """Trains one composed configuration inside Hydra, writes its result and returns the objective.

    Raises:
        SystemExit: of a single run that failed, with its exit code, after it has told why.
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
        refuse_held(conf, folder)
        (folder / RESULT).unlink(missing_ok=True)  # gives way to this one's
        return _train_to_the_end(config, folder, sweeping=False)
    except MedLLMError as error:
        raise SystemExit(report(error)) from error  # Hydra has words of its own for any other, and says them first
    finally:
        lock.release()


def refuse_held(conf: RunConf, folder: Path) -> None:
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
