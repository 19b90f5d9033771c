"""Peak memory since the last reset: of the GPU where there is one, else of the process."""

import contextlib
import resource
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


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
