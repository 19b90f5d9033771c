"""Readers of one file each. Every reader is a generator of (place, row), so that a file need not fit into memory.

A line that is no row is rejected, counted and listed; only a file of which nothing can be read is an error.
"""

import csv
import json
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from medllm.data.sources.log import ReadingLog
from medllm.errors import DataError

Row = dict[str, Any]
Rows = Iterator[tuple[str, Row]]

# A quote that never closes would swallow the rest of a file; a field longer than this, in characters, is such a quote.
LONGEST_FIELD = 1_000_000


class _Lines:
    """Lines of a file which can be taken back: those of the current record are kept until it is known to be sound."""

    def __init__(self, file: TextIO):
        self.file = file
        self.waiting: deque[str] = deque()
        self.record: list[str] = []
        self.number = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self.waiting.popleft() if self.waiting else next(self.file)
        self.record.append(line)
        self.number += 1
        return line

    def accept(self) -> None:
        self.record.clear()

    def reject(self) -> int:
        """Takes back all lines of the record but its first, whose number is returned: the next record starts below it."""
        first = self.number - len(self.record) + 1
        self.waiting.extendleft(reversed(self.record[1:]))
        self.number = first
        self.record.clear()
        return first


def read_delimited(path: Path, encoding: str, log: ReadingLog) -> Rows:
    """Rows of a .csv or .tsv file with a header. A .csv whose header has semicolons and no comma is split at those.

    Raises:
        DataError: if there is no header, or one with a name twice.
    """
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_FIELD))
    with path.open(encoding=encoding, newline="") as file:
        lines = _Lines(file)
        header_line = next((line for line in lines if line.strip()), "")
        if not header_line:
            raise DataError(f"{path.name}: the file is empty")
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        if delimiter == "," and ";" in header_line and "," not in header_line:
            delimiter = ";"
            log.note(f"{path.name}: columns separated by semicolons")
        header = next(csv.reader([header_line], delimiter=delimiter))
        _check_header(header, path.name)
        lines.accept()
        number = 0
        while True:
            for record, fault in _records(lines, delimiter):
                if fault:
                    log.unreadable(fault, f"{path.name} line {lines.reject()}")
                    break  # a new reader starts below the rejected line
                if not record:  # a blank line
                    lines.accept()
                    continue
                if len(record) != len(header):
                    log.unreadable("not as many fields as the header", f"{path.name} line {lines.reject()}")
                    break
                lines.accept()
                yield f"{path.name} row {number}", dict(zip(header, record, strict=True))
                number += 1
            else:
                return


def _records(lines: _Lines, delimiter: str) -> Iterator[tuple[list[str], str]]:
    """Records and an empty fault, or nothing and what is wrong with the quotes."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        try:
            yield next(reader), ""
        except StopIteration:
            return
        except csv.Error:
            yield [], "a quote that does not close or stands inside a field"


def _check_header(header: list[str], name: str) -> None:
    seen = [column.strip().lower() for column in header]
    # Spreadsheets write columns without a name behind the last one.
    twice = sorted({column for column in seen if column and seen.count(column) > 1})
    if twice:
        raise DataError(
            f"{name}: the column {twice[0]!r} occurs {seen.count(twice[0])} times\n    fix: rename all but one"
        )


def read_lines(path: Path, encoding: str, log: ReadingLog) -> Rows:
    """Rows of a .jsonl file; lines that are no JSON object are rejected."""
    with path.open(encoding=encoding) as file:
        number = 0
        for line_number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                log.unreadable("not JSON", f"{path.name} line {line_number}")
                continue
            if not isinstance(row, dict):
                log.unreadable("not a JSON object", f"{path.name} line {line_number}")
                continue
            yield f"{path.name} row {number}", row
            number += 1


def read_json(path: Path, encoding: str, log: ReadingLog) -> Rows:
    """Rows of a .json file: a list of objects, or an object whose only list holds them. The file must fit into memory.

    Raises:
        DataError: if it holds anything else.
    """
    text = path.read_text(encoding=encoding)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name}: no JSON: {error}\n    fix: one object per line is .jsonl, not .json") from None
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        content = lists[0] if len(lists) == 1 else content
    if not isinstance(content, list):
        raise DataError(f"{path.name}: holds {type(content).__name__}\n    allowed: a list of objects")
    for number, row in enumerate(content):
        if isinstance(row, dict):
            yield f"{path.name} row {number}", row
        else:
            log.unreadable("not a JSON object", f"{path.name} row {number}")


def read_parquet(path: Path, encoding: str, log: ReadingLog) -> Rows:
    """Rows of a .parquet file.

    Raises:
        DataError: if it is none.
    """
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(batch_size=1000):
            for row in batch.to_pylist():
                yield f"{path.name} row {number}", row
                number += 1
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DataError(f"{path.name}: cannot be read as parquet: {reason}") from None


READERS: dict[str, Callable[[Path, str, ReadingLog], Rows]] = {
    ".csv": read_delimited,
    ".json": read_json,
    ".jsonl": read_lines,
    ".parquet": read_parquet,
    ".tsv": read_delimited,
}
