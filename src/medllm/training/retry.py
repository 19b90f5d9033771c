"""Trains, and takes a step again with less at once where the device runs out of memory.

The run goes on as any other does from a checkpoint: the state at the step's beginning is saved, and a new trainer, with a data
loader, an optimizer and an engine of its own, goes on from it. So nothing is left of the step that failed, and what follows is
bit for bit what a run of this size makes of that checkpoint.
"""

import gc
import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

from medllm import ranks
from medllm.config.run import RunConf
from medllm.console import say
from medllm.data.pipeline import Datasets
from medllm.errors import DeviceMemoryError
from medllm.tracking.memory import is_out_of_memory
from medllm.training.fitting import expected_peak_gib, limit_name, smaller_overrides
from medllm.training.out_of_memory import Size
from medllm.training.resumption import COUNTERS
from medllm.training.trainer import MedTrainer


def train(
    build: Callable[[RunConf, int | None], MedTrainer],
    conf: RunConf,
    asked: RunConf,
    datasets: Datasets,
    checkpoint: str | None = None,
    retried: Callable[[str], None] = lambda text: None,
) -> MedTrainer:
    """A trainer that has trained to the end, or until it was told to stop.

    Args:
        build: Makes a trainer of a run, with a fused engine that needs less than so many bytes, or what is free.
        conf: With `trainer.gradient_checkpointing` decided.
        asked: As its user wrote it.
        datasets: The run's.
        checkpoint: To go on from.
        retried: Takes what was done so far, to record, at each retry.

    Raises:
        DeviceMemoryError: if the device runs out of memory and nothing smaller is left, or where a step cannot begin again, which
            several ranks would have to do together.
    """
    size = Size.of(conf, _known(checkpoint))
    began: float | None = None
    done: list[str] = []
    while True:
        trainer = build(size.applied(conf), size.below)
        trainer.size, trainer.began = asdict(size), began
        reason = _out_of_memory(trainer, checkpoint)
        if not reason:
            return trainer
        began = trainer.began
        size = replace(size, per_device_eval_batch_size=trainer.args.per_device_eval_batch_size)
        smaller = size.smaller(asked, trainer.engine.plan.peak if trainer.engine else None)
        if smaller is None or not trainer.can_step_back or ranks.world_size() > 1:
            raise DeviceMemoryError(_told(trainer, size, reason, size.applied(conf), datasets))
        text = f"step {trainer.state.global_step + 1}: {reason}: {size} become {smaller}"
        say("memory", text)
        done.append(text)
        retried("; ".join(done))
        size = smaller
        checkpoint = str(trainer.step_back(asdict(size)))
        del trainer
        gc.collect()
        torch.cuda.empty_cache()


def _known(checkpoint: str | None) -> dict[str, int | None] | None:
    """The size that a checkpoint says; None where it says none."""
    path = Path(checkpoint or "") / COUNTERS
    found: dict[str, int | None] | None = json.loads(path.read_text()).get("size") if path.is_file() else None
    return found


def _out_of_memory(trainer: MedTrainer, checkpoint: str | None) -> str:
    """Trains; what the device said where it ran out of memory, else nothing.

    The error itself would keep the step's tensors alive.
    """
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return str(error).split(". ")[0].rstrip(".")
    finally:
        if trainer.engine is not None:
            trainer.engine.release()
    return ""


def _told(trainer: MedTrainer, size: Size, reason: str, conf: RunConf, datasets: Datasets) -> str:
    """Why it ends here, what the run was estimated to need, and what would make it smaller."""
    why = f"nothing smaller is left than {size}"
    if not trainer.can_step_back:
        why = "only what comes before an update, and an evaluation, can be done again with less at once"
    if ranks.world_size() > 1:
        reason = f"{reason} on rank {ranks.rank()} of {ranks.world_size()}"
        why = "a run in several processes takes no step again with less at once"
    # What is expected is of weights that are not sharded.
    peak = math.nan if conf.trainer.fsdp else expected_peak_gib(conf, datasets)
    estimate = "not known" if math.isnan(peak) else f"{peak:.2g} GiB at its peak"
    return (
        f"step {trainer.state.global_step + trainer.can_step_back}: {reason}; {why}\n"
        f"    estimate: {estimate}, of the {limit_name(conf)}\n"
        f"    fix: {smaller_overrides(conf)}"
    )
