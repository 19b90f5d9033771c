"""Tables that people fill in with a spreadsheet program, and what such a program may do to them.

It may store semicolons or tabs for commas, put a byte order mark in front, change white space, and take a text for a formula.
"""

import csv
import io
from pathlib import Path

from medllm.errors import DataError, Fault

# A cell that begins with one of these is a formula to a spreadsheet program (OWASP, CSV injection).
FORMULA = ("=", "+", "-", "@", "\t", "\r")

# Of a text, so much is compared; spreadsheets cut a cell after 32,767.
COMPARED_CHARACTERS = 30_000

LONGEST_CELL = 10_000_000


class SheetError(DataError):
    """A file that is no table.

    Attributes:
        fault: What is wrong with it.
    """

    def __init__(self, fault: Fault):
        super().__init__(str(fault))
        self.fault = fault


def read_table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Head and rows with their numbers as a spreadsheet shows them; empty rows are left out.

    Raises:
        SheetError: if the file cannot be read, or is no table.
    """
    name = str(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise SheetError(Fault(name, f"cannot be read: {error.strerror}", fix="name a sheet: sheet=FILE")) from None
    except UnicodeDecodeError:
        raise SheetError(Fault(name, "is not UTF-8", fix="save it as `CSV UTF-8`")) from None
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    csv.field_size_limit(LONGEST_CELL)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        fix = "close every quote: save it once more as `CSV UTF-8` in a spreadsheet"
        raise SheetError(Fault(name, f"is no CSV file: {error}", fix=fix)) from None
    if not rows:
        raise SheetError(Fault(name, "is empty"))
    return [cell.strip() for cell in rows[0]], [
        (n, row) for n, row in enumerate(rows[1:], 2) if any(map(str.strip, row))
    ]


def by_column(head: list[str], row: list[str]) -> dict[str, str]:
    """The cells of a row; those that a program left off at its end are empty."""
    return dict(zip(head, [*row, *([""] * (len(head) - len(row)))], strict=False))


def neutralised(text: str) -> str:
    """A cell that no spreadsheet program computes: an apostrophe goes before what would be a formula."""
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA) or text.startswith(FORMULA) else text


def as_written(text: str) -> str:
    """A cell without the apostrophe that guarded it."""
    return text[1:] if text.startswith("'") and text[1:].lstrip(" ").startswith(FORMULA) else text


def compared(text: str) -> str:
    """A text without what a spreadsheet program may change."""
    return " ".join(as_written(text).split())[:COMPARED_CHARACTERS]


def shown(text: str) -> str:
    """A cell in a message: short, and without what could act on a terminal."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 60 else f"{text[:60]}..."
