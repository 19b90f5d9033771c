"""`python train.py` in a process of its own, bounded, and the rate that its folder tells: for benchmarks."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

TRAIN = Path(__file__).parents[1] / "train.py"


class Rate(NamedTuple):
    """Real tokens, seconds of the clock and optimizer steps after the warm-up."""

    tokens: float
    seconds: float
    steps: int


def rate_of(history: Mapping[str, Sequence[tuple[int, float]]], warm: int) -> Rate:
    """Of a run's `history.json`, with the first `warm` steps left out, as far as it logged them one by one."""
    tokens, seconds = dict(history["tokens"]), dict(history["seconds"])
    first, last = max(step for step in tokens if step <= warm), max(tokens)
    return Rate(tokens[last] - tokens[first], seconds[last] - seconds[first], last - first)


def end_on_sigterm() -> None:
    """Makes SIGTERM an exception, so that `run` ends what it has started."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def run(command: Sequence[str], log: Path, limit: float, **environment: str) -> tuple[str, float]:
    """Runs a process group; returns why it failed, empty if it did not, and when it started (of the wall clock)."""
    started = time.time()
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **environment}, start_new_session=True
        )
        try:
            code = process.wait(max(limit, 1))
        except subprocess.TimeoutExpired:
            _kill(process)
            return f"longer than {limit:.0f} s", started
        except BaseException:
            _kill(process)
            raise
    return (f"exit status {code}" if code else ""), started


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Ends a process group, and what left it: torchrun gives each of its processes a group of its own."""
    descendants = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    for descendant in descendants:
        with contextlib.suppress(psutil.NoSuchProcess):
            descendant.kill()
    process.wait()


def tail(path: Path, lines: int = 15) -> str:
    """The end of a log, long lines cut."""
    return "\n".join(line[:300] for line in path.read_text(errors="replace").splitlines()[-lines:])
