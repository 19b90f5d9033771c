"""What is at the end of a path that somebody typed."""

from pathlib import Path


def path_exists(path: Path) -> bool:
    """Whether a path names something. Of a name that is too long, or may not be looked at, `Path.exists` raises instead."""
    try:
        return path.exists()
    except OSError:
        return False
