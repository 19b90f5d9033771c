"""Chooses what computes a training step: the fused engine where it can, else transformers and peft."""

import math
from typing import Any

import psutil
import torch

from medllm import ranks
from medllm.config.quantization import FourBitConf
from medllm.config.run import RunConf
from medllm.config.trainer import Engine, Optimizer
from medllm.console import say
from medllm.data.collate import FlatCollator
from medllm.data.pipeline import Datasets, Side
from medllm.errors import ConfigError, DeviceMemoryError, Fault
from medllm.models.base import pick_device
from medllm.models.fused.engine import FusedEngine
from medllm.models.fused.obstacle import obstacle_of_conf, obstacle_of_model
from medllm.models.fused.plan import GIB, Plan, Sizes, evaluation_bytes, plans
from medllm.tracking.memory import device_memory_gib, resident_gib
from medllm.training.metrics import LOGITS_BYTES

# Bytes that optimizers keep of each weight. Adafactor is absent: it works on a matrix's rows and columns, which one flat
# parameter does not have.
STATE_BYTES = {
    Optimizer.adamw_torch: 8,
    Optimizer.adamw_torch_fused: 8,
    Optimizer.adamw_8bit: 2,
    Optimizer.paged_adamw_32bit: 8,
    Optimizer.paged_adamw_8bit: 2,
    Optimizer.sgd: 0,
}
# Memory that the plan leaves alone: workspaces of the matrix library, and what fragmentation takes.
RESERVE = 0.5 * GIB


def build_engine(
    conf: RunConf, model: Any, datasets: Datasets, device: str, below: int | None = None
) -> FusedEngine | None:
    """The fused engine, sized and tried on the longest micro-batch; None for the plain path. Says which, and why.

    All ranks compute their steps alike, or one would have more micro-batches than the others: a plan fits where it fits all.

    Args:
        conf: The run's.
        model: With its adapter.
        datasets: The run's.
        device: Of the model.
        below: Only a plan that needs less than these bytes, since one of so many did not fit.

    Raises:
        ConfigError: if `trainer.engine=fused` and this run cannot be.
        DeviceMemoryError: if no plan fits.
    """
    reason = engine_obstacle(conf, model, device)
    if reason:
        if conf.trainer.engine is Engine.fused:
            raise ConfigError(_refusal(reason))
        say("engine", f"plain: {reason}")
        return None
    side = datasets.train
    budget = min(ranks.gather(_budget(conf, device)))
    found = step_plans(conf, model, datasets, device)
    for plan, needed in found:
        if needed > budget or (below is not None and plan.peak >= below):
            continue
        engine = None
        try:
            engine = FusedEngine(model, plan, int(side.samples.lengths.max()))
            if device != "cpu":
                engine.warm_up(_longest_batch(side, plan, engine.step.max_length, device))
            fits = True
        except torch.OutOfMemoryError:  # the prediction was too low: the next one needs less
            fits = False
        if not all(ranks.gather(fits)):
            if engine is not None:
                engine.release()
            engine = None
            torch.cuda.empty_cache()
            continue
        assert engine is not None
        say("engine", f"fused: {plan}; {plan.peak / GIB:.1f} GiB beside the model")
        return engine
    least = min(needed for _, needed in found)
    budget = min(budget, math.inf if below is None else below)
    raise DeviceMemoryError(
        f"training needs {least / GIB:.1f} GiB beside the model at the least, {max(budget, 0) / GIB:.1f} GiB are to be had\n"
        "    fix: a smaller trainer.per_device_train_batch_size or data.max_length, or a higher trainer.max_memory_gib"
    )


