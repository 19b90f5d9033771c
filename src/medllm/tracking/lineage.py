"""Where a result comes from: code, versions, machine."""

import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from medllm.redaction import redacted

PACKAGES = ("medllm", "torch", "transformers", "peft", "bitsandbytes", "datasets", "accelerate", "mlflow", "hydra-core")


@dataclass(frozen=True)
class GitState:
    """The code a run was made with.

    Attributes:
        commit: Full hash; empty outside a repository.
        diff: Changes of tracked code and configuration against it, without secrets; never of data.
        dirty: Whether anything differs from it, new files included.
    """

    commit: str
    diff: str
    dirty: bool


def git_state(folder: Path) -> GitState:
    """The state of the repository that holds `folder`."""

    def git(*arguments: str) -> str:
        try:
            done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout if done.returncode == 0 else ""

    code = ("*.py", "*.yaml", "*.toml", "*.lock")
    diff = redacted(git("diff", "HEAD", "--", *code))
    return GitState(git("rev-parse", "HEAD").strip(), diff, bool(git("status", "--porcelain").strip()))


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, str]:
    """Processor, memory and, where there is one, the GPU."""
    import torch

    found = {
        "cpu": f"{platform.machine()}, {psutil.cpu_count()} cores",
        "memory_gib": f"{psutil.virtual_memory().total / 2**30:.1f}",
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return found
