"""One run from configuration to artifact: the place where everything meets."""

import contextlib
import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import torch
from transformers import set_seed

from medllm import ranks
from medllm.artifact import resolved_yaml
from medllm.config.compose import resolved
from medllm.config.plan import Point
from medllm.config.rules import cross_field_faults
from medllm.config.run import RunConf
from medllm.config.store import project_root, schema_names
from medllm.config.tracking import NoTrackingConf
from medllm.config.trainer import Direction
from medllm.console import say
from medllm.conversation import Renderer
from medllm.data.pipeline import Datasets
from medllm.deposit import base_name, record_curves, record_data, record_proof, save_artifact, say_plan
from medllm.errors import ConfigError, Fault, PointPrunedError
from medllm.foundation import Measured, foundation, lay_ground, lend_base, measure_base
from medllm.inference.generate import Answer
from medllm.inference.samples import Samples
from medllm.learning import FINISHING, Learning, uninterrupted
from medllm.models.adapter import attach_adapter, changes_base, count_parameters, save_initial, save_model
from medllm.models.base import base_identity, is_at_hand, pick_device
from medllm.models.preflight import preflight_faults
from medllm.result import Result, final_metrics, require_objective
from medllm.run_folder import CONFIG, one_failure, read_record_id, write_base, write_record_id, write_whole
from medllm.sameness import refuse_other_base, refuse_other_data, refuse_other_run, refuse_other_shape
from medllm.stopping import stop
from medllm.storage import GO_ON, explained_storage, whole_folder
from medllm.tracking.build import open_record
from medllm.tracking.lineage import GitState, git_state, hardware, versions
from medllm.tracking.memory import explained_memory, peak_memory_gib, reset_peak_memory, trim_memory
from medllm.tracking.record import Opening, Record, flatten
from medllm.training.checkpoint import checkpoints, fault, newest_valid, recover
from medllm.training.engine import engine_faults
from medllm.training.fitting import smaller_overrides
from medllm.training.metrics import EvalMetrics
from medllm.training.trainer import MedTrainer

if TYPE_CHECKING:
    from medllm.evaluation.training import TrainingSuites


def check(points: Sequence[Point]) -> None:
    """Gates between groups and of the base model's skeleton, for every point before the first one loads a model.

    Raises:
        ConfigError: with all faults of all points, each once.
    """
    faults: list[Fault] = []
    for point in points:
        found = cross_field_faults(point.conf)
        if not found or is_at_hand(point.conf.model):  # nothing is downloaded for a run that is wrong already
            found = [*found, *preflight_faults(point.conf), *engine_faults(point.conf)]
        faults += [fault for fault in found if fault not in faults]
    if faults:
        raise ConfigError(faults)


def run_training(
    conf: RunConf,
    folder: Path,
    *,
    parent_id: str = "",
    choices: Mapping[str, str] | None = None,
    missing: str = "",
    is_point: bool = False,
    report: Callable[[int, float], bool] | None = None,
    conclude: Callable[[Result], None] = lambda result: None,
) -> Result:
    """Trains, evaluates and saves, as the configuration says.

    In a folder where the same run was ended before its time it goes on: from the newest complete checkpoint there, in the same
    record.

    Args:
        conf: Checked by `check`.
        folder: The run's own; artifact, checkpoints, plots and result go there. Of a rank other than 0 a place for what
            nobody reads.
        parent_id: The sweep's record, if the run is a point of one.
        choices: Option chosen of each group (`lora`: `dora`), for the run record; by default the schemas' names.
        missing: Why it trains without the quantization that was asked for, of `degraded`.
        is_point: Of a sweep: leaves the base model for the next point.
        report: Of a search: takes step and held-out loss at every evaluation, returns whether to give the point up.
        conclude: Takes the result when the record is closed, so that a request to stop does not come between the two.

    Raises:
        ConfigError: if the folder holds another run, or `trainer.resume_from_checkpoint` is damaged; nothing is written.
        PointPrunedError: if the search gave it up; the run record says KILLED, and `pruned`.
        MedLLMError: of the kind that fits; the run record says FAILED with the traceback.
    """
    started = time.perf_counter()
    device = pick_device(conf.trainer.use_cpu)
    with (
        ranks.connected(device),
        stop.bounded(),
        explained_storage(folder, GO_ON),
    ):  # and within the record, so that it has the reason in words
        reset_peak_memory(device)
        shared = ranks.of_main(folder)
        refuse_other_run(conf, shared)
        checkpoint = _checkpoint(conf, shared / "checkpoints")
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / CONFIG, resolved_yaml(conf))
        code = git_state(project_root())
        opening = _opening(conf, folder, code, parent_id, choices, missing)
        tracking = conf.tracking if ranks.is_main() else NoTrackingConf()
        with (
            open_record(tracking, opening, folder) as record,
            one_failure(shared),
            explained_storage(folder, GO_ON),
            explained_memory(smaller_overrides(conf)),
            _kept_foundation(keep=is_point),
            stop.no_other_exit(),
        ):
            if record.id:  # a point whose store is away gets it when its run is begun
                write_record_id(folder, record.id)
            record.log_artifact(folder / CONFIG)
            if code.diff:
                (folder / "uncommitted.diff").write_text(code.diff, encoding="utf-8")
                record.log_artifact(folder / "uncommitted.diff")
            result = _run(
                conf, folder, shared / "checkpoints", device, record, code.commit, started, checkpoint, report, is_point
            )
            record.log_metrics(final_metrics(result), result.steps)
            require_objective(result)  # last, so that what was trained is kept
        conclude(result)
    return result