def step_plans(conf: RunConf, model: Any, datasets: Datasets, device: str) -> list[tuple[Plan, int]]:
    """Every way to compute this run's optimizer steps, fastest first, and the bytes it needs beside the model.

    What an evaluation needs is counted too: beside a CUDA graph, whose memory is its own, or else instead of the activations.

    Args:
        conf: Of a run without obstacle.
        model: With its adapter; shapes are enough.
        datasets: The run's.
        device: Of the run.
    """
    trainer = conf.trainer
    sizes = Sizes.of(model, quantized=isinstance(conf.quantization, FourBitConf))
    found = plans(
        sizes,
        datasets.train.row_sums(datasets.train.samples.lengths),
        rows=trainer.per_device_train_batch_size * trainer.gradient_accumulation_steps,
        least_rows=trainer.per_device_train_batch_size,
        state_bytes=STATE_BYTES[trainer.optim],
        on_gpu=device != "cpu",
    )
    evaluation = _evaluation_bytes(datasets.eval, trainer.per_device_eval_batch_size, sizes)
    return [
        (plan, plan.peak + evaluation if plan.graphs else max(plan.peak, plan.lasting + evaluation))
        for plan in found
        if plan.keep.recomputes_layers or not trainer.gradient_checkpointing
    ]


def _evaluation_bytes(side: Side | None, rows: int, sizes: Sizes) -> int:
    """Of the largest batch, or of the logits at its supervised positions: as computed, in float32, and once more for the loss."""
    if side is None:
        return 0
    positions = sum(sorted(side.row_sums(side.samples.supervised))[-rows:])
    lengths = side.row_sums(side.samples.lengths)
    tokens = max(lengths) * min(rows, len(lengths))  # padded rows are as long as the longest
    logits = min(positions * sizes.vocabulary * (sizes.element + 8), LOGITS_BYTES)
    return max(evaluation_bytes(sizes, tokens), logits)


def flat_collator(side: Side, plan: Plan, max_length: int) -> FlatCollator:
    """For micro-batches of a plan."""
    samples = sum(sorted(len(row) for row in side.rows)[-plan.rows :])
    return FlatCollator(plan.multiple, samples + -(-plan.multiple // max_length), max_length)


def engine_faults(conf: RunConf) -> list[Fault]:
    """Why `trainer.engine=fused` is refused, as far as that can be said before the model is loaded."""
    if conf.trainer.engine is not Engine.fused:
        return []
    reason = _obstacle_of_conf(conf, pick_device(conf.trainer.use_cpu))
    return [_refusal(reason)] if reason else []


def engine_obstacle(conf: RunConf, model: Any, device: str) -> str:
    """Why the plain path computes this run's steps; empty if the fused engine does."""
    return _obstacle_of_conf(conf, device) or obstacle_of_model(model, conf.data.max_length)


def _obstacle_of_conf(conf: RunConf, device: str) -> str:
    if conf.trainer.engine is Engine.plain:
        return "trainer.engine=plain"
    if conf.trainer.optim not in STATE_BYTES:
        return f"trainer.optim={conf.trainer.optim.value}"
    return obstacle_of_conf(conf, device)


def _refusal(reason: str) -> Fault:
    return Fault("trainer.engine", f"does not go with this run: {reason}", "fused", fix="trainer.engine=auto")


def _budget(conf: RunConf, device: str) -> float:
    """Bytes that training may add."""
    limit = conf.trainer.max_memory_gib
    if device == "cpu":
        used = resident_gib() * GIB
        free = min(psutil.virtual_memory().available, device_memory_gib(device) * GIB - used)
    else:
        torch.cuda.empty_cache()
        used, free = torch.cuda.memory_allocated(device), torch.cuda.mem_get_info(device)[0]
    return min(free - RESERVE, limit * GIB - used if limit is not None else free)


def _longest_batch(side: Side, plan: Plan, max_length: int, device: str) -> dict[str, torch.Tensor]:
    lengths = side.row_sums(side.samples.lengths)
    order = sorted(range(len(lengths)), key=lengths.__getitem__)[-plan.rows :]
    batch = flat_collator(side, plan, max_length)([side.dataset[i] for i in order])
    return {name: value.to(device) for name, value in batch.items()}
