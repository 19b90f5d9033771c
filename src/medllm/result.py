"""What a run returns, and its numbers under the names of the run record."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from medllm.config.trainer import LOSS
from medllm.errors import NonFiniteError
from medllm.inference.generate import Answer
from medllm.training.metrics import EvalMetrics


@dataclass(frozen=True)
class Result:
    """What a run returns.

    Attributes:
        name: Of the run.
        folder: The run's folder.
        artifact: The artifact's folder.
        run_id: In the run record; empty without tracking.
        before: Held-out metrics of the base model; None without held-out data.
        after: The same of the tuned model.
        answers_before: Sample answers of the base model.
        answers_after: Sample answers of the tuned model.
        train_loss: Mean training loss of all steps since the start or the resume.
        steps: Optimizer steps.
        seconds: Of the whole run.
        startup_seconds: Until the first optimizer step; all of the run where it took none.
        train_seconds: In training steps.
        tokens_per_second: Tokens trained on, padding left out, per second in training steps.
        supervised_tokens_per_second: Those of them that carry a label.
        peak_memory_gib: Of the process, or of the GPU.
        trainable: Trained parameters.
        total: All parameters.
        suites: Figures of `trainer.eval_suites` at the last evaluation, by the names of the run record.
        aim: Name of what a sweeper optimises.
        aim_sign: -1 where that improves upward: sweepers minimise.
    """

    name: str
    folder: Path
    artifact: Path
    run_id: str
    before: EvalMetrics | None
    after: EvalMetrics | None
    answers_before: list[Answer]
    answers_after: list[Answer]
    train_loss: float
    steps: int
    seconds: float
    startup_seconds: float
    train_seconds: float
    tokens_per_second: float
    supervised_tokens_per_second: float
    peak_memory_gib: float
    trainable: int
    total: int
    suites: dict[str, float] = field(default_factory=dict)
    aim: str = LOSS
    aim_sign: int = 1

    @property
    def objective(self) -> float:
        """What a sweeper minimises: held-out loss, or the training loss where nothing is held out; or what the run names."""
        if self.aim != LOSS:
            return self.aim_sign * self.suites.get(self.aim, math.nan)
        return self.after.loss if self.after else self.train_loss


def result_metrics(result: Result) -> dict[str, float]:
    """A result's numbers under the names of the run record; what is no finite number, as a speed without steps, is left out."""
    metrics: dict[str, float] = {}
    if result.before and result.after:
        metrics |= result.before.as_dict("base/") | result.after.as_dict("eval/")
    metrics |= result.suites
    metrics |= {
        "train/mean_loss": result.train_loss,
        "train/steps": result.steps,
        "perf/seconds": result.seconds,
        "perf/startup_seconds": result.startup_seconds,
        "perf/train_seconds": result.train_seconds,
        "perf/tokens_per_second": result.tokens_per_second,
        "perf/supervised_tokens_per_second": result.supervised_tokens_per_second,
        "perf/peak_memory_gib": result.peak_memory_gib,
        "model/trainable_parameters": result.trainable,
        "model/total_parameters": result.total,
    }
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def final_metrics(result: Result) -> dict[str, float]:
    """What is recorded at the end: all numbers that no log has recorded at its own step."""
    logged = {"eval/loss", "eval/perplexity", "eval/token_accuracy", "eval/num_tokens", *result.suites}
    return {name: value for name, value in result_metrics(result).items() if name not in logged}


def require_objective(result: Result) -> None:
    """A run that ends without its objective cannot be ranked, and must not pass for one that can.

    Raises:
        NonFiniteError: if the objective is no finite number.
    """
    if math.isfinite(result.objective):
        return
    if result.aim != LOSS and result.aim not in result.suites:
        said = "no answer to the items drawn came to a figure"
        fix = "a larger trainer.eval_suites_items, or another objective"
    else:
        said = f"it came to {result.objective}"
        fix = "a smaller trainer.learning_rate, or another objective"
    raise NonFiniteError(
        f"trainer.objective={result.aim}: was not measured at the end, {said}; the artifact is whole, in {result.artifact}\n"
        f"    fix: {fix}"
    )