def _opening(
    conf: RunConf, folder: Path, code: GitState, parent_id: str, choices: Mapping[str, str] | None, missing: str
) -> Opening:
    """What the record says of a run before it begins."""
    tags = {"mlflow.source.git.commit": code.commit, "git.dirty": str(code.dirty).lower(), "seed": str(conf.seed)}
    tags |= {f"version.{name}": text for name, text in versions().items()}
    tags |= {f"hardware.{name}": text for name, text in hardware().items()}
    tags |= {"folder": _display(folder), "world_size": str(ranks.world_size())}
    if missing:
        tags |= {"quant": "none", "quant.missing": missing}
    leaves = {**(choices or schema_names(conf)), **flatten(resolved(conf))}
    # A point's folder says what distinguishes it, and ends in its key.
    name = folder.name.rpartition("-")[0] if parent_id else conf.name
    return Opening(name, leaves, tags, parent_id, read_record_id(folder))


def _checkpoint(conf: RunConf, folder: Path) -> str | None:
    """What a run goes on from, of all ranks: the newest complete one of its own, or else what it was told to begin with."""

    def find() -> tuple[str | None, str]:
        recover(folder)
        own, given = newest_valid(folder), conf.trainer.resume_from_checkpoint
        if own is not None:
            say("resume", str(own))
            return str(own), ""
        if checkpoints(folder):
            say("resume", "no whole checkpoint is left: training begins anew")
        return given, fault(Path(given)) if given else ""

    if (folder.exists() or folder.is_symlink()) and not folder.is_dir():
        raise ConfigError(
            Fault("hydra.run.dir", "is to hold checkpoints in what is no folder", str(folder), fix="move it away")
        )
    found, problem = ranks.of_main(find() if ranks.is_main() else (None, ""))
    if problem:
        fix = "an earlier checkpoint of that run, or leave it out to begin anew"
        raise ConfigError(Fault("trainer.resume_from_checkpoint", problem, str(found), fix=fix))
    if found is not None and found == conf.trainer.resume_from_checkpoint:
        refuse_other_shape(conf, Path(found))
    return found


