"""Where files lie."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from medllm.storage import is_on_network


def mounts(monkeypatch: pytest.MonkeyPatch, **kinds: str) -> None:
    """A partition list of places and kinds, in their order."""
    found = [SimpleNamespace(mountpoint=place, fstype=kind) for place, kind in kinds.items()]

    def listed(all: bool) -> list[Any]:
        assert all, "only those of disks would be listed"
        return found

    monkeypatch.setattr(psutil, "disk_partitions", listed)


SHARED = (
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "9p",
    "fuse.sshfs",
    "fuse.glusterfs",
    "NFS",
)
LOCAL = ("ext4", "overlay", "tmpfs", "apfs", "fuse.portal", "")


@pytest.mark.parametrize("kind", [*SHARED, *LOCAL])
def test_the_innermost_mount_decides(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Whatever lies around it, or beside it under a name that begins alike."""
    expected = kind in SHARED
    other = "ext4" if expected else "nfs4"
    mounts(monkeypatch, **{"/": other, "/a/b/c": kind, "/a/b": other, "/a/b/c/deeper": other, "/a/b/cc": other})
    assert is_on_network(Path("/a/b/c")) is is_on_network(Path("/a/b/c/d/mlflow.db")) is expected
    assert is_on_network(Path("/a/b/x")) is is_on_network(Path("/a/b/cc/d")) is not expected


def test_a_place_under_no_mount_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container, say, that shows none."""
    mounts(monkeypatch)
    assert not is_on_network(Path("/a"))
