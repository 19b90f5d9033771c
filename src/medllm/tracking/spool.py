"""What a run has to say, on its way to the store: into a file first, from which a thread sends it.

Training waits for no store. An entry is a line of JSON in the run's folder before anything is sent, so that neither a store that
is away nor a killed process loses it, and entries arrive in their order. When all have arrived the file is emptied, and removed
at the end; what is left in it after that is sent by `replay`.
"""

import errno
import io
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from medllm.console import console, say
from medllm.tracking.entries import Entry, calls, describe, line_of, whole_lines

# Brings entries to the store, in one call; told whether an earlier try may have brought them already.
Deliver = Callable[[Sequence[Entry], bool], None]

# Seconds between tries while the store is away: twice as long each time.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 15.0
# Bytes read at once of what is left.
CHUNK = 2**20
# Tries of what the store does not take although it answers.
TRIES = 3


class NotDeliveredError(Exception):
    """Entries have not arrived, or it is not known whether they have.

    Attributes:
        answers: Whether the store is there all the same.
        fix: What its user must do where time alone changes nothing.
    """

    def __init__(self, reason: str, *, answers: bool, fix: str = ""):
        super().__init__(reason)
        self.answers, self.fix = answers, fix


class Spool:
    """A run's file of entries and the thread that sends them.

    Args:
        path: Where the file is. What an earlier process left in it goes first, and its head stays until that has arrived.
        head: What `replay` needs to know to send what is left: store and run.
        deliver: Called in the thread only; raises NotDeliveredError.
        told: What the store is called in messages.
        patience: Seconds that the run waits for the store where nothing arrives, in all.
    """

    def __init__(self, path: Path, head: Entry, deliver: Deliver, told: str, patience: float):
        self._path, self._deliver, self._told, self._patience = path, deliver, told, patience
        path.parent.mkdir(parents=True, exist_ok=True)
        self._head = line_of(head)
        left = whole_lines(path)
        self._file = path.open("r+b" if left else "w+b", buffering=0)
        self._changed = threading.Condition()
        self._cut(sum(left))
        self._sent = left[0] if left else len(self._head)  # bytes, like the next two
        self._written = self._doubted = sum(left) or len(self._head)
        self._backlog: list[Entry] = []  # what a full disk did not take yet
        self._asked = self._in_vain = 0  # calls of `flush`, and the last one after which a try failed
        self._waited = 0.0  # seconds, for a store that has not answered since
        self._away = self._kept = self._degraded = self._closed = False
        self._thread = threading.Thread(target=self._work, name="medllm-tracking", daemon=True)
        self._thread.start()

    def append(self, entry: Entry) -> None:
        """Takes an entry; returns when it is in the file, or waits for a disk that takes it. A closed spool takes none."""
        with self._changed:
            if self._closed:
                return
            self._backlog.append(entry)
            try:
                while self._backlog:
                    self._write(line_of(self._backlog[0]))
                    del self._backlog[0]
            except OSError as error:
                if len(self._backlog) == 1:
                    console.print(f"tracking: {self._path} cannot be written now: {error.strerror}")
            self._changed.notify_all()

    def flush(self) -> bool:
        """Waits until everything has arrived; no longer than a try takes if the store is away. Whether it has."""
        with self._changed:
            self._asked += 1
            asked = self._asked
            self._changed.notify_all()
            while self._sent < self._written and self._in_vain < asked and self._waited < self._patience:
                sent, began = self._sent, time.monotonic()
                self._changed.wait(self._patience - self._waited)
                if self._sent == sent:
                    self._waited += time.monotonic() - began
            return self._sent == self._written

    def close(self) -> None:
        """Flushes, ends the thread, and removes the file, or tells what is left in it and how to send it."""
        arrived = self.flush()
        with self._changed:
            if self._backlog:
                self._bring(arrived)
            self._closed = True
            self._changed.notify_all()
            self._file.close()
            if self._sent == self._written and not self._kept:
                self._path.unlink(missing_ok=True)
                return
        say("tracking", f"degraded: {self._told} has not got everything; what it lacks is in {self._path}")
        say("", f"when the store is back: python scripts/replay.py run={self._path.parent}")

    def _bring(self, there: bool) -> None:
        """Sends what no disk took from memory, in its order; what cannot be sent now is lost, and told.

        Args:
            there: Whether the store has everything else.
        """
        for entry in self._backlog:
            try:
                if not there:
                    raise NotDeliveredError("neither disk nor store takes it", answers=False)
                self._deliver([entry], False)
            except NotDeliveredError as error:
                console.print(f"tracking: {describe(entry)} not recorded: {error}")

    def _write(self, line: bytes) -> None:
        """A whole line or nothing, the first one with the head before it."""
        start = self._file.tell()  # a signal may have kept the last call from counting what it wrote
        line = line if start else self._head + line
        if self._file.write(line) < len(line):
            self._cut(start)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._written = self._file.tell()

    def _cut(self, size: int) -> None:
        os.ftruncate(self._file.fileno(), size)
        self._file.seek(size)

    def _work(self) -> None:
        failures = 0
        while (following := self._next()) is not None:
            entries, end, asked = following
            try:
                self._deliver(entries, failures > 0 or end <= self._doubted)
            except NotDeliveredError as error:
                failures += 1
                if not error.answers or failures < TRIES:
                    self._failed(error, asked, failures)
                    continue
                self._keep(entries, error)
            failures = 0
            self._arrived(end)

    def _next(self) -> tuple[list[Entry], int, int] | None:
        """What goes in one call, where it ends in the file, and how often `flush` had been called; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._sent < self._written)
            size = CHUNK
            while not self._closed:
                chunk = os.pread(self._file.fileno(), size, self._sent)
                for entries, length in calls(io.BytesIO(chunk)):
                    return entries, self._sent + length, self._asked
                size *= 2  # an entry longer than that
        return None

    def _arrived(self, end: int) -> None:
        with self._changed:
            if self._closed:
                return
            if self._away:
                say("tracking", f"{self._told} answers again")
            self._away, self._waited, self._sent = False, 0.0, end
            if self._sent == self._written and not self._kept:
                self._cut(0)
                self._sent = self._written = len(self._head)
                self._doubted = 0
            self._changed.notify_all()

    def _keep(self, entries: Sequence[Entry], error: NotDeliveredError) -> None:
        """Passes over what the store does not take; the file is not emptied any more, so that it can be sent another time."""
        with self._changed:
            if not self._closed:
                self._kept = True
                self._degrade(f"{describe(entries[0])} not taken, {error}")

    def _failed(self, error: NotDeliveredError, asked: int, failures: int) -> None:
        """Waits before another try, unless somebody waits for it."""
        pause = min(FIRST_PAUSE * 2 ** min(failures - 1, 9), LONGEST_PAUSE)
        with self._changed:
            if self._closed:
                return
            if not error.answers:
                if not self._away:
                    self._away = True
                    self._degrade(str(error))
                self._in_vain = asked
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed or self._asked > asked, pause)

    def _degrade(self, reason: str) -> None:
        """Says at once, and in the store when it can, that the record is not what it should be."""
        say("tracking", f"{self._told}: {reason}")
        if self._degraded:
            return
        self._degraded = True
        say("", f"the run goes on; {self._path} keeps what it has to say until it can be sent")
        self.append({"kind": "tags", "tags": {"tracking": "degraded"}})


def replay(path: Path, deliver: Deliver) -> int:
    """Sends what is in a spool's file, which stays; entries that the store has already are left out.

    Returns:
        How many entries there were.

    Raises:
        NotDeliveredError: if the store does not take them.
    """
    with path.open("rb") as file:
        file.readline()
        count = 0
        for entries, _ in calls(file):
            deliver(entries, True)
            count += len(entries)
    return count
