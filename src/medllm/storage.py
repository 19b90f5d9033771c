"""Where files lie, folders that are whole or not there, and what to say when a disk is full or fails."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
from safetensors import SafetensorError

from medllm.errors import StorageError

# No room, no quota, a file that is too large, a disk that fails, and one that was made read-only.
FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)

# What torch's writer says, which does not say why: "[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534", and
# of a file so small that it is written when it is closed "basic_ios::clear: iostream error".
TORCH = ("inline_container.cc", "iostream error")

# What to do about a full disk: in general, and where a run or a sweep goes on.
AGAIN = "make room or mend the disk, then type the same line again"
GO_ON = (
    "make room (trainer.save_total_limit=1 keeps one checkpoint only) or mend the disk; then the same line\n"
    "    in the same folder goes on from its newest checkpoint"
)

# What Python says where every folder for temporary files is full; it calls it a file that is not found.
NO_TEMPORARY = "No usable temporary directory"

# File systems of other machines, by the names that mounts have for them; what goes by FUSE there is told by its second name.
NETWORK = re.compile(
    r"(fuse\.)?(9p|acfs|afp|afpfs|afs|beegfs|ceph|cifs|coda|davfs|fhgfs|gfs2?|glusterfs|gpfs|juicefs|lustre|ncpfs|nfs4?|ocfs2|"
    r"panfs|pvfs2|quobyte|s3fs|smb[23]|smbfs|sshfs|virtiofs|weka|wekafs|webdav)",
    re.I,
)


def is_on_network(path: Path) -> bool:
    """Whether a place lies on a file system that several machines may share, as far as its mount tells."""
    place = path.resolve()
    mounts = [part for part in psutil.disk_partitions(all=True) if place.is_relative_to(part.mountpoint)]
    # The longest is the innermost, and of two at one place the later lies over the earlier.
    kind = max(enumerate(mounts), key=lambda found: (len(found[1].mountpoint), found[0]))[1].fstype if mounts else ""
    return NETWORK.fullmatch(kind) is not None


@contextlib.contextmanager
def explained_storage(folder: Path | None = None, fix: str = AGAIN) -> Iterator[None]:
    """Turns what a disk refuses into a message that says which file, how much room there is, and how to go on.

    Args:
        folder: What is written to where the error does not say which file.
        fix: What to do; see `GO_ON` for a run or a sweep.

    Raises:
        StorageError: instead of an OSError of these kinds, and of what safetensors and torch make of one.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = _reason(error)
        if not reason:
            raise
        names = (
            getattr(error, name, None) for name in ("filename2", "filename")
        )  # of a copy the first is where it goes
        path = next((Path(name) for name in names if isinstance(name, str | os.PathLike)), folder)
        free = f"; {shutil.disk_usage(_existing(path)).free / 2**30:.2f} GiB are free there" if path else ""
        raise StorageError(f"{path or 'a file'}: could not be written: {reason}{free}\n    fix: {fix}") from error


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder beside it to write to, which takes its place if all went well; what stood there gives way only then."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_partial(folder: Path) -> None:
    """Removes what killed processes left half written in a folder that no process works in."""
    for left in folder.glob(".*.partial"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """What the disk said; empty if it was no disk."""
    if NO_TEMPORARY in str(error):
        return "no folder takes temporary files; TMPDIR can name one"
    if isinstance(error, OSError):
        return os.strerror(error.errno) if error.errno in FAILURES else ""
    if isinstance(
        error, SafetensorError
    ):  # "Error while serializing: I/O error: No space left on device (os error 28)"
        found = re.search(r"os error (\d+)", str(error))
        return os.strerror(int(found[1])) if found and int(found[1]) in FAILURES else ""
    return "torch could not write all of it" if any(words in str(error) for words in TORCH) else ""


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
