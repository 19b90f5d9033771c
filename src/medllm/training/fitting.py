"""Whether a run fits its device, known before a weight is loaded."""

import math

import torch

from medllm.config.lora import NoAdapterConf
from medllm.config.quantization import NoQuantizationConf
from medllm.config.run import RunConf
from medllm.data.pipeline import Datasets
from medllm.errors import ConfigError, Fault
from medllm.models.base import pick_device
from medllm.tracking.memory import device_memory_gib, resident_gib
from medllm.training.memory_estimate import GIB, estimate_memory

# Memory of a process on a CPU per byte of what comes and goes in a step: freed blocks stay with it, and the more steps, the more
# of them (LOG.md, "memory on a CPU"). Where a run of the kind has been measured, that counts.
RESIDENT = 1.6


def expected_peak_gib(conf: RunConf, datasets: Datasets, process_gib: float) -> float:
    """A run's peak in GiB, of the process on a CPU and of the tensors on a GPU; NaN where it cannot be told.

    Args:
        conf: Checked.
        datasets: The run's.
        process_gib: Memory of the process before its first run: libraries, which a run has beside its tensors.
    """
    device = pick_device(conf.trainer.use_cpu)
    estimate = estimate_memory(conf, datasets, device)
    if estimate is None:
        return math.nan
    if device != "cpu":
        return estimate.gib
    return process_gib + (estimate.weights + RESIDENT * estimate.activations) / GIB


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


def refuse_too_large(conf: RunConf, datasets: Datasets) -> None:
    """Stops a run that cannot fit, while that costs nothing yet.

    Raises:
        ConfigError: with the expected peak, the limit, and what would make the run smaller.
    """
    peak = expected_peak_gib(conf, datasets, resident_gib())
    if peak > memory_limit_gib(conf):
        problem = f"needs about {peak:.1f} GiB at its peak"
        raise ConfigError(Fault("trainer", problem, allowed=f"at most the {limit_name(conf)}", fix=memory_fix(conf)))


def memory_fix(conf: RunConf) -> str:
    """Overrides that would make a run smaller and are not in force yet, to show."""
    trainer, size = conf.trainer, conf.trainer.per_device_train_batch_size
    fixes = []
    if size > 1:
        steps = trainer.gradient_accumulation_steps * size
        fixes.append(f"trainer.per_device_train_batch_size=1 trainer.gradient_accumulation_steps={steps}")
    if not trainer.gradient_checkpointing:
        fixes.append("trainer.gradient_checkpointing=true")
    if isinstance(conf.quantization, NoQuantizationConf):
        adapter = "lora=default " if isinstance(conf.lora, NoAdapterConf) else ""
        fixes.append(f"{adapter}quantization=nf4_double")
    return ", ".join([*fixes, f"a data.max_length below {conf.data.max_length}"])
