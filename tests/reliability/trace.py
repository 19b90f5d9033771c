"""What a run did, step by step: `train.py` in a process of its own that writes down every micro-step."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medllm.artifact import sha256

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("traced_train.py")
# A run that a test waits for longer hangs.
PATIENCE = 900.0


@dataclass
class Run:
    """A run in a process of its own.

    Attributes:
        pid: Of the process.
        log: What it says.
        started: `time.monotonic()` when it was.
        code: How it ended, negative for a signal; None while it runs.
        seconds: How long it took.
    """

    pid: int
    log: Path
    runs: "Runs"
    started: float
    code: int | None = None
    seconds: float = 0.0

    def send(self, signum: int) -> None:
        """A signal, if it still runs."""
        if self.code is None:
            os.kill(self.pid, signum)

    def ended(self) -> bool:
        """Whether it has ended; does not wait."""
        return self.code is not None or self.runs.poll(self)

    def wait(self) -> int:
        """Its exit code, negative for a signal."""
        until = time.monotonic() + PATIENCE
        while not self.ended():
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.002)
        assert self.code is not None
        return self.code


class Runs:
    """Forks runs from a process that has all libraries loaded and has computed nothing, so that one costs little.

        run = runs.start(line, trace)       # a process that can be killed; one at a time
        run.wait()
        read_trace(trace)

    Args:
        folder: For what the runs say.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.count = 0
        environment = {**os.environ, "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, str(SCRIPT), "--serve"]
        pipe = subprocess.PIPE
        self.server = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=folder, env=environment)
        assert self.server.stdout is not None
        os.set_blocking(self.server.stdout.fileno(), False)

    def start(self, line: list[str], trace: Path, cut: str = "") -> Run:
        """A run of `python train.py LINE`.

        Args:
            line: Its arguments.
            trace: File that micro-steps are added to.
            cut: See `killer.install`.
        """
        self.count += 1
        log = self.folder / f"run-{self.count}.log"
        assert self.server.stdin is not None
        job = {"line": line, "trace": str(trace), "cut": cut, "log": str(log)}
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        return Run(int(self._answer()), log, self, time.monotonic())

    def run(self, line: list[str], trace: Path, cut: str = "") -> Run:
        """The same, to its end."""
        run = self.start(line, trace, cut)
        run.wait()
        return run

    def poll(self, run: Run) -> bool:
        """Takes note of a run's end."""
        assert self.server.stdout is not None
        answer = self.server.stdout.readline()
        if not answer:
            assert self.server.poll() is None, "the process that runs are forked from has died"
            return False
        run.code, run.seconds = int(answer), time.monotonic() - run.started
        return True

    def _answer(self) -> str:
        assert self.server.stdout is not None
        until = time.monotonic() + PATIENCE
        while not (answer := self.server.stdout.readline()):
            assert time.monotonic() < until, "no run was started"
            time.sleep(0.002)
        return answer

    def close(self) -> None:
        """Ends the warm process."""
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait(timeout=60)


def command(line: list[str]) -> list[str]:
    """The same run as a command of its own; `environment` says what else it needs."""
    return [sys.executable, str(SCRIPT), *line]


def environment(trace: Path, cut: str = "") -> dict[str, str]:
    """Of a traced run that is not forked."""
    return {**os.environ, "COLUMNS": "200", "MEDLLM_TRACE": str(trace), "MEDLLM_CUT": cut}


def read_trace(trace: Path) -> dict[tuple[int, int], set[tuple[str, str, float]]]:
    """By step and micro-batch: the loss in hexadecimal, a digest of the samples, and the learning rate.

    A step that was done again, because a run was killed before it was saved, must have come to the same: then every set has one.
    """
    found: dict[tuple[int, int], set[tuple[str, str, float]]] = {}
    for step, micro, *values in map(json.loads, trace.read_text().splitlines()):
        if micro >= 0:
            found.setdefault((step, micro), set()).add((values[0], values[1], values[2]))
    return found


def saved(trace: Path) -> int:
    """The newest step whose checkpoint was complete; 0 if none was."""
    lines = map(json.loads, trace.read_text().splitlines()) if trace.is_file() else ()
    return max((step for step, micro, *_ in lines if micro == -1), default=0)


def weights_digest(folder: Path) -> str:
    """SHA-256 of what a run trained."""
    return sha256(next((folder / "artifact").glob("*model.safetensors")))


def outcome(folder: Path, trace: Path) -> Any:
    """All that two equal runs must have in common, down to the last bit."""
    return read_trace(trace), weights_digest(folder)
