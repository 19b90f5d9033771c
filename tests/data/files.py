"""What the tests of the data path share: small files, the shared real ones, and a preparation that changes nothing."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from medllm.config.data import LocalDataConf
from medllm.config.preparation import Action, CleaningConf, Deidentification, DeidentificationConf

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"real dialogues may not be published; none at {SHARED}")

SWITCHES = ("unicode", "html", "boilerplate", "glued_sentences", "special_tokens")
CHECKS = (
    "empty",
    "stub",
    "oversized",
    "repetition",
    "echo",
    "cut_off",
    "swapped_roles",
    "prompt_injection",
    "unsafe_advice",
)


def no_cleaning(**values: Any) -> CleaningConf:
    """Every step off but those given."""
    off: dict[str, Any] = {**dict.fromkeys(SWITCHES, False), **dict.fromkeys(CHECKS, Action.keep)}
    return CleaningConf(**{**off, **values})


def plain(path: Path, **values: Any) -> LocalDataConf:
    """A local file, neither cleaned nor de-identified unless asked to."""
    quiet: dict[str, Any] = {
        "cleaning": no_cleaning(),
        "deidentification": DeidentificationConf(Deidentification.off),
    }
    return LocalDataConf(path=str(path), **{**quiet, **values})


def write_csv(path: Path, rows: Sequence[Sequence[str]], header: Sequence[str] = ("Patient", "Doctor")) -> Path:
    """A table with a header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([header, *rows])
    return path


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    """One JSON value per line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
