"""Writes the lock files from pyproject.toml: `python tools/lock.py [WHEEL ...] [OPTION ...]`.

    requirements.lock        every version for every platform, with the SHA-256 of each of its files in the package index
    requirements-cuda.lock   what torch's CUDA build on Linux needs besides, which no other build does
    requirements-cpu.lock    torch's CPU build for Linux, which the package index does not have

It needs `uv`, which `make lock` installs in an environment of its own. Versions stay as they are where they can:
`--upgrade` takes the newest ones, `--upgrade-package NAME` that of one package. A WHEEL is torch's CPU build, wanted
anew when torch's version has changed.
"""

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK, CUDA, CPU = (ROOT / f"requirements{which}.lock" for which in ("", "-cuda", "-cpu"))
COMPILE = ("uv", "pip", "compile", "pyproject.toml", "--all-extras", "--universal", "--python-version", "3.11")
COMPILE += ("--override", "tools/overrides.txt")
COMPILE += ("--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url", "--quiet")
HEADS = {
    LOCK: "# Made by tools/lock.py: what `make setup` installs. On Linux, torch's CUDA build also needs requirements-cuda.lock.",
    CUDA: "# Made by tools/lock.py: what torch's CUDA build needs on Linux beside requirements.lock.",
    CPU: "# Made by tools/lock.py: torch's CPU build for Linux, taken instead of requirements.lock's where pip finds it.",
}
OF_CUDA = re.compile(r"(nvidia|cuda)-")


def entries(text: str) -> dict[str, str]:
    """Each pin with its hashes by its first line."""
    found = re.findall(r"^[\w.-]+==.*(?:\n    --hash=.*)*", text, re.M)
    return {entry.partition("\n")[0]: entry for entry in found}


def builds(before: str, wheels: list[Path]) -> list[str]:
    """Entries of builds that the index does not have: those given, or else those that the file has."""
    made = []
    for wheel in wheels:
        name, version = wheel.name.split("-")[:2]
        made.append(f"{name}=={version} \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}")
    return made or list(entries(before).values())


def main(arguments: list[str]) -> None:
    """Writes the files."""
    wheels = [Path(argument) for argument in arguments if argument.endswith(".whl")]
    options = [argument for argument in arguments if not argument.endswith(".whl")]
    before = {path: path.read_text() if path.is_file() else "" for path in HEADS}
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "all.lock"
        made.write_text(before[LOCK] + before[CUDA])  # uv keeps the versions that it finds in the file it writes
        subprocess.run([*COMPILE, "--output-file", str(made), *options], cwd=ROOT, check=True)
        found = entries(made.read_text())
    texts = {
        LOCK: [entry for pin, entry in found.items() if not OF_CUDA.match(pin)],
        CUDA: [entry for pin, entry in found.items() if OF_CUDA.match(pin)],
        CPU: builds(before[CPU], wheels),
    }
    for path, lines in texts.items():
        path.write_text("\n".join([HEADS[path], *lines]) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