def _run(
    conf: RunConf,
    folder: Path,
    checkpoints: Path,
    device: str,
    record: Record,
    commit: str,
    started: float,
    checkpoint: str | None,
    report: Callable[[int, float], bool] | None,
    is_point: bool,
) -> Result:
    """The table of contents of a run."""
    ground = lay_ground(conf, device, refuse=not is_point)
    decided, datasets, tokenizer, renderer = ground.conf, ground.datasets, ground.tokenizer, ground.renderer
    refuse_other_data(datasets.fingerprint, datasets.counts, folder)
    identity = base_identity(conf.model)
    for place in (folder, *([Path(checkpoint).absolute().parents[1]] if checkpoint else [])):
        refuse_other_base(identity, place)
    write_base(folder, identity)
    record_data(datasets, conf, renderer, folder, record)
    suites = _suites(conf, ground.inference_renderer, datasets, record)

    base = lend_base(ground)
    measured = uninterrupted(lambda: measure_base(base, ground))
    proof, before, answers_before = measured.proof, measured.before, measured.answers
    samples = Samples(conf, ground.inference_renderer, record, folder)
    samples.put(answers_before, 0)
    record_proof(proof, folder, record)

    set_seed(conf.seed)  # before the adapter is made: its first weights are part of the seed's result
    model = attach_adapter(base, conf.lora, tokenizer.new_token_ids, base_name(conf))
    initial = None
    if changes_base(conf.lora):
        initial = folder / "initial_adapter"
        save_initial(model, initial)
    trainable, total = count_parameters(model)
    say_plan(conf, datasets, proof, trainable, total, device)

    if device == "cpu":
        trim_memory()
    learning = Learning(model, ground, conf, checkpoints, record, samples, suites, report)
    trainer = learning.train(checkpoint)
    if trainer.conf.gradient_checkpointing is not decided.trainer.gradient_checkpointing:
        foundation.clear()  # the base's layers are recomputed now
    if learning.stopped:
        _stop(folder, is_point=is_point)
    if learning.pruned is not None:
        record_curves(trainer, before, conf, folder, record)
        foundation.take_back(model, conf.lora)
        said = f"held-out loss {learning.pruned:.4f} at step {trainer.state.global_step} of {trainer.state.max_steps}"
        record.set_tags({"pruned": said})
        raise PointPrunedError(said, learning.pruned)
    after, answers_after = learning.judge(trainer)
    if learning.stopped:
        _stop(folder, is_point=is_point)

    with stop.deferred(FINISHING):
        record_curves(trainer, before, conf, folder, record)
        if trainer.eval_losses is not None:
            record.log_artifact(trainer.eval_losses.save(folder))

    result = _result(
        conf, folder, record, measured, trainer, after, answers_after, device, started, (trainable, total), suites
    )
    stop.defer(FINISHING)  # to the run's end: its artifact, its record and its folder are to say the same of it
    whole = trainer.gather_weights(getattr(torch, conf.model.dtype.value))
    if ranks.is_main():
        with whole_folder(result.artifact) as artifact:
            save_model(model, artifact, initial, whole)
            save_artifact(result, artifact, conf, tokenizer, renderer, datasets, commit)
    foundation.take_back(model, conf.lora)
    return result


def _stop(folder: Path, *, is_point: bool) -> NoReturn:
    """Ends a run that was asked to stop and has saved where it is."""
    where = "" if is_point else f" with hydra.run.dir={_display(folder)}"
    say("stopped", f"the same line{where} goes on from here")
    stop.raise_now()


def _result(
    conf: RunConf,
    folder: Path,
    record: Record,
    measured: Measured,
    trainer: MedTrainer,
    after: EvalMetrics | None,
    answers_after: list[Answer],
    device: str,
    started: float,
    parameters: tuple[int, int],
    suites: "TrainingSuites | None",
) -> Result:
    """What the run came to."""

    def rate(count: torch.Tensor) -> float:
        return int(count) / trainer.train_seconds if trainer.train_seconds else math.nan

    return Result(
        name=conf.name,
        folder=folder,
        artifact=folder / "artifact",
        run_id=record.id,
        before=measured.before,
        after=after,
        answers_before=measured.answers,
        answers_after=answers_after,
        train_loss=trainer.mean_train_loss,
        steps=trainer.state.global_step,
        seconds=time.perf_counter() - started,
        startup_seconds=(trainer.began or time.perf_counter()) - started,
        train_seconds=trainer.train_seconds,
        tokens_per_second=rate(trainer.num_tokens),
        supervised_tokens_per_second=rate(trainer.num_supervised_tokens),
        peak_memory_gib=max(ranks.gather(peak_memory_gib(device))),
        trainable=parameters[0],
        total=parameters[1],
        suites=suites.newest if suites is not None else {},
        aim=conf.trainer.objective,
        aim_sign=-1 if conf.trainer.objective_better is Direction.higher else 1,
    )


def _suites(conf: RunConf, renderer: Renderer, datasets: Datasets, record: Record) -> "TrainingSuites | None":
    """What is asked at each evaluation beside the loss; None without `trainer.eval_suites`."""
    if not conf.trainer.eval_suites:
        return None
    from medllm.evaluation.training import build_training_suites  # metrics of texts take a second to import

    return build_training_suites(conf, renderer, datasets.fingerprint, record)


def _display(folder: Path) -> str:
    """A folder's path, short where it lies below the project."""
    root = project_root()
    return str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder)


@contextlib.contextmanager
def _kept_foundation(keep: bool) -> Iterator[None]:
    """Lets the base model go after a failure, and after a run that is no point of a sweep."""
    kept = False
    try:
        yield
        kept = keep
    except PointPrunedError:
        kept = keep
        raise
    finally:
        if not kept:
            foundation.clear()


def free_memory() -> None:
    """Returns what a finished or failed run left behind, so that the next point starts with a clean device.

    joblib ends processes that grow by 300 MB from task to task, and with them the base model that they keep.
    """
    gc.collect()
    trim_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
