"""Memory of the run's device: the peak since the last reset, and what there is of it."""

import contextlib
import resource
from pathlib import Path

import psutil
import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

# Where the two versions of Linux's control groups keep the limit of the container that a process runs in.
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def reset_peak_memory(device: str) -> None:
    """Starts a new measurement, so that one point of a sweep is not charged with another's peak."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):
        CLEAR.write_text("5")  # resets the high-water mark of resident memory, see proc(5)


def peak_memory_gib(device: str) -> float:
    """Peak memory in GiB: allocated on the GPU, or resident in the process."""
    if device != "cpu":
        return float(torch.cuda.max_memory_allocated() / 2**30)
    if STATUS.is_file():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30  # bytes on macOS, where there is no /proc


def device_memory_gib(device: str) -> float:
    """All memory of the device in GiB: of the GPU, or of the machine or the container that this process runs in."""
    if device != "cpu":
        return float(torch.cuda.get_device_properties(device).total_memory / 2**30)
    limits = [path.read_text().strip() for path in LIMITS if path.is_file()]
    return float(min([psutil.virtual_memory().total, *(int(limit) for limit in limits if limit.isdigit())]) / 2**30)


def resident_gib() -> float:
    """Memory of this process in GiB, now."""
    return float(psutil.Process().memory_info().rss / 2**30)
