"""Trainers that can be ended anywhere: what they count over resumes, whole checkpoints, and steps that begin again."""

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import Trainer
from transformers.integrations.neftune import deactivate_neftune
from transformers.trainer_callback import TrainerState

from medllm import ranks
from medllm.config.trainer import Strategy, TrainerConf
from medllm.errors import ConfigError, Fault
from medllm.models.fused.engine import FusedEngine
from medllm.training.callbacks import NonFiniteGuard
from medllm.training.checkpoint import (
    STAGING,
    checkpoints,
    clear_staging,
    commit,
    discard,
    empty_staging,
    fault,
    rotate,
    step_of,
)
from medllm.training.out_of_memory import StepBeginning

# The Trainer's numbers that transformers does not keep, beside its own state in a checkpoint.
COUNTERS = "counters.json"


class Progress(NamedTuple):
    """How far training was at a training log; what is logged next is the difference to it."""

    step: int = 0
    num_tokens: int = 0
    num_supervised_tokens: int = 0
    loss_sum: float = 0.0
    train_seconds: float = 0.0


class ResumableTrainer(Trainer):
    """Overrides, each with its reason.

    log: adds throughput; the loss is the mean of the steps since the last log, also if a resume lies between.
    train, _save_checkpoint, _get_output_dir: keep the numbers below over a resume; stage and seal checkpoints.
    _load_rng_state: a step that begins with a checkpoint's random state may have to begin again.

    Attributes:
        engine: Computes training steps; None leaves them to transformers and peft.
        guard: Stops at what is not finite; read before a checkpoint is saved, whoever asked for one.
        num_tokens: Tokens that all ranks trained on, padding left out (int64 scalar on the device).
        num_supervised_tokens: Those of them that carry a label.
        loss_sum: Sum of the losses of all optimizer steps (float64 scalar on the device).
        train_seconds: Time from the start to the end of optimizer steps, evaluation and checkpoints left out; the guard's
            synchronisation lies inside, so that work queued on a GPU counts. Kept by `StepTimer`.
        began: `time.perf_counter()` at this process's first optimizer step; None before. Kept by `StepTimer`.
        size: How much is computed at once, where memory decided it: `Size` by name, for checkpoints.
    """

    def __init__(self, *, conf: TrainerConf, engine: FusedEngine | None, **arguments: Any):
        self.conf, self.engine = conf, engine
        super().__init__(**arguments)
        self.guard = NonFiniteGuard(self)
        self.add_callback(self.guard)
        self._beginning = StepBeginning(self.args.device)
        self.add_callback(self._beginning)
        self.num_tokens = torch.zeros((), dtype=torch.int64, device=self.args.device)
        self.num_supervised_tokens = torch.zeros((), dtype=torch.int64, device=self.args.device)
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.args.device)
        self.train_seconds = 0.0
        self.began: float | None = None
        self.size: dict[str, Any] | None = None
        self._logged = Progress()
        self._saved = -1  # step of this run's newest checkpoint
        self._staging: Path | None = None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds tokens per second since the last training log, and takes the loss from the sum that checkpoints keep."""
        if "loss" in logs:
            now, last = self._progress(self.state.global_step), self._logged
            seconds = now.train_seconds - last.train_seconds
            logs["loss"] = (now.loss_sum - last.loss_sum) / max(now.step - last.step, 1)
            if seconds > 0:
                logs["tokens_per_second"] = (now.num_tokens - last.num_tokens) / seconds
                supervised = now.num_supervised_tokens - last.num_supervised_tokens
                logs["supervised_tokens_per_second"] = supervised / seconds
            if self.began is not None:  # rates over any stretch of the run, also with what lies between steps
                logs |= {"num_tokens": now.num_tokens, "elapsed_seconds": time.perf_counter() - self.began}
            self._logged = now
        if "eval_loss" in logs:  # a run that goes on may evaluate a step again
            history, step = self.state.log_history, self.state.global_step
            history[:] = [entry for entry in history if "eval_loss" not in entry or entry["step"] != step]
        super().log(logs, start_time)

    def _progress(self, step: int) -> Progress:
        counts = (int(self.num_tokens), int(self.num_supervised_tokens))
        return Progress(step, *counts, float(self.loss_sum), self.train_seconds)

    @property
    def mean_train_loss(self) -> float:
        """Over all optimizer steps, those before a resume included; transformers' own leaves them out."""
        return float(self.loss_sum) / max(self.state.global_step, 1)

    def train(self, resume_from_checkpoint: Any = None, **arguments: Any) -> Any:
        """Trains, going on with the numbers of the checkpoint where there is one."""
        self._saved = -1
        if resume_from_checkpoint:
            self._restore(Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **arguments)

    def forget_step(self) -> None:
        """Nothing is left of what the optimizer step under way has added up."""
        self.model.zero_grad(set_to_none=True)

    @property
    def can_step_back(self) -> bool:
        """Whether the optimizer step under way has changed nothing yet that is kept over steps."""
        return self._beginning.states is not None

    def step_back(self, size: dict[str, Any]) -> Path:
        """Forgets the optimizer step under way, and saves a checkpoint of its beginning; the model is as it was given.

        Args:
            size: What goes on from there is to compute at once.
        """
        self.forget_step()
        self._beginning.restore()
        self.size, self.state.train_batch_size = size, size["per_device_train_batch_size"]
        self._saved = -1  # also where the step has a checkpoint, which is of another size
        self._save_checkpoint(self.model, None)
        if self.neftune_noise_alpha is not None:
            deactivate_neftune(self.model, self.neftune_hook_handle, self.accelerator)
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        return Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        self._beginning.remember()

    def _restore(self, checkpoint: Path) -> None:
        path = checkpoint / COUNTERS
        counters = json.loads(path.read_text()) if path.is_file() else {}
        self._refuse_other_engine(counters.pop("engine", "plain"), checkpoint)
        self._refuse_other_world(counters.pop("world_size", 1), checkpoint)
        counters.pop("size", None)
        logged = counters.pop("logged", None)
        self.train_seconds = counters.pop("train_seconds", 0.0)
        for name, value in counters.items():
            getattr(self, name).fill_(value)
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        # A checkpoint that does not say what was logged last is taken as just logged.
        self._logged = Progress(*logged) if logged else self._progress(state.global_step)
        if checkpoint.resolve().parent == Path(self.args.output_dir).resolve():
            self._saved = state.global_step
        self.args.eval_on_start = self._evaluation_due(state)

    def _evaluation_due(self, state: TrainerState) -> bool:
        """Whether a checkpoint was saved before the evaluation of its step.

        After the last step always: losses by conversation and figures of suites are in no checkpoint.
        """
        strategy, step = self.args.eval_strategy, state.global_step
        if strategy == Strategy.no.value or self.eval_dataset is None:
            return False
        by_steps = strategy == Strategy.steps.value
        due = step % state.eval_steps == 0 if by_steps else float(state.epoch or 0).is_integer()
        evaluated = any("eval_loss" in entry and entry["step"] == step for entry in state.log_history)
        return (due and not evaluated) or step >= state.max_steps

    @property
    def _engine_name(self) -> str:
        return "plain" if self.engine is None else "fused"

    def _refuse_other_engine(self, name: str, checkpoint: Path) -> None:
        """The two keep their optimizer's state in different shapes."""
        if name != self._engine_name:
            problem = f"differs from the {name} one that wrote {checkpoint}"
            fix = f"trainer.engine={name}, or begin anew in another folder"
            raise ConfigError(Fault("trainer.engine", problem, self._engine_name, fix=fix))

    def _refuse_other_world(self, size: int, checkpoint: Path) -> None:
        """Each rank's random numbers are its own: another number of them drops out something else."""
        if size != self.args.world_size:
            problem = f"was written by {size} processes, this run has {self.args.world_size}"
            fix = f"torchrun --nproc_per_node={size} train.py ..." if size > 1 else "python train.py ..."
            raise ConfigError(Fault("trainer.resume_from_checkpoint", problem, str(checkpoint), fix=fix))

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging or self.args.output_dir)

    def keep(self) -> None:
        """Saves a checkpoint of where training is, unless there is one."""
        self._save_checkpoint(self.model, None)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self._saved == self.state.global_step:
            return
        self.guard.read(self.args)  # a stop may have asked for this after the guard looked whether to read
        folder = Path(self.args.output_dir)
        self._staging = folder / STAGING
        try:
            if ranks.is_main():
                empty_staging(folder)
            ranks.wait()
            super()._save_checkpoint(model, trial)
            ranks.wait()  # each rank writes its random state
            if ranks.is_main():
                self._complete(folder / STAGING / f"checkpoint-{self.state.global_step}")
        except BaseException:
            if ranks.is_main():
                clear_staging(folder)  # on a full disk it takes what others need
            raise
        finally:
            self._staging = None
        ranks.wait()
        self._saved = self.state.global_step

    def _complete(self, staged: Path) -> None:
        """Adds the Trainer's own numbers, puts the checkpoint in its place, and lets old ones go."""
        names = ("num_tokens", "num_supervised_tokens", "loss_sum")
        counters = {name: getattr(self, name).item() for name in names}
        counters |= {"train_seconds": self.train_seconds, "logged": self._logged}
        counters |= {"engine": self._engine_name, "world_size": self.args.world_size}
        if self.size is not None:
            counters["size"] = {**self.size, "per_device_eval_batch_size": self.args.per_device_eval_batch_size}
        (staged / COUNTERS).write_text(json.dumps(counters))
        folder = commit(staged).parent
        for path in checkpoints(folder):  # later ones that are damaged were passed over at the resume
            if step_of(path) > self.state.global_step and fault(path):
                discard(path)
        rotate(folder, self.conf.save_total_limit)
        clear_staging(folder)
