"""What a run or a sweep left is read whole, or refused by its name."""

import errno
import json
import os
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import yaml
from filelock import FileLock

from medllm.command import guarded
from medllm.config.compose import load_run_conf, resolved, run_conf_from_file
from medllm.conversation_losses import ConversationLosses
from medllm.errors import ConfigError, Fault, FolderError
from medllm.run_folder import (
    CONFIG,
    DATA,
    HISTORY,
    LOSSES,
    RECORD,
    RECORD_KEY,
    RESULT,
    SWEEP,
    UNSENT,
    SweepFile,
    SweepPoint,
    lock_folder,
    read_config,
    read_data_report,
    read_history,
    read_record_id,
    read_record_key,
    read_result,
    require_writable,
    write_history,
    write_record_id,
    write_result,
    write_whole,
)

ROOT = Path(__file__).parents[1]
ID = "0123456789abcdef" * 2
READERS: dict[str, Callable[[Path], Any]] = {
    CONFIG: read_config,
    DATA: read_data_report,
    HISTORY: read_history,
    LOSSES: ConversationLosses.load,
    RECORD: read_record_id,
    RECORD_KEY: read_record_key,
    RESULT: read_result,
    SWEEP: SweepFile.load,
}
# JSON, or YAML, that is none of these files, whichever it is.
OTHERS: tuple[Any, ...] = (
    None,
    [],
    "text",
    [{"a": 1}],
    {"status": "FINISHED", "fingerprint": 1},
    {"status": 3, "fingerprint": [], "train": 1, "eval": {}, "name": 1, "points": {}},
    {"status": "FINISHED", "metrics": [1], "train": [[1]], "eval": [], "name": "x", "points": [{"folder": "a"}]},
    {"status": "FINISHED", "objective": "low", "train": [["a", 1]], "eval": [], "name": "x", "points": "abc"},
    {
        "status": "FINISHED",
        "choices": {"lora": 1},
        "train": [[1, None]],
        "eval": [],
        "name": "x",
        "points": [],
        "axes": [1],
    },
)
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "half": lambda data: data[: len(data) // 2].rstrip(b"\n"),
    "no JSON": lambda data: b"<html>\n\t: {",
    "not UTF-8": lambda data: b"\xff\xfe" + data,
    "deep": lambda data: b"[" * 1_500,
}
DAMAGES |= {
    f"other {number}": lambda data, other=other: json.dumps(other).encode()  # type: ignore[misc]
    for number, other in enumerate(OTHERS)
}
MAPPINGS = [f"other {number}" for number, other in enumerate(OTHERS) if isinstance(other, dict)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file, as runs and sweeps write them."""
    folder = tmp_path_factory.mktemp("whole")
    conf = load_run_conf(["model=tiny_random", "trainer=cpu"])
    write_whole(folder / CONFIG, yaml.safe_dump(resolved(conf), sort_keys=False))
    write_whole(folder / DATA, json.dumps({"fingerprint": "f" * 64}))
    write_history(folder, [(1, 2.0)], [(0, float("nan"))], [(1, 100)], [(1, 0.5)])
    ConversationLosses(np.arange(3), np.ones(3), np.arange(3)).save(folder)
    write_record_id(folder, ID)
    write_whole(folder / RECORD_KEY, ID)
    write_result(folder, "FINISHED", objective=2.0, metrics={"a": 1.0, "b": float("nan")}, choices={"lora": "default"})
    SweepFile("s", ID, "k", ["seed"], [SweepPoint("seed_1-aa", "seed=1", {"seed": "1"}, ["seed=1"], "aa")]).save(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """The test's own copy."""
    return shutil.copytree(whole, tmp_path / "folder")


def contents(folder: Path) -> dict[str, bytes]:
    """Of all files."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_written_is_read(whole: Path) -> None:
    """By its own reader, numbers that are not finite included."""
    assert read_history(whole)["tokens"] == [(1, 100.0)]
    assert read_result(whole)["metrics"] == {"a": 1.0, "b": None}
    assert read_record_id(whole) == read_record_key(whole) == ID
    assert SweepFile.load(whole).points[0].values == {"seed": "1"}
    assert all(read(whole) for read in READERS.values())


def test_a_disk_that_refuses_leaves_the_old_file_and_nothing_beside_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whichever operation."""
    before = contents(folder)
    for module, name in ((os, "fsync"), (Path, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, Mock(side_effect=OSError(errno.ENOSPC, "full")))
            with pytest.raises(OSError, match="full"):
                write_whole(folder / RECORD, "0" * 32)
        assert contents(folder) == before


def test_what_a_killed_process_left_half_written_goes_with_its_lock(folder: Path) -> None:
    """Files and folders; nothing else, and nothing while somebody holds the folder."""
    before = contents(folder)
    (folder / f".{RESULT}.4242.partial").write_text("{")
    (folder / ".artifact.partial").mkdir()
    (folder / ".artifact.partial" / "file").touch()
    half = contents(folder)
    (folder / ".artifact.partial" / "empty").mkdir()
    held = FileLock(folder / ".lock")
    with held, pytest.raises(ConfigError, match="in use"):
        lock_folder(folder, Fault("folder", "in use"))
    assert contents(folder) == half | {".lock": b""}
    lock_folder(folder, Fault("folder", "in use")).release()
    assert contents(folder) == before | {".lock": b""}
    assert not (folder / ".artifact.partial").exists()


def test_a_file_that_cannot_be_written_is_refused_before(tmp_path: Path) -> None:
    """A folder, a path below a file and a name that is too long; what can be written is left as it is."""
    there = write_whole(tmp_path / "there", "as it was")
    refused = {
        tmp_path: "is a folder or a device",
        there / "page.html": "cannot be written: (Not a directory|File exists)",
        tmp_path / ("x" * 300): "cannot be written: File name too long",
    }
    for path, problem in refused.items():
        with pytest.raises(ConfigError, match=rf"page={path}: {problem}\n +allowed: a file.*\n +fix: page=FILE"):
            require_writable(path, "page")
    for path in (there, tmp_path / "new" / "page.html"):
        require_writable(path, "page")
    assert there.read_text() == "as it was"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "there"]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", READERS)
def test_a_damaged_file_is_refused_by_its_name(folder: Path, file: str, damage: str) -> None:
    """In one message with the remedy; nothing is changed."""
    (folder / file).write_bytes(DAMAGES[damage]((folder / file).read_bytes()))
    if file == CONFIG and (damage == "half" or damage in MAPPINGS):
        return  # what must be in it is for `run_conf_from_file` to say
    before = contents(folder)
    with pytest.raises(FolderError, match=rf"^{folder / file} is damaged, or another program's\n +fix: \w+"):
        READERS[file](folder)
    assert contents(folder) == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_configuration_makes_no_objects(folder: Path, damage: str) -> None:
    """One message with the file and the remedy."""
    path = folder / CONFIG
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(ConfigError, match=r"(?s)config.yaml: is no resolved configuration.*\n +fix: copy "):
        run_conf_from_file(path)


def test_a_sweep_has_its_points_in_its_folder(folder: Path) -> None:
    """A point's name is that of a folder directly below it: what is changed there for a point is changed nowhere else."""
    values = json.loads((folder / SWEEP).read_text())
    for name in ("../elsewhere", "/etc", "..", ".", "", "a/b"):
        values["points"][0]["folder"] = name
        (folder / SWEEP).write_text(json.dumps(values))
        with pytest.raises(FolderError, match=r"sweep.json is damaged"):
            SweepFile.load(folder)


@pytest.mark.parametrize("file", [CONFIG, HISTORY, LOSSES, RESULT, SWEEP])
def test_a_comparison_tells_what_is_damaged(folder: Path, capsys: pytest.CaptureFixture[str], file: str) -> None:
    """Exit code 1 and the file's name, instead of a comparison without it."""
    point = shutil.copytree(folder, folder / "seed_1-aa")
    for place in (folder,) if file == SWEEP else (folder, point):
        (place / file).write_bytes(b"\xff{")
    before = contents(folder)
    main = runpy.run_path(str(ROOT / "scripts" / "compare.py"))["main"]
    for line in (f"sweep={folder}",) if file == SWEEP else (f"sweep={folder}", f"runs={folder}"):
        assert guarded(lambda line=line: main([line])) == 1  # type: ignore[misc]
        said = capsys.readouterr().err
        assert f"{file} is damaged" in said and "fix: " in said and "Traceback" not in said
    assert contents(folder) == before


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_line_typed_again_tells_what_is_damaged(
    tmp_path: Path, train: Callable[..., Any], tiny_overrides: list[str]
) -> None:
    """A run, a sweep and a sweep's point: exit code 1 or 2, the file's name, no traceback, and nothing is changed or begun."""

    def refused(place: Path, file: str, *line: str) -> None:
        place.mkdir(parents=True, exist_ok=True)
        (place / file).write_bytes(b"\xff{\n" * 2)
        before = contents(tmp_path)
        done = train(*tiny_overrides, *line)
        assert done.returncode in (1, 2) and "Traceback" not in done.stderr, done.stderr
        assert file in done.stderr and "fix: " in done.stderr
        after = contents(tmp_path)
        changed = {name for name, data in before.items() if after.get(name) != data}
        assert not {name for name in changed if ".hydra" not in name and not name.endswith(".log")}
        assert not list(tmp_path.rglob("checkpoints"))
        (place / file).unlink()

    for file in (CONFIG, DATA, RESULT, RECORD, RECORD_KEY, UNSENT):
        refused(tmp_path / "run", file)
    sweep = [f"hydra.sweep.dir={tmp_path}/sweep", "seed=1,2", "-m"]
    refused(tmp_path / "sweep", SWEEP, *sweep)
