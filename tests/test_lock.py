"""What `make setup` installs is what was locked: every requirement, every file by its hash, nothing of a known vulnerability."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LOCK, CUDA, CPU = (ROOT / f"requirements{which}.lock" for which in ("", "-cuda", "-cpu"))
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")

# The first versions without the advisories of each: torch CVE-2025-32434 and CVE-2026-24747, transformers CVE-2026-1839 and
# CVE-2026-5241, MLflow CVE-2026-64849, CVE-2026-116690 and CVE-2026-116692, gradio CVE-2026-49119 and CVE-2026-59806, hydra
# GHSA-37p2-j732-x8pj.
FLOORS = {"torch": "2.10", "transformers": "5.3", "mlflow": "3.17", "gradio": "6.20", "hydra-core": "1.3.8"}
# The same of what only other packages ask for: pillow CVE-2026-112398 and others, pyarrow CVE-2026-92287.
FLOORS_BELOW = {"pillow": "13", "pyarrow": "26"}
CEILINGS = {"omegaconf": "2.4", "hydra-core": "1.4"}
# What a GPU machine may have instead of the locked versions.
ELSEWHERE = {"torch": "2.11", "transformers": "5.17"}


def pins(path: Path) -> list[tuple[Requirement, list[str]]]:
    """Each entry of a lock file with its hashes; fails on a line that belongs to none."""
    found: list[tuple[Requirement, list[str]]] = []
    for line in path.read_text().splitlines():
        if line.startswith("    "):
            assert HASH.fullmatch(line.strip().removesuffix(" \\")), line
            found[-1][1].append(line.strip().removesuffix(" \\"))
        elif not line.startswith("#"):
            found.append((Requirement(line.removesuffix(" \\")), []))
    return found


def locked() -> dict[str, list[Version]]:
    """Versions by name; several where markers tell them apart."""
    versions: dict[str, list[Version]] = {}
    for requirement, _ in pins(LOCK):
        (pin,) = requirement.specifier
        versions.setdefault(canonicalize_name(requirement.name), []).append(Version(pin.version))
    return versions


def ranges() -> dict[str, Requirement]:
    """What pyproject.toml asks for, extras included, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = [
        *project["dependencies"],
        *(item for extra in project["optional-dependencies"].values() for item in extra),
    ]
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, stated)}


@pytest.mark.parametrize("path", [LOCK, CUDA, CPU], ids=lambda path: path.name)
def test_every_pin_has_its_hashes(path: Path) -> None:
    """One exact version, at least one SHA-256, and no word of where it is downloaded from."""
    entries = pins(path)
    assert entries
    for requirement, hashes in entries:
        assert [pin.operator for pin in requirement.specifier] == ["=="] and not requirement.url
        assert hashes and len(set(hashes)) == len(hashes), requirement
    assert not re.search(r"://|--(extra-)?index|--find-links", path.read_text())


def test_every_requirement_is_locked_within_its_range() -> None:
    """Of the project and of all its extras."""
    versions = locked()
    for name, requirement in ranges().items():
        assert versions.get(name), f"{name} is not in requirements.lock: make lock"
        assert all(requirement.specifier.contains(version) for version in versions[name]), requirement


def test_known_vulnerabilities_are_out_of_range() -> None:
    """Neither the lock nor a range admits a version below a floor; a GPU machine's own versions are admitted."""
    stated, versions = ranges(), locked()
    for name, floor in FLOORS.items():
        lowest = min(Version(pin.version) for pin in stated[name].specifier if pin.operator in (">=", "=="))
        assert lowest >= Version(floor) and min(versions[name]) >= Version(floor), name
    assert all(min(versions[name]) >= Version(floor) for name, floor in FLOORS_BELOW.items())
    for name, ceiling in CEILINGS.items():
        assert not stated[name].specifier.contains(ceiling) and max(versions[name]) < Version(ceiling), name
    for name, version in ELSEWHERE.items():
        assert stated[name].specifier.contains(version), name


def test_only_torchs_builds_for_linux_are_apart() -> None:
    """What its CUDA build needs, so that no other machine downloads it; and its CPU build, of the same version."""
    apart = {canonicalize_name(requirement.name) for requirement, _ in pins(CUDA)}
    assert apart and all(name.startswith(("nvidia-", "cuda-")) for name in apart)
    assert not apart & locked().keys()
    assert all("linux" in str(requirement.marker) for requirement, _ in pins(CUDA))
    ((cpu, _),) = pins(CPU)
    assert [str(pin) for pin in cpu.specifier] == [f"=={version}+cpu" for version in locked()["torch"]]


CLEAN = {"name": "good", "version": "1", "vulns": []}
SKIPPED = [{"name": f"away{number}", "skip_reason": "Dependency not found on PyPI"} for number in range(5)]
VULNERABLE = {"name": "bad", "version": "2"}
VULNERABLE |= {"vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["3"], "description": "long"}]}
UNFIXED = {"name": "worse", "version": "2", "vulns": [{"id": "PYSEC-2", "aliases": None, "fix_versions": None}]}


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ([CLEAN], 0, ["audit: nothing is known of any of the 1 locked versions"]),
        ([CLEAN, VULNERABLE], 1, ["audit: bad 2: PYSEC-1, CVE-1; fixed in 3"]),
        ([UNFIXED], 1, ["audit: worse 2: PYSEC-2; fixed in no version yet"]),
        (
            [CLEAN, *SKIPPED],
            1,
            [
                "audit: the advisories of 5 of 6 locked versions could not be reached, and these were not checked: "
                "away0, away1, away2 and 2 more"
            ],
        ),
        (None, 1, ["audit: the advisories could not be reached, and no locked version was checked: no route to host"]),
    ],
    ids=["clean", "vulnerable", "unfixed", "passed over", "no network"],
)
def test_an_audit_is_green_only_where_all_was_checked(answer: Any, code: int, said: list[str], tmp_path: Path) -> None:
    """What pip-audit passes over, with code 0, and what it cannot do at all, is told in one line and fails."""
    tool = tmp_path / "pip-audit"
    output = (
        f"print({json.dumps({'dependencies': answer})!r})" if answer else "sys.exit('Traceback\\nno route to host')"
    )
    tool.write_text(f"#!{sys.executable}\nimport sys\n{output}\n")
    tool.chmod(0o700)
    command, path = [sys.executable, str(ROOT / "tools" / "audit.py")], f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (code, said, "")


def test_an_audit_without_its_tool_checks_nothing(tmp_path: Path) -> None:
    """And says so."""
    command = [sys.executable, str(ROOT / "tools" / "audit.py")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": str(tmp_path)})
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("audit: no pip-audit is installed, and no locked version was checked")
