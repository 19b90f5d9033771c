"""Test items as JSONL: one object a line."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medllm.config.paths import path_exists
from medllm.config.store import rooted
from medllm.errors import ConfigError, DataError, Fault

SHOWN = 5  # faults of a file
ITEMS = Path(__file__).parents[1] / "items"


def item_files(suite: str, files: list[str], *, shipped: bool) -> list[Path]:
    """What ships for a suite, if it is wanted, and the user's own.

    Raises:
        ConfigError: naming the files that are not there, or have the name of another one, on which ids and figures rest.
    """
    paths = sorted((ITEMS / suite).glob("*.jsonl")) if shipped else []
    faults = file_faults(f"evaluation.{suite}.files", files, {path.stem for path in paths})
    if faults:
        raise ConfigError(faults)
    return [*paths, *map(rooted, files)]


def file_faults(key: str, files: list[str], taken: set[str]) -> list[Fault]:
    """Of files that are not there, or have the name of another one.

    Args:
        key: That names the files.
        files: As it names them.
        taken: Names without ending that others have already; these files' are added.
    """
    faults = []
    for file in files:
        path = rooted(file)
        if not (path_exists(path) and path.is_file()):
            faults.append(Fault(key, f"no such file ({path})", file, fix="give the path of an existing JSONL file"))
        elif path.stem in taken:
            fix = "rename it: ids and figures are named after it"
            faults.append(Fault(key, "has the name of another file", file, fix=fix))
        taken.add(path.stem)
    return faults


def load_rows(path: Path, fault: Callable[[dict[str, Any]], str], limit: int | None = None) -> list[dict[str, Any]]:
    """Its objects, in order; empty lines do not count.

    Args:
        path: UTF-8.
        fault: What is wrong with an object, in a few words; empty if nothing is. All are looked at, whatever the limit.
        limit: How many are wanted, the first ones.

    Raises:
        DataError: naming file and lines.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = "is no UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise DataError(f"{path}: {reason}") from None
    rows, faults = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            said = fault(row) if isinstance(row, dict) else "no JSON object"
        except ValueError:
            said = "no JSON"
        if said:
            faults.append(f"line {number}: {said}")
        else:
            rows.append(row)
    if faults:
        more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise DataError(f"{path} cannot be used:\n  " + "\n  ".join(faults[:SHOWN]) + more)
    if not rows:
        raise DataError(f"{path} holds nothing to ask")
    return rows[:limit]


def named(rows: list[dict[str, Any]], stem: str, content: Callable[[dict[str, Any]], Any]) -> list[str]:
    """An id of each row: `<stem>/<its own id, or one of its content>`, numbered where rows repeat."""
    seen: dict[str, int] = {}
    names = []
    for row in rows:
        digest = hashlib.sha256(json.dumps(content(row), sort_keys=True).encode()).hexdigest()[:12]
        name = f"{stem}/{row.get('id') or row.get('prompt_id') or digest}"
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names


def whole_text(value: Any) -> bool:
    """Whether it is a text with something in it, all of which can be encoded."""
    if not isinstance(value, str) or not value.strip():
        return False
    return value.isascii() or value.encode("utf-8", "replace").decode() == value
