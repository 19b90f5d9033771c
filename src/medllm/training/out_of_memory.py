"""What a run does where its device runs out of memory: less at once, and the same result.

    training      the optimizer step begins again with half the rows in a micro-batch and twice as many micro-batches; at one row,
                  layers are recomputed. A loss per supervised token does not depend on how a step is cut.
    evaluation    begins again with half the rows in a batch

What was learned stays for the rest of the run, and its checkpoints know it.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import torch
from transformers import TrainerCallback

from medllm import ranks
from medllm.config.lora import PrefixTuningConf
from medllm.config.run import RunConf
from medllm.console import say
from medllm.tracking.memory import is_out_of_memory

Found = TypeVar("Found")


@dataclass(frozen=True)
class Size:
    """How much a run computes at once: keys of the `trainer` group, and what the fused engine makes of them.

    Attributes:
        per_device_train_batch_size: Rows of a micro-batch; with the fused engine, at the least.
        gradient_accumulation_steps: Micro-batches of an optimizer step.
        per_device_eval_batch_size: Rows of an evaluation's batch.
        gradient_checkpointing: Whether layers are recomputed.
        below: The fused engine takes a plan that needs less than these bytes; None leaves it to what is free.
    """

    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    per_device_eval_batch_size: int
    gradient_checkpointing: bool
    below: int | None = None

    @classmethod
    def of(cls, conf: RunConf, known: Mapping[str, Any] | None = None) -> "Size":
        """A run's at its beginning.

        Args:
            conf: The run's, `trainer.gradient_checkpointing` decided.
            known: What the checkpoint that it goes on from says of its own; it holds where an optimizer step takes as many rows.
        """
        trainer = conf.trainer
        own = cls(
            trainer.per_device_train_batch_size,
            trainer.gradient_accumulation_steps,
            trainer.per_device_eval_batch_size,
            bool(trainer.gradient_checkpointing),
        )
        if known is None:
            return own
        learned = cls(**known)
        smaller = learned.per_device_train_batch_size <= own.per_device_train_batch_size
        return learned if smaller and learned.rows == own.rows else own

    @property
    def rows(self) -> int:
        """Of an optimizer step."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    def smaller(self, conf: RunConf, plan_bytes: int | None) -> "Size | None":
        """What to try where this was too much; None if nothing is left.

        Args:
            conf: As its user wrote it: `trainer.gradient_checkpointing=false` is kept to.
            plan_bytes: Of the fused engine's plan that did not fit; None without it.
        """
        rows = self.per_device_train_batch_size
        if rows > 1:
            parts = next(n for n in range(2, rows + 1) if rows % n == 0)
            more = self.gradient_accumulation_steps * parts
            return replace(
                self, per_device_train_batch_size=rows // parts, gradient_accumulation_steps=more, below=plan_bytes
            )
        if plan_bytes is not None:
            return replace(self, below=plan_bytes)
        may_recompute = conf.trainer.gradient_checkpointing is None and not isinstance(conf.lora, PrefixTuningConf)
        if may_recompute and not self.gradient_checkpointing:
            return replace(self, gradient_checkpointing=True)
        return None

    def applied(self, conf: RunConf) -> RunConf:
        """A run that computes so much at once."""
        values = {name: value for name, value in asdict(self).items() if name != "below"}
        return replace(conf, trainer=replace(conf.trainer, **values))

    def __str__(self) -> str:
        rows, count = self.per_device_train_batch_size, self.gradient_accumulation_steps
        plural = "" if rows == 1 else "s"
        return f"{count} x {rows} row{plural}{', layers recomputed' if self.gradient_checkpointing else ''}"


class StepBeginning(TrainerCallback):
    """The random state in which the optimizer step under way began, so that it can begin again.

    Attributes:
        states: Of the CPU and of the device; None where a step cannot begin again, since it is being applied.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.states: tuple[torch.Tensor, torch.Tensor | None] | None = None

    def remember(self) -> None:
        """Here a step begins."""
        on_gpu = self.device.type == "cuda"
        self.states = torch.get_rng_state(), torch.cuda.get_rng_state(self.device) if on_gpu else None

    def restore(self) -> None:
        """Random numbers are again those of the beginning."""
        assert self.states is not None
        cpu, device = self.states
        torch.set_rng_state(cpu)
        if device is not None:
            torch.cuda.set_rng_state(device, self.device)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the data loader draws, which it does again where the epoch begins again."""
        self.remember()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Within an epoch; its first step begins with the epoch."""
        if not float(state.epoch or 0.0).is_integer():
            self.remember()


def in_smaller_batches(rows: int, attempt: Callable[[int], Found]) -> Found:
    """What an evaluation comes to with so many rows in a batch, or with as many as memory takes.

    Ranks take no smaller batches: they would have to run out of memory at the same time.

    Args:
        rows: To begin with.
        attempt: Evaluates from the beginning; takes the rows of a batch.
    """
    while True:
        try:
            return attempt(rows)
        except RuntimeError as error:
            if rows == 1 or ranks.world_size() > 1 or not is_out_of_memory(error):
                raise
        rows //= 2  # here the error, which holds the batch, has gone
        torch.cuda.empty_cache()
        say("memory", f"the device ran out of it; evaluating again in batches of {rows}")
