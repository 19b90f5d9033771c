"""The one console: people read it on stderr, so that stdout stays free for programs. Of several ranks 0 alone speaks."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from medllm.ranks import is_main

console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=not is_main())


def say(topic: str, text: str) -> None:
    """One line of what a run or a sweep tells before it begins, its text below that of the others."""
    console.print(f"{topic:<10}{text}", markup=False)


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
