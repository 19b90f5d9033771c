"""Where prepared and quantized bases, conversations and samples are kept between runs; all of it can be made again."""

import errno
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from medllm.errors import ConfigError, Fault
from medllm.storage import explained_storage

ABOUT, SUMS = "about.json", "sums.json"
# Of weights, whose whole would take as long to read as the cache saves: a JSON file, and the header of safetensors.
OF_WEIGHTS = 2**20

# Of a full disk that the cache lies on.
FIX = "make room there (python scripts/cache.py clear) or name another folder by MEDLLM_CACHE; then type the same line again"


def cache_dir() -> Path:
    """`$MEDLLM_CACHE`, or `~/.cache/medllm`."""
    return Path(os.environ.get("MEDLLM_CACHE") or Path.home() / ".cache" / "medllm")


def code_version(files: Iterable[Path], libraries: Iterable[str]) -> str:
    """A hash of source files and of the versions of libraries: part of the key of what they make."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.name}\0".encode() + path.read_bytes())
    for name in libraries:
        digest.update(f"{name}=={version(name)}\0".encode())
    return digest.hexdigest()


def key_of(*parts: Any) -> str:
    """A key made of everything that changes a result; parts must have a `repr` that tells them apart."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def cached(
    kind: str,
    key: str,
    build: Callable[[Path], None],
    about: dict[str, Any],
    checked_bytes: int | None = None,
) -> Path:
    """The folder of this key, built now if it is not there or no longer whole.

    It is built beside its place and moved there at once, so nobody ever meets half of one; of several processes that want
    it, one builds and the others wait.

    Args:
        kind: Subfolder of the cache.
        key: Of `key_of`.
        build: Fills an empty folder.
        about: What a person who lists the cache wants to know.
        checked_bytes: So many of each file's first bytes are compared with what was built, and its size, whenever the folder is
            used; by default all of them.

    Raises:
        ConfigError: if the cache is no folder, or cannot be made.
        StorageError: if its disk is full or fails.
    """
    folder = cache_dir() / kind / key
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(_fault(os.strerror(error.errno or 0))) from None
    with explained_storage(folder, FIX), FileLock(f"{folder}.lock"):
        if folder.is_dir() and not _is_whole(folder, checked_bytes):
            shutil.rmtree(folder)
        if not folder.is_dir():
            staging = folder.parent / f".staging-{key}"
            shutil.rmtree(staging, ignore_errors=True)  # left by a process that died; the lock says nobody is at it now
            staging.mkdir()
            try:
                build(staging)
                (staging / SUMS).write_text(json.dumps(_sums(staging, checked_bytes)))
                (staging / ABOUT).write_text(json.dumps(about))
                staging.rename(folder)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        os.utime(folder)
    return folder


def _fault(reason: str) -> Fault:
    allowed = "a folder that can be written to, there or not"
    return Fault("MEDLLM_CACHE", f"cannot be used: {reason}", str(cache_dir()), allowed)


def _is_whole(folder: Path, checked_bytes: int | None) -> bool:
    try:
        return bool(json.loads((folder / SUMS).read_text()) == _sums(folder, checked_bytes))
    except (OSError, ValueError):
        return False


def _sums(folder: Path, checked_bytes: int | None) -> dict[str, list[Any]]:
    """Of each file its size and the SHA-256 of its beginning."""
    found: dict[str, list[Any]] = {}
    for path in sorted(file for file in folder.rglob("*") if file.is_file() and file.name not in (ABOUT, SUMS)):
        with path.open("rb") as file:
            checked = file if checked_bytes is None else io.BytesIO(file.read(checked_bytes))
            digest = hashlib.file_digest(checked, "sha256").hexdigest()
        found[str(path.relative_to(folder))] = [path.stat().st_size, digest]
    return found


@dataclass(frozen=True)
class CacheEntry:
    """One folder of the cache.

    Attributes:
        path: The folder.
        about: What its maker said about it; empty for kinds that say nothing.
        size: Bytes on disk.
        used: Unix time of its last use.
    """

    path: Path
    about: dict[str, Any]
    size: int
    used: float

    @property
    def kind(self) -> str:
        """The subfolder it lies in."""
        return self.path.parent.name

    @property
    def age_seconds(self) -> float:
        """Since its last use."""
        return max(0.0, time.time() - self.used)


def cache_entries(kind: str = "") -> list[CacheEntry]:
    """All entries of one kind, or of every kind; leftovers of interrupted work are among them.

    Raises:
        ConfigError: if the cache is no folder.
    """
    if cache_dir().exists() and not cache_dir().is_dir():
        raise ConfigError(_fault(os.strerror(errno.ENOTDIR)))
    folders = (path for path in cache_dir().glob(f"{kind or '*'}/*") if path.is_dir())
    return [_entry(path) for path in sorted(folders)]


def _entry(path: Path) -> CacheEntry:
    try:
        about = dict(json.loads((path / ABOUT).read_text()))
    except (OSError, ValueError, TypeError):  # none, or damaged
        about = {}
    files = [file for file in path.rglob("*") if file.is_file()]
    return CacheEntry(
        path,
        about,
        sum(file.stat().st_size for file in files),
        path.stat().st_mtime,
    )


def clear_cache(kind: str = "") -> list[CacheEntry]:
    """Removes all entries of one kind, or of every kind, and returns what they were; one being built is waited for."""
    removed = cache_entries(kind)
    for entry in removed:
        with FileLock(f"{entry.path.parent / entry.path.name.removeprefix('.staging-')}.lock"):
            shutil.rmtree(entry.path, ignore_errors=True)
    return removed
