"""Whether the points of a sweep fit their device."""

from collections.abc import Collection, Sequence
from itertools import accumulate

import torch

from medllm.config.plan import Plan, Point
from medllm.errors import Fault
from medllm.models.base import pick_device
from medllm.sweep.outlook import Outlook
from medllm.tracking.memory import device_memory_gib
from medllm.training.fitting import device_name, memory_fault


def memory_faults(plan: Plan, prices: Sequence[Outlook], left: Collection[str]) -> list[Fault]:
    """Points that need more than all memory of their device, and processes that together do.

    What other programs use at the moment is not looked at: they may end, and the device remains.

    Args:
        plan: Its points, and where they run.
        prices: One per point.
        left: Keys of the points to be run.
    """
    if plan.elsewhere:
        return []
    faults = []
    pairs = [pair for pair in zip(plan.points, prices, strict=True) if pair[1].key in left]
    for point, price in pairs:
        faults += memory_fault(point.conf, price.memory_gib, ", ".join(point.overrides) or point.conf.name)
    return faults or _shared_faults(plan.processes, pairs)


def _shared_faults(processes: int, pairs: Sequence[tuple[Point, Outlook]]) -> list[Fault]:
    """Processes share the memory of the machine, and that of its GPU where it has only one."""
    devices = {pick_device(point.conf.trainer.use_cpu) for point, _ in pairs}
    if processes < 2 or len(devices) != 1 or (devices != {"cpu"} and torch.cuda.device_count() > 1):
        return []
    largest = sorted((price.memory_gib for _, price in pairs if price.memory_gib > 0), reverse=True)[:processes]
    total = device_memory_gib(next(iter(devices)))
    fitting = sum(gib <= total for gib in accumulate(largest))
    if fitting == len(largest):
        return []
    needs = f"points at once need about {sum(largest):.1f} GiB together"
    allowed = f"at most the {device_name(devices.pop())}"
    return [Fault("hydra.launcher.n_jobs", needs, str(processes), allowed, f"hydra.launcher.n_jobs={fitting}")]
