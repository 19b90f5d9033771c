"""From a source's configuration to its rows and its fingerprint."""

import hashlib
import re
from itertools import chain, islice
from pathlib import Path
from typing import Any

from medllm.config.data import SourceConf
from medllm.config.paths import path_exists
from medllm.config.store import rooted
from medllm.data.sources.encoding import detect_encoding
from medllm.data.sources.log import ReadingLog
from medllm.data.sources.tables import READERS, Rows
from medllm.errors import DataError


def source_files(given: str) -> list[Path]:
    """The file, or all files of a known format in the folder and below it, in the order of their names.

    Raises:
        DataError: if there is nothing there that can be read.
    """
    path = rooted(given)
    allowed = ", ".join(sorted(READERS))
    if not path_exists(path):
        raise DataError(
            f"data.path={given}: no such file ({path})\n    fix: give the path of an existing file or folder"
        )
    if path.is_dir():
        inside = (
            file.relative_to(path) for file in path.rglob("*") if file.suffix.lower() in READERS and file.is_file()
        )
        visible = sorted(file for file in inside if not any(part.startswith(".") for part in file.parts))
        if not visible:
            raise DataError(f"data.path={given}: the folder holds no file of a known format\n    allowed: {allowed}")
        return [path / file for file in visible]
    if path.suffix.lower() not in READERS:
        raise DataError(f"data.path={given}: unknown format\n    allowed: {allowed}, or a folder of such files")
    return [path]


def read_rows(source: SourceConf, log: ReadingLog) -> Rows:
    """All rows of a source as a stream of (place, row).

    Raises:
        DataError: if it does not exist, or nothing of it can be read.
    """
    if source.dataset is not None:
        log.note(f"{source.dataset}: commit {_commit(source)}")
        yield from _read_hub(source)
        return
    for path in source_files(str(source.path)):
        yield from _read_file(path, source, log)


def _read_file(path: Path, source: SourceConf, log: ReadingLog) -> Rows:
    if not path.stat().st_size:
        raise DataError(f"{path.name}: the file is empty")
    suffix = path.suffix.lower()
    encoding = ""
    if suffix != ".parquet":
        encoding = source.encoding or detect_encoding(path)
        if encoding.lower() in ("utf-8", "utf8"):
            encoding = "utf-8-sig"  # the same but for a byte order mark
        if encoding not in ("utf-8", "utf-8-sig") and not source.encoding:
            log.note(f"{path.name}: read as {encoding}")
    try:
        yield from READERS[suffix](path, encoding, log)
    except (UnicodeError, LookupError) as error:  # an encoding that was named, and is none or not this file's
        raise DataError(
            f"data.encoding={encoding}: {path.name} cannot be read so: {error}\n    fix: data.encoding=null detects it"
        ) from None


def _read_hub(source: SourceConf) -> Rows:
    import datasets

    datasets.disable_progress_bars()
    try:
        rows: Any = datasets.load_dataset(str(source.dataset), revision=source.revision, split=source.split)
    except Exception as error:  # the hub's client raises many kinds; the reason is in each one's first line
        reason = str(error).strip().split("\n")[0]
        raise DataError(
            f"data.dataset={source.dataset} cannot be loaded from the hub: {reason}\n"
            "    fix: check name and connection, or use a local copy: data=local data.path=FILE"
        ) from None
    for number, row in enumerate(rows):
        yield f"row {number}", row


def source_fingerprint(source: SourceConf) -> str:
    """What tells two contents of a source apart: the bytes of its files, or the commit of its data set.

    Raises:
        DataError: if a local source does not exist.
    """
    digest = hashlib.sha256()
    if source.dataset is not None:
        digest.update(f"{source.dataset}@{_commit(source)}:{source.split}".encode())
        return digest.hexdigest()
    for path in source_files(str(source.path)):
        digest.update(f"{path.name}\0".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _commit(source: SourceConf) -> str:
    """The commit a revision stands for; a revision that is one needs no connection."""
    if source.revision and re.fullmatch(r"[0-9a-f]{40}", source.revision):
        return source.revision
    folder = Path(str(source.dataset))
    if path_exists(folder) and folder.is_dir():  # `datasets` reads folders as well
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        content = (hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
        return f"folder {hashlib.sha256(''.join(content).encode()).hexdigest()}"
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return str(HfApi().dataset_info(str(source.dataset), revision=source.revision).sha)
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DataError(
            f"data.dataset={source.dataset}: the hub cannot say what data.revision={source.revision or 'null'} is: {reason}\n"
            "    fix: check name and connection, pin a commit with data.revision=SHA, or use data=local data.path=FILE"
        ) from None


def columns_of(rows: Rows, look_ahead: int = 100) -> tuple[list[str], Rows]:
    """The names that occur in the first rows, and the same stream from its beginning."""
    head = list(islice(rows, look_ahead))
    names = dict.fromkeys(str(name) for _, row in head for name in row)

    return list(names), chain(head, rows)
