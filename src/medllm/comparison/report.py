"""Comparison from start to end: for `scripts/compare.py`, and for a sweep at its end."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from medllm.comparison.page import HEAD, cells, headline, html_page, span
from medllm.comparison.pictures import draw
from medllm.comparison.runs import load_runs, load_sweep
from medllm.comparison.statistics import Comparison, compare
from medllm.run_folder import write_whole

PAGE, PICTURES = "comparison.html", "comparison"


def compare_sweep(folder: Path) -> Comparison:
    """The points of a sweep, whatever has become of them.

    Raises:
        MedLLMError: if the folder holds no sweep.
    """
    return compare(load_sweep(folder))


def compare_runs(folders: Sequence[Path]) -> Comparison:
    """Runs from anywhere.

    Raises:
        MedLLMError: if a folder holds no run.
    """
    return compare(load_runs(folders))


def write_comparison(comparison: Comparison, folder: Path, page: Path | None = None) -> list[Path]:
    """Writes the page, and the pictures into `comparison/`.

    Args:
        comparison: What to show.
        folder: Where both go.
        page: The page's path instead of `<folder>/comparison.html`.

    Returns:
        All files written, the page first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page = page or folder / PAGE
    page.parent.mkdir(parents=True, exist_ok=True)
    pictures = draw(comparison, folder / PICTURES)
    return [write_whole(page, html_page(comparison, pictures)), *pictures]


def print_comparison(comparison: Comparison, console: Console) -> None:
    """The same in a terminal, without pictures and prices."""
    if comparison.candidates:
        rows = [cells(c, best=i == 0) for i, c in enumerate(comparison.candidates)]
        empty = {i for i in (3, 4, 5, 6) if all(row[i] in ("", "-") for row in rows)}
        _table(console, "ranking", [name for i, name in enumerate((*HEAD, "")) if i not in empty],
               [[cell for i, cell in enumerate((*row, _mark(comparison, n))) if i not in empty]
                for n, row in enumerate(rows)])  # fmt: skip
    for effect in comparison.effects:
        title = f"{effect.axis} moves the loss by {effect.range:.4f}{'' if effect.balanced else ' (other settings mixed in)'}"
        levels = [[level.value, f"{level.loss:.4f}", span(level.interval), str(level.count)] for level in effect.levels]
        _table(console, title, ["value", "mean loss", "by conversations", "candidates"], levels)
    if comparison.unranked:
        runs = [[run.label, run.status, " ".join(run.reason.split())[:200]] for run in comparison.unranked]
        _table(console, "not ranked", ["run", "status", "reason"], runs)
    for line in comparison.warnings:
        console.print(Text(f"warning   {line}"))
    for line in headline(comparison):
        console.print(Text(line))


def _mark(comparison: Comparison, number: int) -> str:
    candidate = comparison.candidates[number]
    marks = ["winner"] if candidate is comparison.winner else []
    if number and candidate.tied:
        marks.append("not distinguishable from the best")
    return ", ".join(marks)


def _table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    drawn = Table(title=Text(title), title_justify="left")
    for i, column in enumerate(columns):
        drawn.add_column(column, justify="left" if not i else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    console.print(drawn)
