"""Memory of the run's device: the peak since the last reset, and what there is of it."""

import contextlib
import ctypes
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

from medllm.errors import DeviceMemoryError

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

# Where the two versions of Linux's control groups keep the limit of the container that a process runs in.
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))

# What torch, CUDA and its libraries say where memory ends; only torch's own allocator has an error of its own.
NO_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")

# Of mallopt(3): blocks from this size on are mapped by themselves.
M_MMAP_THRESHOLD, MMAP_BYTES = -3, 2**20


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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the machine, has no memory left, in whichever library's words."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in said for words in NO_MEMORY)
    )


@contextlib.contextmanager
def explained_memory(fix: str) -> Iterator[None]:
    """Turns a full device into a message that names what would take less of it.

    Raises:
        DeviceMemoryError: with this fix.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).split(". ")[0]
        raise DeviceMemoryError(f"the device ran out of memory: {reason}\n    fix: {fix}") from None


def resident_gib() -> float:
    """Memory of this process in GiB, now."""
    return float(psutil.Process().memory_info().rss / 2**30)


def trim_memory() -> None:
    """Gives what is free between glibc's blocks back to the system, once: 0.7 GiB after a run of the bundled model."""
    _glibc("malloc_trim", 0)


def return_freed_memory() -> None:
    """Makes glibc give freed tensors back to the system at once, in this process from now on; elsewhere it does nothing.

    By default blocks of less than 32 MiB stay with the process, in gaps that the next layer's tensors do not fit into: a run that
    recomputes its layers to save memory held two to three times what it used (LOG.md). Mapping memory anew takes time.
    """
    _glibc("mallopt", M_MMAP_THRESHOLD, MMAP_BYTES)


def _glibc(name: str, *arguments: int) -> None:
    """Calls a function that only glibc has; elsewhere it does nothing."""
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function is not None:
        function(*arguments)
