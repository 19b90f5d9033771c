"""Work on a long stream of batches in all processes, in order, holding only a window of it in memory."""

import gc
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain, islice
from typing import Any, TypeVar

T = TypeVar("T")
B = TypeVar("B")
R = TypeVar("R")
Work = Callable[[B], R]

BATCH = 500

_work: Work[Any, Any]


def batched(items: Iterator[T]) -> Iterator[list[T]]:
    """Lists of up to 500 items."""
    for first in items:
        yield [first, *islice(items, BATCH - 1)]


def map_batches(make: Callable[[], Work[B, R]], batches: Iterator[B], worth: int) -> Iterator[R]:
    """What the work makes of each batch, in their order.

    Args:
        make: Makes the work; called once per process, so it must be picklable.
        batches: The stream.
        worth: Number of batches from which starting processes saves time; fewer are worked off here.
    """
    few = list(islice(batches, worth))
    batches = chain(few, batches)
    processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if len(few) < worth or processes == 1:
        yield from map(make(), batches)
        return
    del few
    # Spawned, not forked: a fork of a process whose libraries run threads can lock up.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _start, (make,)) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for batch in batches:
                waiting.append(pool.submit(_run, batch))
                if len(waiting) > 3 * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start(make: Callable[[], Work[Any, Any]]) -> None:
    global _work
    _work = make()
    # The work makes many objects and no cycles: looking for some in all that was loaded takes a tenth of the time.
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


def _run(batch: Any) -> Any:
    return _work(batch)
