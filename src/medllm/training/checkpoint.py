"""Checkpoints that are complete or do not count.

    <run>/checkpoints/.staging/checkpoint-8/    being written, or being removed
    <run>/checkpoints/checkpoint-6/             whole: every file of it as `manifest.json` has it

transformers writes into the staging folder. There a checkpoint is sealed: `manifest.json`, the last file to be written, holds the
SHA-256 of all others, and everything is on the disk. One rename then puts it in its place, and only after that an old one goes.
What died on the way is in the staging folder; a checkpoint in its place whose files differ from the seal is damaged. Neither is
ever resumed from, but what was sealed before it died.
"""

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path

from medllm.console import console

MANIFEST = "manifest.json"
STAGING = ".staging"


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders below `folder`, damaged or not, oldest step first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.partition("-")[2].isdigit()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The optimizer step that it was saved after."""
    return int(checkpoint.name.partition("-")[2])


def empty_staging(folder: Path) -> None:
    """Makes the place where the next checkpoint below `folder` is written, without what died there before."""
    place = folder / STAGING
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    place.mkdir(parents=True)


def clear_staging(folder: Path) -> None:
    """Frees the space of what died while it was written."""
    shutil.rmtree(folder / STAGING, ignore_errors=True)


def recover(folder: Path) -> None:
    """Where a process died: a checkpoint that was whole and not yet in its place goes there, the rest goes away."""
    for staged in checkpoints(folder / STAGING):
        place = folder / staged.name
        if not fault(staged) and (not place.exists() or fault(place)):
            _place(staged, place)
    clear_staging(folder)


def commit(staged: Path) -> Path:
    """Declares a staged checkpoint complete, and puts it in its place.

    Args:
        staged: In the staging folder, with all its files.

    Returns:
        Its place.
    """
    seal(staged)
    place = staged.parent.parent / staged.name
    _place(staged, place)
    return place


def _place(staged: Path, place: Path) -> None:
    """Renames a sealed checkpoint; what stands there was damaged and passed over, or was of another size."""
    if place.exists():
        discard(place)
    staged.replace(place)
    _sync_folder(place.parent)


def seal(checkpoint: Path) -> None:
    """Writes the manifest of files that will not change, once they are on the disk."""
    files = {}
    for path in sorted(file for file in checkpoint.rglob("*") if file.is_file() and file.name != MANIFEST):
        with path.open("rb") as file:
            files[str(path.relative_to(checkpoint))] = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
    with (checkpoint / MANIFEST).open("w", encoding="utf-8") as out:
        out.write(json.dumps({"files": files, "sha256": _digest(files)}, indent=2))
        out.flush()
        os.fsync(out.fileno())
    for folder in (*(path for path in checkpoint.rglob("*") if path.is_dir()), checkpoint):
        _sync_folder(folder)


def _digest(files: dict[str, str]) -> str:
    """Of the manifest's own content: or its damage would be told of a file that is whole."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _sync_folder(folder: Path) -> None:
    """Makes what a folder holds last through a power cut, where that can be done; Windows and some file systems refuse."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def fault(checkpoint: Path) -> str:
    """Why a checkpoint cannot be resumed from; empty if it can."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        files, digest = dict(manifest["files"].items()), manifest["sha256"]
    except FileNotFoundError:
        return f"is not complete: it has no {MANIFEST}"
    except (OSError, RecursionError, ValueError, KeyError, TypeError, AttributeError):  # no JSON, or of another shape
        return f"has a damaged {MANIFEST}"
    if digest != _digest(files):
        return f"has a damaged {MANIFEST}"
    there = {str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if path.is_file()}
    for name, expected in files.items():
        if name not in there:
            return f"lacks {name[:100]}"
        with (checkpoint / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                return f"has a damaged {name}"
    # What others would read with it; a file system's and a desktop's own files begin with a dot.
    strange = sorted(name for name in there - files.keys() - {MANIFEST} if not Path(name).name.startswith("."))
    return f"holds {strange[0]}, which its {MANIFEST} does not know" if strange else ""


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
            discard(path)


def discard(checkpoint: Path) -> None:
    """Removes a checkpoint, out of its place first: half of one never stands there. One that will not go is told, and stays."""
    doomed = checkpoint.parent / STAGING / f"old-{checkpoint.name}"
    try:
        doomed.parent.mkdir(exist_ok=True)
        checkpoint.replace(doomed)
        if doomed.is_dir():
            shutil.rmtree(doomed)
        else:
            doomed.unlink()
    except OSError as error:
        console.print(f"{checkpoint.name} could not be removed: {error}")
