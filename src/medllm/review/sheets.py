"""The way by spreadsheet: a CSV file for each rater, and what comes back of it.

What rows say of themselves is compared with the review, because sorting one column and not the others mixes answers up without a
trace.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from medllm.config.review import LETTERS, Scale
from medllm.errors import Fault
from medllm.review.create import now
from medllm.review.plan import Pair, Plan, Review
from medllm.review.ratings import Rating, RatingsError, normalised, refuse, refuse_unblinded, value_faults
from medllm.run_folder import write_whole
from medllm.spreadsheet import SheetError, as_written, by_column, compared, neutralised, read_table, shown

SHEETS, GUIDE = "sheets", "guide.md"
OWN = ("review", "rater", "pair", "prompt", *(f"answer_{letter}" for letter in LETTERS))


@dataclass(frozen=True)
class Written:
    """Sheets on disk.

    Attributes:
        sheets: All of them.
        kept: Those that were there already, with other content, and so may hold answers; left as they are.
        guide: The questions in words.
    """

    sheets: list[Path]
    kept: list[Path]
    guide: Path


def export_sheets(review: Review) -> Written:
    """One sheet per rater, and the guide.

    Raises:
        ReviewError: if the sides have been told.
    """
    refuse_unblinded(review)
    folder = review.folder / SHEETS
    folder.mkdir(exist_ok=True)
    sheets, kept = [], []
    for rater in review.plan.raters:
        path, text = folder / f"{rater.id}.csv", sheet(review, rater.id)
        sheets.append(path)
        if path.is_file() and path.read_bytes().decode("utf-8-sig", "replace") != text:
            kept.append(path)
        else:
            write_whole(path, "\ufeff" + text)  # without the mark Excel takes UTF-8 for the local code page
    return Written(sheets, kept, write_whole(folder / GUIDE, guide(review.plan)))


def sheet(review: Review, rater: str) -> str:
    """A sheet without answers."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns = [column.name for column in review.plan.columns]
    writer.writerow([*OWN, *columns])
    for pair in review.pairs:
        texts = [neutralised(text) for text in (pair.prompt, *(pair.answers[letter] for letter in LETTERS))]
        writer.writerow([review.plan.name, rater, pair.id, *texts, *([""] * len(columns))])
    return file.getvalue()


def guide(plan: Plan) -> str:
    """The questions, their options and where they come from, for raters."""
    lines = [
        f"# {plan.name}: what is asked",
        "",
        "Each row of your sheet holds a patient's message and two answers to it, A and B. You do not know which of them comes",
        "from which model, and it changes from row to row. Judge each by itself, then say which you prefer. Fill in all columns",
        "of a row or none; write an option as it stands here. Leave the columns in front of the questions as they are.",
        "",
    ]
    for name, question in plan.conf.asked.items():
        columns = [column.name for column in plan.columns if column.question == name]
        options = ", ".join(f"`{option}`" for option in question.options) or "free text"
        optional = "" if question.required else " (may stay empty)"
        lines += [f"## {', '.join(f'`{column}`' for column in columns)}{optional}", "", question.asks, "", options, ""]
        lines += [f"Source: {question.source}", ""] if question.source else []
    return "\n".join(lines)


def read_sheet(review: Review, path: Path) -> list[Rating]:
    """The ratings of a sheet: rows without any answer are passed over.

    Raises:
        RatingsError: with every fault of the sheet, by row and column.
    """
    what = path.name
    columns = {column.name: column for column in review.plan.columns}
    try:
        head, rows = read_table(path)
    except SheetError as error:
        raise RatingsError(what, [error.fault]) from None
    missing = [name for name in (*OWN, *columns) if name not in head]
    unknown = [name for name in head if name not in OWN and name not in columns]
    twice = sorted({name for name in head if head.count(name) > 1})
    faults = [Fault("row 1", "has no such column", name, fix="export the sheet again") for name in missing]
    faults += [Fault("row 1", "a column that the review does not have", shown(name)) for name in unknown if name]
    faults += [Fault("row 1", "has this column twice", name) for name in twice if name]
    refuse(faults, what)
    pairs = {pair.id: pair for pair in review.pairs}
    ids = {rater.id for rater in review.plan.raters}
    found: dict[str, Rating] = {}
    raters: set[str] = set()
    for number, row in rows:
        cells = by_column(head, row)
        where = f"row {number}"
        faults += _place_faults(cells, where, review.plan, ids, pairs, len(row) - len(head))
        values = {name: normalised(column, cells[name]) for name, column in columns.items()}
        values = {name: as_written(value) if columns[name].conf.scale is Scale.text else value
                  for name, value in values.items() if value}  # fmt: skip
        raters.add(cells["rater"])
        if not values:
            continue
        faults += value_faults(review.plan, values, where)
        if cells["pair"] in found:
            faults.append(Fault(f"{where}, column pair", "is rated twice", shown(cells["pair"])))
        found[cells["pair"]] = Rating(cells["rater"], cells["pair"], values, "csv", now())
    if len(raters & ids) > 1:
        faults.append(Fault("column rater", "several raters in one sheet", ", ".join(sorted(raters & ids))))
    refuse(faults, what)
    return list(found.values())


def _place_faults(
    cells: dict[str, str], where: str, plan: Plan, raters: set[str], pairs: dict[str, Pair], surplus: int
) -> list[Fault]:
    """Whether a row is of this review, and its texts are those of its pair."""
    if surplus > 0:
        return [Fault(where, f"has {surplus} cells more than there are columns")]
    found = []
    if cells["review"] != plan.name:
        found.append(Fault(f"{where}, column review", "is another review", shown(cells["review"]), allowed=plan.name))
    if cells["rater"] not in raters:
        allowed = ", ".join(sorted(raters))
        found.append(Fault(f"{where}, column rater", "is no rater of the review", shown(cells["rater"]), allowed))
    pair = pairs.get(cells["pair"])
    if pair is None:
        allowed = f"{next(iter(pairs))} to {list(pairs)[-1]}"
        return [*found, Fault(f"{where}, column pair", "is no pair of the review", shown(cells["pair"]), allowed)]
    for name, text in (("prompt", pair.prompt), *((f"answer_{letter}", pair.answers[letter]) for letter in LETTERS)):
        if compared(cells[name]) != compared(text):
            fix = "sort and move whole rows only, and save as CSV in UTF-8; or copy the answers into a fresh sheet"
            found.append(Fault(f"{where}, column {name}", f"is not the text of {pair.id}", shown(cells[name]), fix=fix))
    return found
