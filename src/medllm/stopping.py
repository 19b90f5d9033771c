"""Ctrl-C and SIGTERM: the first lets a training step end and be saved, the second stops at once.

Points of a sweep may run in other processes and on other machines, so a sweep asks them to stop with a file that they look
for after every step.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from medllm.console import console
from medllm.errors import ExitedError

# After which a signal that was dropped is delivered again; the finalizer in which it struck is over by then.
AGAIN_SECONDS = 0.05

# The process that runs a sweep: points in its child processes leave Ctrl-C, which a terminal sends to all of them, to it.
OWNER = "MEDLLM_SWEEP_PID"


def is_sweeps_child() -> bool:
    """Whether another process runs the sweep that this process runs a point of."""
    return os.environ.get(OWNER, str(os.getpid())) != str(os.getpid())


class StopRequested(Exception):  # noqa: N818, what it says is no error
    """Work that may be cut short ends here: somebody asked this process to stop."""


class Stop:
    """Whether somebody asked this process to stop, and what may still be finished then.

    Attributes:
        signum: The signal that asked; 0 if none did.
        file: Where a sweep asks.
    """

    def __init__(self) -> None:
        self.signum = 0
        self.file: Path | None = None
        self._deferring = False
        self._cutting = False
        self._on_request = ""

    def requested(self) -> bool:
        """Whether to stop after this step."""
        return self.signum != 0 or (self.file is not None and self.file.exists())

    def raise_now(self) -> NoReturn:
        """Ends the run as the signal would have: KeyboardInterrupt, or SystemExit with code 128 + signal."""
        if self.signum == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def bounded(self) -> Iterator[None]:
        """What is deferred within it is so no longer than it is open."""
        before = (self._deferring, self._on_request)
        try:
            yield
        finally:
            self._deferring, self._on_request = before

    def defer(self, message: str) -> None:
        """From now on the first signal only asks; `message` says what will be finished."""
        self._deferring, self._on_request = True, message

    @contextlib.contextmanager
    def deferred(self, message: str) -> Iterator[None]:
        """While it is open, the first signal only asks; see `defer`."""
        with self.bounded():
            self.defer(message)
            yield

    @contextlib.contextmanager
    def cutting_short(self) -> Iterator[None]:
        """Within it, work that asks between its parts (`check`) ends as soon as a stop is requested.

        Raises:
            StopRequested: from that work.
        """
        before, self._cutting = self._cutting, True
        try:
            yield
        finally:
            self._cutting = before

    def check(self) -> None:
        """Between two parts of work that may be cut short; elsewhere it does nothing."""
        if self._cutting and self.requested():
            raise StopRequested

    @contextlib.contextmanager
    def no_other_exit(self) -> Iterator[None]:
        """Whoever exits while nobody asked to stop has failed, and must not pass for an interruption.

        Raises:
            ExitedError: instead of that SystemExit.
        """
        try:
            yield
        except SystemExit as error:
            if self.requested():
                raise
            raise ExitedError(f"ended itself with code {error.code}") from error

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """A signal handler."""
        first, self.signum = self.signum == 0, signum
        if first and self._deferring:
            if self.file is not None:
                self.file.touch()
            console.print(f"\n{self._on_request}; once more stops at once")
            return
        self.raise_now()

    def listen(self) -> None:
        """Takes over the process's signals; does nothing outside the main thread, where Python allows no handler."""
        if threading.current_thread() is not threading.main_thread():
            return
        signal.signal(signal.SIGTERM, self.handle)
        signal.signal(signal.SIGINT, signal.SIG_IGN if is_sweeps_child() else self.handle)
        sys.unraisablehook = self.not_swallowed

    def not_swallowed(self, found: "sys.UnraisableHookArgs") -> None:
        """Delivers a signal again that struck in a finalizer, where Python drops what is raised."""
        if self.signum and isinstance(found.exc_value, SystemExit | KeyboardInterrupt):
            threading.Timer(AGAIN_SECONDS, os.kill, [os.getpid(), self.signum]).start()
        else:
            sys.__unraisablehook__(found)


stop = Stop()
