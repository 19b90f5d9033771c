"""The file of what a run has to say to its store: a head that says for which run, and an entry a line, in JSON."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from medllm.errors import TrackingError

Entry = dict[str, Any]

# What there is to say, and what belongs to it beside its `kind`.
KINDS: dict[str, set[str]] = {
    "metrics": {"step", "time", "metrics"},
    "tags": {"tags"},
    "file": {"path", "folder"},
    "text": {"path", "text"},
    "data": {"name", "digest", "source", "profile", "context"},
    "end_children": set(),
    "go_on": {"time", "tags"},
    "status": {"status", "time"},
}
# Metrics that go in one call, of 1000 that MLflow takes.
MOST_METRICS = 900


def describe(entry: Entry) -> str:
    """An entry in a few words, to tell that it has not been recorded."""
    match entry["kind"]:
        case "metrics":
            return f"metrics of step {entry['step']}"
        case "tags":
            return ", ".join(entry["tags"])
        case "data":
            return f"{entry['context']} data"
        case "file" | "text":
            return Path(entry["path"]).name
        case "end_children":
            return "status of killed points"
        case "go_on":
            return "that the run goes on"
        case kind:
            return str(kind)


def line_of(entry: Entry) -> bytes:
    """As it stands in the file."""
    return json.dumps(entry, ensure_ascii=True, allow_nan=False).encode() + b"\n"


def read_entries(path: Path) -> tuple[Entry, list[Entry]]:
    """Head and entries of a spool's file; a line that a kill cut off at the end is none.

    Raises:
        TrackingError: if it is no such file.
    """
    try:
        with path.open("rb") as file:
            head = json.loads(file.readline())
            known = isinstance(head, dict) and all(isinstance(head.get(key), str) for key in ("tracking_uri", "run_id"))
            if not known or not (head["run_id"] or {"conf", "opening"} <= head.keys()):
                raise ValueError("its first line does not say of which run it is")
            return head, [entry for entries, _ in calls(file) for entry in entries]
    except (OSError, ValueError, TypeError) as error:
        raise TrackingError(
            f"{path} is no file of entries for a store: {error}\n"
            "    fix: remove the damaged line, or move that file away to go on without what is in it"
        ) from None


def whole_lines(path: Path) -> list[int]:
    """Length in bytes of each whole line of a spool's file; none where it holds no entry."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        lengths = [len(line) for line in file if line.endswith(b"\n")]
    return lengths if len(lengths) > 1 else []


def _entry(line: bytes) -> Entry:
    """What stands in a line; raises ValueError where it is no entry."""
    entry = json.loads(line)
    kind = entry.get("kind") if isinstance(entry, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"a line is no entry: {line.decode(errors='replace').strip()[:80]}")
    odd = {name for name in KINDS[kind] if name not in entry}
    odd |= {name for name in ("metrics", "tags") if not isinstance(entry.get(name, {}), dict)}
    place = Path(entry["folder" if kind == "file" else "path"]) if kind in ("file", "text") and not odd else Path()
    if odd or place.is_absolute() or ".." in place.parts:
        raise ValueError(f"its entry of {kind} has not got what belongs to it: {', '.join(sorted(odd)) or place}")
    return entry


def calls(file: BinaryIO) -> Iterator[tuple[list[Entry], int]]:
    """Entries from here to the end as they go in one call each, with their length in bytes: metrics many at once."""
    entries: list[Entry] = []
    size = num_metrics = 0
    for line in file:
        if not line.endswith(b"\n"):
            break
        entry = _entry(line)
        more = len(entry["metrics"]) if entry["kind"] == "metrics" else MOST_METRICS
        if entries and num_metrics + more > MOST_METRICS:
            yield entries, size
            entries, size, num_metrics = [], 0, 0
        entries.append(entry)
        size += len(line)
        num_metrics += more
    if entries:
        yield entries, size
