"""What people type into: messages and commands, answers as they come."""

import contextlib
import importlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from medllm.artifact import MANIFEST, sha256
from medllm.chat.history import History
from medllm.chat.speaker import Speaker
from medllm.config.store import expanded
from medllm.console import harmless
from medllm.conversation import Message
from medllm.deposit import base_name
from medllm.errors import ChatError
from medllm.guard.guard import Guarded
from medllm.review.approval import review_status

HELP = """\
/reset           forget the conversation
/undo            take the last question and its answer back
/retry           another answer to the last question
/system [TEXT]   show the system prompt, or set it; /system default is the artifact's
/compare         let the base answer too, or not any more
/save FILE       write the conversation to a new file
/load FILE       go on with a saved one
/help            this
/quit            leave, as Ctrl-D does; Ctrl-C stops an answer"""


class Terminal:
    """A chat in a terminal.

    Args:
        speaker: Who answers.
        console: Where everything is shown: a `plain_console`.
        read: Gives the next line that is typed; EOFError ends the chat.
        compare: Whether the base answers too.
        status: What experts say of the artifact, to show.
    """

    def __init__(self, speaker: Speaker, console: Console, read: Callable[[], str], *, compare: bool, status: str):
        self.speaker, self.compare, self.status = speaker, compare, status
        self.history = History()
        self._console, self._read = console, read
        self._stopped = threading.Event()
        self._left_out = 0

    def run(self, notice: str) -> None:
        """Until somebody leaves.

        Args:
            notice: Shown before anything is typed.
        """
        self._show(notice, "bold")
        self._show(f"{self.status}\n/help shows what else can be typed.")
        while True:
            try:
                line = self._read().strip()
                if line in ("/quit", "/exit"):
                    return
                self._handle(line)
            except EOFError:
                return
            except KeyboardInterrupt:
                self._show("\n/quit or Ctrl-D leaves")
            except ChatError as error:
                self._show(str(error), "red")

    def _handle(self, line: str) -> None:
        if not line.startswith("/"):
            if line:
                self._ask(line)
            return
        name, _, rest = line[1:].partition(" ")
        command = getattr(self, f"_do_{name}", None)
        if command is None:
            raise ChatError(f"/{name}: no such command\n{HELP}")
        command(rest.strip())

    def _ask(self, text: str, *, do_sample: bool | None = None) -> None:
        """Answers a message; it stays in the conversation if anything was answered."""
        history = self.history
        history.messages.append(Message("user", text))
        answered = ""
        try:
            conversation = history.conversation
            read, left_out = self.speaker.fitted(conversation)
            if left_out > self._left_out:
                self._show(f"the model no longer reads the oldest {left_out} of these turns; the guard does", "yellow")
            self._left_out = left_out
            (verdict,) = self.speaker.screen([conversation])
            if verdict.before:
                self._show(verdict.before, "bold red")
            for tuned in [False, True] if self.compare else [True]:
                if self.compare:
                    self._show("tuned" if tuned else "base", "bold")
                with self._stoppable():
                    guarded = self.speaker.answer(
                        conversation, read, verdict, self._write, self._stopped.is_set, tuned=tuned, do_sample=do_sample
                    )
                self._end(guarded)
                answered = guarded.answer
                if self._stopped.is_set():
                    break
        finally:
            if answered and (tuned or not self.compare):
                history.messages.append(Message("assistant", answered))
            else:
                history.messages.pop()
                self._show("nothing was answered; the message is not part of the conversation")

    def _end(self, guarded: Guarded) -> None:
        self._write("\n")
        if self._stopped.is_set():
            self._show("stopped", "yellow")
        if guarded.after:
            self._show(guarded.after, "italic")

    @contextlib.contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Ctrl-C stops the answer; what was written until then stays."""
        self._stopped.clear()
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, lambda *_: self._stopped.set())
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _write(self, text: str) -> None:
        self._console.print(harmless(text), end="", soft_wrap=True)
        self._console.file.flush()

    def _show(self, text: str, style: str = "dim") -> None:
        self._console.print(harmless(text), style=style)

    # Commands

    def _do_help(self, rest: str) -> None:
        self._show(HELP)

    def _do_reset(self, rest: str) -> None:
        self.history.messages.clear()
        self._left_out = 0
        self._show("forgotten")

    def _do_undo(self, rest: str) -> None:
        self._show("taken back" if self.history.undo() else "there is nothing to take back")

    def _do_retry(self, rest: str) -> None:
        questions = [message.content for message in self.history.messages if message.role == "user"]
        if not questions:
            raise ChatError("there is nothing to answer again")
        kept = list(self.history.messages)
        self.history.undo()
        if not self.speaker.generation.do_sample:
            self._show("words are drawn by chance this time, or the answer would be the same")
        self._ask(questions[-1], do_sample=True)
        if len(self.history.messages) < len(kept):
            self.history.messages = kept

    def _do_system(self, rest: str) -> None:
        if rest:
            self.history.system = None if rest == "default" else rest
        own = self.history.system
        self._show(own if own is not None else self.speaker.generation.system_prompt or "there is none")

    def _do_compare(self, rest: str) -> None:
        self.compare = not self.compare
        self._show("base and tuned answer" if self.compare else "the tuned model answers")

    def _do_save(self, rest: str) -> None:
        path = _file(rest, "save")
        self.history.save(path, sha256(self.speaker.loaded.artifact.folder / MANIFEST))
        self._show(f"saved to {path}")

    def _do_load(self, rest: str) -> None:
        path = _file(rest, "load")
        self.history = History.load(path)
        self._left_out = 0
        for message in self.history.messages:
            self._show(f"{'you' if message.role == 'user' else 'answer'}: {message.content}")


def _file(text: str, command: str) -> Path:
    if not text:
        raise ChatError(f"/{command} needs the name of a file: /{command} chat.json")
    return expanded(text)


def read_line() -> str:
    """The next line from the terminal, with its editing and history; from a pipe as it is."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line
    with contextlib.suppress(
        ImportError
    ):  # where Python has it, input() edits lines and remembers them once it is imported
        importlib.import_module("readline")
    return input("\nyou > ")


def answering(artifact: Any) -> str:
    """Who answers, and what experts say of it, in a line."""
    status = review_status(artifact.folder)
    name = f"{artifact.conf.name}, tuned from {base_name(artifact.conf)}"
    return f"{name}. {status.decision.upper()}: {'; '.join(status.reasons)}"
