"""What people read: the course of things on stderr, on one console of which rank 0 alone speaks; on stdout what came of it."""

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from medllm.ranks import is_main

# What could act on a terminal or turn the order of what is read, but for the ends of lines and tabs.
ACTING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def plain_console(**settings: Any) -> Console:
    """A console that shows words as they stand.

    By default rich colours numbers, makes pictures of words between colons, and takes what stands in brackets for its own markup.
    """
    return Console(highlight=False, emoji=False, markup=False, **settings)


console = plain_console(stderr=True, soft_wrap=True, quiet=not is_main())


def harmless(text: str) -> str:
    """A text of others for a terminal: what could act on it is shown as `⟨U+001B⟩`."""
    return ACTING.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)


def say(topic: str, text: str) -> None:
    """One line of what a run or a sweep tells before it begins, its text below that of the others."""
    console.print(f"{topic:<10}{text}")


def tell(topic: str, text: object) -> None:
    """One line of what a command wrote or found, on stdout, laid out like those of `say`."""
    print(f"{topic:<10}{text}")


def results_console(width: int = 160) -> Console:
    """Stdout for tables: as wide as the terminal, or so wide where it is none."""
    return plain_console(width=None if sys.stdout.isatty() else width)


@contextmanager
def counting(task: str, every_seconds: float = 20) -> Iterator[Callable[[int], None]]:
    """Shows how far a long task is: a live count on a terminal, elsewhere a line now and then; nothing if it is quick.

    Yields:
        A function that takes how much was done since it was last called.
    """
    columns = (TextColumn("{task.description}"), TextColumn("{task.completed:,}"), TimeElapsedColumn())
    bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
    done, said = 0, time.monotonic()
    with bar:
        row = bar.add_task(task)

        def advance(count: int) -> None:
            nonlocal done, said
            done += count
            bar.advance(row, count)
            if bar.disable and time.monotonic() - said > every_seconds:
                said = time.monotonic()
                console.print(f"{task} {done:,}")

        yield advance
