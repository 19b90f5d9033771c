"""What happens beside training: the guard against non-finite numbers, progress, the record, sample answers."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback

from medllm import ranks
from medllm.console import console
from medllm.errors import NonFiniteError

# The Trainer's names and ours. What is missing here is not recorded.
METRIC_NAMES = {
    "loss": "train/loss",
    "grad_norm": "train/grad_norm",
    "learning_rate": "train/learning_rate",
    "epoch": "train/epoch",
    "tokens_per_second": "perf/tokens_per_second",
    "supervised_tokens_per_second": "perf/supervised_tokens_per_second",
    "eval_loss": "eval/loss",
    "eval_perplexity": "eval/perplexity",
    "eval_token_accuracy": "eval/token_accuracy",
    "eval_num_tokens": "eval/num_tokens",
    "eval_runtime": "perf/eval_seconds",
}

# Overflows in a row that a loss scaler may need to find its scale: it starts at 2^16 and halves at each.
PATIENCE = 24


class NonFiniteGuard(TrainerCallback):
    """Stops before the optimizer step that would write NaN or infinity into the weights.

    One synchronisation with the device per optimizer step; none where the optimizer itself skips such a step on the device, as
    torch's fused AdamW does for loss scalers. What was skipped is then reported at the next step, or where this one is
    logged, evaluated or saved.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.overflows = 0
        self.unread: tuple[int, torch.Tensor, list[torch.Tensor]] | None = None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Raises: NonFiniteError: naming the step, what is not finite, and the conversations in whose micro-batch it is."""
        self.read(args)
        gradients = self.trainer.gradients()
        norms = torch.stack([norm.to(args.device) for norm in torch._foreach_norm(gradients)]) if gradients else None
        loss = self.trainer.step_loss
        checks = torch.stack([loss, norms.float().sum() if norms is not None else torch.zeros_like(loss)])
        ranks.add_up(checks)  # all ranks judge alike
        self.unread = state.global_step + 1, checks, self.trainer.step_losses
        optimizer = self.trainer.skipping_optimizer
        if optimizer is None:
            self.read(args)
        else:
            optimizer.found_inf = (~checks.isfinite()).any().float()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Raises: NonFiniteError: as above, before anything is told or kept of this step."""
        ends = control.should_log or control.should_evaluate or control.should_save or control.should_training_stop
        if ends or state.global_step >= state.max_steps:
            self.read(args)

    def read(self, args: Any) -> None:
        """Judges the newest step, if that was left for later; raises as above."""
        if self.unread is None:
            return
        (step, checks, losses), self.unread = self.unread, None
        loss_value, gradient_value = checks.tolist()
        self.overflows = 0 if math.isfinite(gradient_value) else self.overflows + 1
        if args.fp16 and self.overflows < PATIENCE:
            gradient_value = 0.0  # the loss scaler sees the overflow too, skips the step and lowers its scale
        faults = [
            f"the {name} is {value}"
            for name, value in (("loss", loss_value), ("gradient norm", gradient_value))
            if not math.isfinite(value)
        ]
        if faults:
            raise NonFiniteError(
                f"step {step}: {' and '.join(faults)}; stopped before the weights were updated\n"
                f"    where: {self.trainer.where(step, losses)}\n"
                "    fix: a lower trainer.learning_rate, more trainer.warmup_steps, or model.dtype=bfloat16 instead of float16"
            )


class StepTimer(TrainerCallback):
    """Adds the time of each optimizer step to the trainer's `train_seconds`, and notes when the first began."""

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the first micro-batch."""
        self.started = time.perf_counter()
        if self.trainer.began is None:
            self.trainer.began = self.started

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After the optimizer, before logging, evaluation and checkpoint."""
        self.trainer.train_seconds += time.perf_counter() - self.started


