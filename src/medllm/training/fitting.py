"""Whether a run fits its device, known before a weight is loaded."""

import functools
import math
from dataclasses import replace

import torch

from medllm.config.lora import LoraConf, NoAdapterConf, PrefixTuningConf
from medllm.config.quantization import NoQuantizationConf
from medllm.config.run import RunConf
from medllm.data.pipeline import Datasets
from medllm.errors import Fault
from medllm.models.base import pick_device
from medllm.models.fused.plan import GIB
from medllm.tracking.memory import device_memory_gib, resident_gib
from medllm.training.memory_estimate import MemoryEstimate, estimate_memory

# Memory of a process on a CPU per byte of what comes and goes in a step, since freed blocks stay with it, and what it has beside
# that: compiled kernels, plots, what grows over the steps. Fitted to eleven kinds of run (LOG.md, "memory on a CPU"). Where a run
# of the kind has been measured, that counts.
RESIDENT, BESIDE_GIB = 1.2, 0.35

# Estimates of this process: points of a sweep that differ in a rate only have one in common.
_estimates: dict[str, MemoryEstimate | None] = {}


@functools.cache
def process_gib() -> float:
    """Memory of this process before its first run: libraries, which a run has beside its tensors."""
    return resident_gib()


def memory_kind(conf: RunConf) -> str:
    """Equal for runs on the same data whose peaks are the same but for chance."""
    trainer = conf.trainer
    sizes = (
        trainer.per_device_train_batch_size,
        trainer.per_device_eval_batch_size,
        trainer.gradient_accumulation_steps,
    )
    precision = (trainer.bf16, trainer.fp16, trainer.gradient_checkpointing, trainer.use_cpu)
    rest = (trainer.optim, trainer.engine, trainer.max_memory_gib, trainer.neftune_noise_alpha)
    return repr((conf.model, conf.quantization, conf.lora, conf.data, sizes, precision, rest))


def expected_peak_gib(conf: RunConf, datasets: Datasets) -> float:
    """A run's peak in GiB, of the process on a CPU and of the tensors on a GPU; NaN where it cannot be told.

    Args:
        conf: Checked.
        datasets: The run's.
    """
    device, key = pick_device(conf.trainer.use_cpu), memory_kind(conf) + datasets.fingerprint
    if key not in _estimates:
        _estimates[key] = estimate_memory(conf, datasets, device)
    estimate = _estimates[key]
    if estimate is None:
        return math.nan
    if device != "cpu":
        return estimate.gib
    return process_gib() + BESIDE_GIB + (estimate.weights + RESIDENT * estimate.activations) / GIB


def fitted(conf: RunConf, datasets: Datasets) -> tuple[RunConf, float]:
    """The run with `trainer.gradient_checkpointing` decided, and its expected peak in GiB.

    Args:
        conf: Checked.
        datasets: The run's.
    """
    asked = conf.trainer.gradient_checkpointing
    choices = [asked] if asked is not None else [False, True]
    if asked is None and isinstance(conf.lora, PrefixTuningConf):
        choices = [False]  # recomputed layers would not see the prefix
    if asked is None and conf.trainer.fsdp:
        choices = [True]  # what sharded weights need at the peak is not told before
    for choice in choices:
        decided = replace(conf, trainer=replace(conf.trainer, gradient_checkpointing=choice))
        peak = expected_peak_gib(decided, datasets)
        if not peak > memory_limit_gib(conf):
            break
    return decided, peak


def memory_limit_gib(conf: RunConf) -> float:
    """What a run may need at most: the memory of its device, or `trainer.max_memory_gib`.

    What other programs use at the moment is not looked at: they may end, and the device remains.
    """
    limit = conf.trainer.max_memory_gib
    return min(device_memory_gib(pick_device(conf.trainer.use_cpu)), math.inf if limit is None else limit)


def device_name(device: str) -> str:
    """A device and its memory, to show."""
    name = "this machine" if device == "cpu" else torch.cuda.get_device_name(device)
    return f"{device_memory_gib(device):.1f} GiB of {name}"


def limit_name(conf: RunConf) -> str:
    """The limit of a run, to show."""
    device = pick_device(conf.trainer.use_cpu)
    if memory_limit_gib(conf) < device_memory_gib(device):
        return f"{conf.trainer.max_memory_gib:g} GiB of trainer.max_memory_gib"
    return device_name(device)


def memory_fault(conf: RunConf, peak_gib: float, name: str) -> list[Fault]:
    """A run that cannot fit: its expected peak, the limit, and what would make it smaller.

    Args:
        conf: As `fitted` returns it.
        peak_gib: Likewise.
        name: Of the run, to show.
    """
    if not peak_gib > memory_limit_gib(conf):
        return []
    problem = f"needs about {peak_gib:.1f} GiB at its peak"
    return [Fault(name, problem, allowed=f"at most the {limit_name(conf)}", fix=smaller_overrides(conf))]


def smaller_overrides(conf: RunConf) -> str:
    """Overrides that would make a run smaller and are not in force yet, to show."""
    trainer, size = conf.trainer, conf.trainer.per_device_train_batch_size
    fixes = []
    if size > 1:
        steps = trainer.gradient_accumulation_steps * size
        fixes.append(f"trainer.per_device_train_batch_size=1 trainer.gradient_accumulation_steps={steps}")
    if trainer.gradient_checkpointing is False and not isinstance(conf.lora, PrefixTuningConf):
        fixes.append("trainer.gradient_checkpointing=true")
    if isinstance(conf.quantization, NoQuantizationConf):
        adapter = "lora=default " if isinstance(conf.lora, NoAdapterConf) else ""
        fixes.append(f"{adapter}quantization=nf4_double")
    if isinstance(conf.lora, LoraConf):
        fixes.append(f"a lora.r below {conf.lora.r}")
    return ", ".join([*fixes, f"a data.max_length below {conf.data.max_length}", "a smaller model"])
