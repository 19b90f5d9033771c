"""Ends runs: at random instants from outside, and at counted operations from inside.

The operations that are counted are those that change the disk: a file opened to be written, a write, an fsync, a rename, a
removal, a folder made, and what torch and safetensors write by themselves.
"""

import builtins
import errno
import functools
import io
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR


def at_random(run: Any, seconds: float, chance: random.Random, signum: int = signal.SIGKILL) -> float:
    """Sends a signal at an instant drawn from the next `seconds`; returns which. A run that has ended before is left alone."""
    wait = chance.uniform(0, seconds)
    until = time.monotonic() + wait
    while time.monotonic() < until and not run.ended():
        time.sleep(0.001)
    run.send(signum)
    return wait


class Operations:
    """Counts the operations on the disk below a part of the program, and does something at one of them.

    Args:
        at: Which operation, from 1; 0 for none.
        act: What to do there; takes the operation's name. What it raises is raised by the operation.

    Attributes:
        seen: Names of the operations so far.
    """

    def __init__(self, at: int = 0, act: Callable[[str], None] = lambda name: None):
        self.at, self.act = at, act
        self.seen: list[str] = []
        self.inside = False

    def meet(self, name: str) -> None:
        """An operation is about to happen."""
        if self.inside:
            self.seen.append(name)
            if len(self.seen) == self.at:
                self.act(name)

    def within(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose operations count."""

        @functools.wraps(function)
        def counted(*arguments: Any, **more: Any) -> Any:
            self.inside = True
            try:
                return function(*arguments, **more)
            finally:
                self.inside = False

        return counted

    def before(self, module: Any, name: str, *, halfway: bool = False) -> Callable[[], None]:
        """Meets a call of `module.name`; with `halfway` also one after it, when half of the file that it wrote is cut off.

        Returns:
            What takes it back.
        """
        function = getattr(module, name)

        @functools.wraps(function)
        def met(*arguments: Any, **more: Any) -> Any:
            if self.inside:
                label = f"{name} {_short(arguments)}"
                self.meet(label)
            result = function(*arguments, **more)
            if self.inside and halfway and len(self.seen) + 1 == self.at:
                _halve(arguments)
            if self.inside and halfway:
                self.meet(f"half of {label}")
            return result

        setattr(module, name, met)
        return functools.partial(setattr, module, name, function)


def _short(arguments: Any) -> str:
    return ", ".join(Path(a).name for a in arguments if isinstance(a, str | os.PathLike))


def _halve(arguments: Any) -> None:
    for path in (a for a in arguments if isinstance(a, str | os.PathLike) and Path(a).is_file()):
        os.truncate(path, Path(path).stat().st_size // 2)


class Writer:
    """A file whose writes are met."""

    def __init__(self, file: Any, operations: Operations):
        self._file, self._operations = file, operations

    def write(self, data: Any) -> Any:
        """An operation."""
        self._operations.meet("write")
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "Writer":
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._file.__exit__(*error)

    def __iter__(self) -> Any:
        return iter(self._file)


def meet_the_disk(operations: Operations) -> list[Callable[[], None]]:
    """Patches what changes the disk; returns what takes that back."""
    import safetensors.torch
    import torch

    undo = [operations.before(os, name) for name in ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir")]
    undo += [operations.before(torch, "save", halfway=True)]
    undo += [operations.before(safetensors.torch, "save_file", halfway=True)]
    undo += [operations.before(sys.modules[name], "safe_save_file", halfway=True) for name in _savers()]
    opened = io.open

    def opening(file: Any, mode: str = "r", *arguments: Any, **more: Any) -> Any:
        if not operations.inside or not set(mode) & set("wax+") or not isinstance(file, str | os.PathLike):
            return opened(file, mode, *arguments, **more)
        operations.meet(f"open {Path(file).name}")
        return Writer(opened(file, mode, *arguments, **more), operations)

    io.open = builtins.open = opening  # type: ignore[assignment]
    return [*undo, lambda: setattr(io, "open", opened), lambda: setattr(builtins, "open", opened)]


def _savers() -> list[str]:
    """Modules that took safetensors' function under their own name."""
    places = ("peft.peft_model", "transformers.modeling_utils")
    return [name for name in places if hasattr(sys.modules.get(name), "safe_save_file")]


def actions(name: str) -> Callable[[str], None]:
    """`KILL`, `TERM` and `INT` signal this process, `ENOSPC` and `EIO` fail the operation; from `FULL` on no file grows."""
    if name == "FULL":
        return lambda operation: resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    if hasattr(signal, f"SIG{name}"):
        return lambda operation: os.kill(os.getpid(), signal.Signals[f"SIG{name}"])
    number = getattr(errno, name)

    def fail(operation: str) -> None:
        raise OSError(number, os.strerror(number), operation)

    return fail


def install(cut: str) -> None:
    """Makes this process meet what `cut` says; several, with commas between them.

    `save:N:ACTION` acts (see `actions`) at the N-th operation on the disk inside this process's saves; `step:N:ACTION` after
    its N-th micro-step's forward and backward pass; `eval:N:ACTION` after the N-th held-out batch in training; `seal:N:ACTION`
    when its N-th checkpoint is sealed and not yet in its place; `load:1:ACTION` when the base model is loaded; `end:1:ACTION`
    when the artifact is written. Empty: nothing.
    """
    for one in filter(None, cut.split(",")):
        _install(*one.split(":"))


def _install(where: str, at: str, action: str) -> None:
    from transformers.trainer_callback import CallbackHandler

    from medllm import experiment
    from medllm.training import checkpoint
    from medllm.training.trainer import MedTrainer

    act = actions(action)
    if where == "save":
        operations = Operations(int(at), act)
        meet_the_disk(operations)
        MedTrainer._save_checkpoint = operations.within(MedTrainer._save_checkpoint)  # type: ignore[method-assign]
        return
    owner, name = {
        "step": (MedTrainer, "training_step"),
        "eval": (CallbackHandler, "on_prediction_step"),
        "seal": (checkpoint, "seal"),
        "load": (experiment, "lend_base"),
        "end": (experiment, "save_artifact"),
    }[where]
    function, count = getattr(owner, name), 0

    @functools.wraps(function)
    def met(*arguments: Any, **more: Any) -> Any:
        nonlocal count
        result = function(*arguments, **more)
        count += 1
        if count == int(at):
            act(where)
        return result

    setattr(owner, name, met)
