"""Checkpoints that are complete or do not count.

A checkpoint is written by transformers and then sealed: `manifest.json`, the last file to be written, holds the SHA-256 of all
others. A folder without a seal was being written when its process died; one whose files differ from the seal is damaged. Neither
is ever resumed from.
"""

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path

from medllm.console import console

MANIFEST = "manifest.json"


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders below `folder`, sealed or not, oldest step first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.partition("-")[2].isdigit()]
    return sorted(found, key=lambda path: int(path.name.partition("-")[2]))


def seal(checkpoint: Path) -> None:
    """Declares a checkpoint complete, once its files are on disk."""
    files = {}
    for path in sorted(file for file in checkpoint.rglob("*") if file.is_file() and file.name != MANIFEST):
        with path.open("rb") as file:
            files[str(path.relative_to(checkpoint))] = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
    staged = checkpoint / f".{MANIFEST}"
    with staged.open("w", encoding="utf-8") as out:
        json.dump({"files": files}, out, indent=2)
        out.flush()
        os.fsync(out.fileno())
    staged.replace(checkpoint / MANIFEST)
    _sync_folder(checkpoint)


def _sync_folder(folder: Path) -> None:
    """Makes a rename last through a power cut, where folders can be synchronised; Windows and some file systems refuse."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def fault(checkpoint: Path) -> str:
    """Why a checkpoint cannot be resumed from; empty if it can."""
    try:
        files = dict(json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["files"].items())
    except FileNotFoundError:
        return "is not complete: its process died while writing it"
    except (ValueError, KeyError, TypeError, AttributeError):  # no JSON, or of another shape
        return f"has a damaged {MANIFEST}"
    for name, digest in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"lacks {name}"
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                return f"has a damaged {name}"
    return ""


def newest_valid(folder: Path) -> Path | None:
    """The newest complete and undamaged checkpoint below `folder`; says which newer ones it passes over, and why."""
    for checkpoint in reversed(checkpoints(folder)):
        reason = fault(checkpoint)
        if not reason:
            return checkpoint
        console.print(f"{checkpoint.name} {reason}; going back to an earlier one")
    return None


def rotate(folder: Path, limit: int | None) -> None:
    """Removes all but the newest `limit` sealed checkpoints, and what was never sealed; None keeps all."""
    if limit is None:
        return
    found = checkpoints(folder)
    kept = [path for path in found if (path / MANIFEST).is_file()][-limit:]
    for path in found:
        if path not in kept:
            shutil.rmtree(path)
