"""A model's way through training: trainers are built, retried, stopped and pruned, and the end is evaluated."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from medllm import ranks
from medllm.config.run import RunConf
from medllm.data.pipeline import Datasets
from medllm.foundation import Ground
from medllm.inference.generate import Answer
from medllm.inference.samples import Samples
from medllm.models.fused.engine import FusedEngine
from medllm.stopping import StopRequested, stop
from medllm.tracking.record import Record
from medllm.training.arguments import build_arguments
from medllm.training.callbacks import ProgressBar, Pruning, Recorder, SampleAnswers, StepTimer, StopOnRequest
from medllm.training.engine import build_engine
from medllm.training.metrics import EvalMetrics
from medllm.training.retry import train
from medllm.training.trainer import MedTrainer

if TYPE_CHECKING:
    from medllm.evaluation.training import TrainingSuites

Thing = TypeVar("Thing")

# What is said to a request that comes when all is computed.
FINISHING = "the artifact is being written, which ends the run"


class Learning:
    """Of one run.

    Args:
        model: From `attach_adapter`.
        ground: Of the run.
        asked: The run as its user wrote it.
        checkpoints: Folder of them.
        record: Of the run.
        samples: Takes sample answers.
        suites: Asked at each evaluation beside the loss, if any.
        report: Of a search: takes step and held-out loss at every evaluation, returns whether to give the point up.
    """

    def __init__(
        self,
        model: Any,
        ground: Ground,
        asked: RunConf,
        checkpoints: Path,
        record: Record,
        samples: Samples,
        suites: "TrainingSuites | None",
        report: Callable[[int, float], bool] | None,
    ):
        self._model, self._ground, self._asked = model, ground, asked
        self._checkpoints, self._record, self._samples = checkpoints, record, samples
        self._stopping = StopOnRequest(stop.requested)
        self._pruning = Pruning(report or (lambda step, loss: False))
        self._beside: list[Any] = [self._stopping, self._pruning]
        if suites is not None:
            self._beside.insert(0, SampleAnswers(lambda step: suites.take(model, step)))

    @property
    def stopped(self) -> bool:
        """Whether it was asked to stop, and has saved where it is."""
        return self._stopping.stopped

    @property
    def pruned(self) -> float | None:
        """The held-out loss at which the search gave it up; None if it did not."""
        return self._pruning.loss

    def train(self, checkpoint: str | None) -> MedTrainer:
        """The trainer, when it has trained to the end or was stopped or pruned.

        Args:
            checkpoint: To go on from.
        """
        datasets, device = self._ground.datasets, self._ground.device
        with ProgressBar() as progress, stop.deferred("stopping after this step, with a checkpoint"):

            def build(conf: RunConf, below: int | None) -> MedTrainer:
                engine = build_engine(conf, self._model, datasets, device, below)
                trainer = build_trainer(
                    self._model, conf, datasets, self._checkpoints, self._record, self._samples, engine
                )
                for callback in (*self._beside, progress):
                    trainer.add_callback(callback)
                return trainer

            return train(
                build,
                self._ground.conf,
                self._asked,
                datasets,
                checkpoint,
                lambda text: self._record.set_tags({"memory.retries": text}),
            )

    def judge(self, trainer: MedTrainer) -> tuple[EvalMetrics | None, list[Answer]]:
        """Held-out metrics and sample answers of the trained model; a request to stop cuts them short and saves."""
        after, answers = None, []
        with stop.deferred("stopping now, with a checkpoint"):
            with contextlib.suppress(StopRequested), _cut_short():
                after = final_evaluation(trainer) if self._ground.datasets.eval else None
                answers = self._samples.take(self._model, trainer.state.global_step)
            if self._stopping.asked():
                trainer.keep()
                self._stopping.stopped = True
        return after, answers


def build_trainer(
    model: Any,
    conf: RunConf,
    datasets: Datasets,
    checkpoints: Path,
    record: Record,
    samples: Samples,
    engine: FusedEngine | None,
) -> MedTrainer:
    """A MedTrainer with its engine, recorder and samples."""
    if conf.trainer.gradient_checkpointing and engine is None:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    trainer = MedTrainer(
        conf=conf.trainer,
        datasets=datasets,
        model=model,
        args=build_arguments(conf.trainer, checkpoints, conf.seed, engine.plan if engine else None),
        engine=engine,
        processing_class=samples.renderer.tokenizer,
    )
    trainer.add_callback(StepTimer(trainer))
    trainer.add_callback(Recorder(record.log_metrics))
    if conf.generation.sample_at_evaluation:
        trainer.add_callback(SampleAnswers(lambda step: samples.take(model, step)))
    return trainer


def final_evaluation(trainer: MedTrainer) -> EvalMetrics:
    """Metrics of the trained model; the last evaluation's if this process made it after the last step."""
    last: dict[str, Any] = next((entry for entry in reversed(trainer.state.log_history) if "eval_loss" in entry), {})
    if last.get("step") != trainer.state.global_step or trainer.eval_losses is None:
        last = trainer.evaluate()
    return EvalMetrics(**{name: last[f"eval_{name}"] for name in EvalMetrics.__dataclass_fields__})


def _cut_short() -> contextlib.AbstractContextManager[None]:
    """Several ranks would not be cut short at the same place."""
    return stop.cutting_short() if ranks.world_size() == 1 else contextlib.nullcontext()


def uninterrupted(work: Callable[[], Thing]) -> Thing:
    """What the work comes to; a request to stop before its end ends the run, which has nothing to save yet."""
    try:
        with stop.cutting_short():
            done = work()
            stop.check()
    except StopRequested:
        stop.raise_now()
    return done