class StopOnRequest(TrainerCallback):
    """Ends training after the current step, evaluation or checkpoint, with a checkpoint, when it is asked to.

    Args:
        requested: Says whether to stop; called after each of them. One rank that is asked stops all of them.

    Attributes:
        stopped: Whether it did.
    """

    def __init__(self, requested: Callable[[], bool]):
        self.requested = requested
        self.stopped = False

    def asked(self) -> bool:
        """Whether any rank is asked to stop."""
        return bool(ranks.add_up(torch.tensor(int(self.requested()))))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """What would be evaluated now is left to whoever goes on, who begins with it."""
        if self.asked():
            self.stopped = control.should_save = control.should_training_stop = True
            control.should_evaluate = False

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """No step follows an evaluation in which the request came."""
        if self.asked():
            self.stopped = control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Nor a checkpoint."""
        if self.asked():
            self.stopped = control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stopped in the middle of an epoch is not at its end: nothing is evaluated or saved again."""
        if self.stopped:
            control.should_evaluate = control.should_save = control.should_log = False


class Pruning(TrainerCallback):
    """Reports held-out losses to a search, and ends training where the search gives the run up.

    Args:
        report: Takes the optimizer step and the loss; returns whether to give up.

    Attributes:
        loss: At which it was given up; None if it was not.
    """

    def __init__(self, report: Callable[[int, float], bool]):
        self.report = report
        self.loss: float | None = None

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """A loss that is not finite is no reason to prune: it is a failure, which others report."""
        loss = (metrics or {}).get("eval_loss", math.nan)
        if math.isfinite(loss) and self.report(state.global_step, loss) and state.global_step < state.max_steps:
            self.loss = loss
            control.should_training_stop, control.should_save = True, False

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Given up in the middle of an epoch is not at its end."""
        if self.loss is not None:
            control.should_evaluate = control.should_save = control.should_log = False


class Recorder(TrainerCallback):
    """Hands every logged number to the run record, by step.

    Args:
        log_metrics: Takes named metrics and the optimizer step.
    """

    def __init__(self, log_metrics: Callable[[dict[str, float], int], None]):
        self.log_metrics = log_metrics

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Translates the Trainer's names into ours. Its summary, wherever it stopped, is no log of a step."""
        if "train_runtime" in (logs or {}):
            return
        metrics = {METRIC_NAMES[name]: float(value) for name, value in (logs or {}).items() if name in METRIC_NAMES}
        if metrics:
            self.log_metrics(metrics, state.global_step)


class SampleAnswers(TrainerCallback):
    """Asks for sample answers at each evaluation.

    Args:
        sample: Takes the optimizer step.
    """

    def __init__(self, sample: Callable[[int], Any]):
        self.sample = sample

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After the metrics of this step are known."""
        self.sample(state.global_step)


class ProgressBar(TrainerCallback):
    """A progress bar on a terminal; elsewhere a line at every tenth of the way. A context manager: the bar ends with it."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[speed]} tokens/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self.tenth = -1

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts the bar."""
        self.progress.start()
        for task in self.progress.task_ids:  # of the trainer before, if memory ran out
            self.progress.remove_task(task)
        self.task = self.progress.add_task(
            "training", total=state.max_steps, completed=state.global_step, loss="-", speed="-"
        )

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Moves the bar, or prints a line where there is no terminal; prints held-out numbers always."""
        logs, step, total = logs or {}, state.global_step, state.max_steps
        if "loss" in logs:
            loss, speed = f"{logs['loss']:.3f}", f"{logs.get('tokens_per_second', 0):.0f}"
            self.progress.update(self.task, completed=step, loss=loss, speed=speed)
            if self.progress.disable and step * 10 // total != self.tenth:
                self.tenth = step * 10 // total
                console.print(f"step {step}/{total}  loss {loss}  {speed} tokens/s")
        if "eval_loss" in logs:
            accuracy = logs.get("eval_token_accuracy", math.nan)
            line = f"step {step}: held-out loss {logs['eval_loss']:.4f}, token accuracy {accuracy:.3f}"
            self.progress.console.print(line)

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()
