"""One GPU per process, where several processes of one machine run points of a sweep.

Every process sees all GPUs and would take the first, or spread one model over all of them. The others of a machine are kept
out by a locked file per GPU, which the system opens again when its process ends, however that comes.
"""

import os
import platform
import time
from collections.abc import Callable

from filelock import FileLock, Timeout

from medllm.cache import cache_dir
from medllm.console import console
from medllm.errors import ConfigError, Fault

_held: list[FileLock] = []


def visible_gpus() -> list[str]:
    """This process's GPUs by the names that CUDA_VISIBLE_DEVICES takes; CUDA is not initialised by asking."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in named.split(",")] if named is not None else map(str, range(count))
    return list(names)[:count]


def claim_gpu(stopped: Callable[[], bool]) -> None:
    """Takes a free one of several GPUs for this process until it ends; call it before anything touches CUDA.

    Waits while none is free. Does nothing where the process sees one GPU or none, as after an earlier claim.

    Args:
        stopped: Ends the waiting.
    """
    names = visible_gpus()
    if len(names) < 2:
        return
    folder = cache_dir() / "gpus"
    folder.mkdir(parents=True, exist_ok=True)
    told = False
    while not stopped():
        for name in names:
            lock = FileLock(folder / f"{platform.node()}-{name.replace('/', '-')}.lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            _held.append(lock)
            os.environ["CUDA_VISIBLE_DEVICES"] = name
            return
        if not told:
            console.print(f"waiting for one of {len(names)} GPUs, which other points use")
            told = True
        time.sleep(1)


def refuse_sharing(processes: int) -> None:
    """Several GPUs, and more processes than that: one that waits would wait for processes that end with the sweep.

    Raises:
        ConfigError: with the number that fits.
    """
    count = len(visible_gpus())
    if 1 < count < processes:
        fix = f"hydra.launcher.n_jobs={count}"
        raise ConfigError(Fault("hydra.launcher.n_jobs", f"is {processes} processes for {count} GPUs", fix=fix))
