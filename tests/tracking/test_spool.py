"""What a run has to say arrives: once, in its order, whatever the store does meanwhile."""

import json
import runpy
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from medllm.errors import ConfigError, TrackingError
from medllm.run_folder import has_unsent
from medllm.tracking import spool as spooling
from medllm.tracking.entries import Entry, read_entries
from medllm.tracking.spool import NotDeliveredError, Spool, replay

ROOT = Path(__file__).parents[2]
HEAD: Entry = {"tracking_uri": "a store", "run_id": "a run"}


class Store:
    """Takes entries, unless it is told otherwise.

    Attributes:
        got: Entries that arrived, as often as they did.
        doubted: Of each call that arrived, whether an earlier try may have arrived.
        refuse: Called with the entries of each call before they arrive; may raise, or wait.
    """

    def __init__(self) -> None:
        self.got: list[Entry] = []
        self.doubted: list[bool] = []
        self.refuse: Callable[[Sequence[Entry]], None] = lambda entries: None

    def __call__(self, entries: Sequence[Entry], doubtful: bool) -> None:
        """Delivery."""
        self.refuse(entries)
        self.got += entries
        self.doubted.append(doubtful)

    def steps(self) -> list[int]:
        """Of the metrics that arrived, in their order."""
        return [entry["step"] for entry in self.got if entry["kind"] == "metrics"]


def away(entries: Sequence[Entry]) -> None:
    """No answer."""
    raise NotDeliveredError("no answer", answers=False)


def metrics(step: int) -> Entry:
    """An entry."""
    return {"kind": "metrics", "step": step, "time": 1000 + step, "metrics": {"train/loss": step / 8}}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between tries."""
    monkeypatch.setattr(spooling, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(spooling, "LONGEST_PAUSE", 0.02)


def test_everything_arrives_in_its_order_and_leaves_nothing(tmp_path: Path) -> None:
    """Many metrics in a call, other entries by themselves; afterwards there is no file."""
    store = Store()
    spool = Spool(tmp_path / "unsent.jsonl", HEAD, store, "the store", 30)
    expected: list[Entry] = []
    for step in range(300):
        expected.append(metrics(step))
        if step % 100 == 50:
            expected.append({"kind": "tags", "tags": {"step": f"{step}, größer"}})
    for entry in expected:
        spool.append(entry)
    assert spool.flush()
    assert not has_unsent(tmp_path)
    spool.append({"kind": "status", "status": "FINISHED", "time": 1})
    spool.close()
    assert store.got == [*expected, {"kind": "status", "status": "FINISHED", "time": 1}]
    assert not any(store.doubted)
    assert not (tmp_path / "unsent.jsonl").exists()


def test_nobody_waits_for_a_store_that_hangs(tmp_path: Path) -> None:
    """Entries are in the file at once, the end is there after its patience, and another run can send what is left."""
    store, hung = Store(), threading.Event()
    store.refuse = lambda entries: hung.wait(60) and None
    spool = Spool(tmp_path / "unsent.jsonl", HEAD, store, "the store", 0.2)
    for step in range(5000):
        spool.append(metrics(step))
    assert read_entries(tmp_path / "unsent.jsonl") == (HEAD, [metrics(step) for step in range(5000)])
    assert not spool.flush()
    spool.close()
    assert store.got == []
    other = Store()
    assert replay(tmp_path / "unsent.jsonl", other) == 5000
    hung.set()
    assert other.steps() == list(range(5000)) and all(other.doubted)


def test_a_store_that_comes_back_gets_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While the run is still on: no file is left, doubt is cast on what was tried before, and the record says degraded."""
    store = Store()
    spool = Spool(tmp_path / "unsent.jsonl", HEAD, store, "the store", 30)
    spool.append(metrics(0))
    assert spool.flush()
    store.refuse = away
    for step in range(1, 50):
        spool.append(metrics(step))
    assert not spool.flush()
    store.refuse = lambda entries: None
    spool.append(metrics(50))
    assert spool.flush()
    spool.close()
    assert store.steps() == list(range(51))
    assert store.doubted[:2] == [False, True]
    assert [entry["tags"] for entry in store.got if entry["kind"] == "tags"] == [{"tracking": "degraded"}]
    assert not (tmp_path / "unsent.jsonl").exists()
    said = capsys.readouterr().err
    assert said.count("the store: no answer") == 1 and "the store answers again" in said


def test_a_store_that_stays_away_is_told_with_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file holds what is missing, in its order, and the message names it and the command."""
    store = Store()
    store.refuse = away
    spool = Spool(tmp_path / "unsent.jsonl", HEAD, store, "the store", 30)
    spool.append(metrics(1))
    spool.append({"kind": "status", "status": "FINISHED", "time": 1})
    spool.close()
    said = capsys.readouterr().err
    assert f"what it lacks is in {tmp_path}/unsent.jsonl" in said
    assert f"python scripts/replay.py run={tmp_path}" in said
    with pytest.raises(NotDeliveredError):
        replay(tmp_path / "unsent.jsonl", store)
    store.refuse = lambda entries: None
    replay(tmp_path / "unsent.jsonl", store)
    assert store.steps() == [1]
    assert {"kind": "tags", "tags": {"tracking": "degraded"}} in store.got


def test_what_a_living_store_does_not_take_holds_up_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is told, kept for another time, and what comes after it arrives."""

    def picky(entries: Sequence[Entry]) -> None:
        if entries[0]["kind"] == "file":
            raise NotDeliveredError("no place for files", answers=True)

    store = Store()
    store.refuse = picky
    spool = Spool(tmp_path / "unsent.jsonl", HEAD, store, "the store", 30)
    spool.append({"kind": "file", "path": "/somewhere/loss.png", "folder": ""})
    spool.append(metrics(1))
    spool.close()
    assert store.steps() == [1]
    assert has_unsent(tmp_path)
    assert "loss.png not taken, no place for files" in capsys.readouterr().err
    assert read_entries(tmp_path / "unsent.jsonl")[1][0]["path"] == "/somewhere/loss.png"


def test_a_line_that_a_kill_cut_off_is_none(tmp_path: Path) -> None:
    """Everything before it is sent; a file of something else is refused."""
    store = Store()
    store.refuse = away
    spool = Spool(tmp_path / "unsent.jsonl", HEAD, store, "the store", 30)
    for step in range(3):
        spool.append(metrics(step))
    spool.close()
    whole = (tmp_path / "unsent.jsonl").read_bytes()
    (tmp_path / "unsent.jsonl").write_bytes(whole[: whole.index(b'"step": 2') + 5])
    store.refuse = lambda entries: None
    replay(tmp_path / "unsent.jsonl", store)
    assert store.steps() == [0, 1]
    (tmp_path / "unsent.jsonl").write_text("something\n")
    with pytest.raises(TrackingError, match="is no file of entries"):
        read_entries(tmp_path / "unsent.jsonl")


class Full:
    """A file on a disk with room for half a line."""

    def __init__(self, file: Any):
        self._file = file

    def write(self, line: bytes) -> Any:
        """What fits."""
        return self._file.write(line[:7])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.mark.parametrize("for_ever", [False, True])
def test_a_full_disk_is_told_and_survived(tmp_path: Path, capsys: pytest.CaptureFixture[str], for_ever: bool) -> None:
    """An entry that does not fit is written when there is room again, or sent at the end if there never is; in its order."""
    store = Store()
    store.refuse = away
    spool = Spool(tmp_path / "unsent.jsonl", HEAD, store, "the store", 30)
    spool.append(metrics(0))
    spool.flush()
    assert has_unsent(tmp_path)
    whole, spool._file = spool._file, Full(spool._file)  # type: ignore[assignment]
    spool.append(metrics(1))
    spool.append(metrics(2))
    if not for_ever:
        spool._file = whole
    spool.append(metrics(3))
    store.refuse = lambda entries: None
    spool.close()
    assert store.steps() == [0, 1, 2, 3]
    assert capsys.readouterr().err.count("cannot be written now: No space left on device") == 1
    assert not (tmp_path / "unsent.jsonl").exists()


@pytest.mark.parametrize(
    "lines",
    [
        "",
        "null\n",
        "{}\n",
        '{"tracking_uri": "u", "run_id": "r"}\n[1]\n',
        '{"tracking_uri": "u", "run_id": "r"}\n{"a": 1}\n',
        '{"tracking_uri": "u", "run_id": "r"}\n{"kind": ["tags"]}\n',
        '{"tracking_uri": "u", "run_id": "r"}\n{"kind": "status"}\n',
        '{"tracking_uri": "u", "run_id": "r"}\n{"kind": "tags", "tags": "a"}\n',
        '{"tracking_uri": "u", "run_id": ""}\n{"kind": "end_children"}\n',
        '{"tracking_uri": "u", "run_id": "r"}\n{"kind": "text", "text": "", "path": "../a"}\n',
        '{"tracking_uri": "u", "run_id": "r"}\n{"kind": "file", "path": "/a", "folder": "/b"}\n',
        '{"tracking_uri": 5, "run_id": "r"}\n{"kind": "end_children"}\n',
    ],
)
def test_a_damaged_file_is_told(tmp_path: Path, lines: str) -> None:
    """By its name and with the remedy, whatever is in it; it stays as it is."""
    path = tmp_path / "unsent.jsonl"
    path.write_text(lines)
    with pytest.raises(TrackingError, match=r"unsent.jsonl is no file of entries .*\n +fix: "):
        read_entries(path)
    assert path.read_text() == lines


def test_a_disk_without_room_for_the_head(tmp_path: Path) -> None:
    """A first entry comes with its head or not at all: half a head would make what follows unreadable."""
    store = Store()
    store.refuse = away
    spool = Spool(tmp_path / "unsent.jsonl", HEAD, store, "the store", 30)
    whole, spool._file = spool._file, Full(spool._file)  # type: ignore[assignment]
    spool.append(metrics(0))
    assert (tmp_path / "unsent.jsonl").read_bytes() == b""
    spool._file = whole
    spool.append(metrics(1))
    spool.close()
    head, entries = read_entries(tmp_path / "unsent.jsonl")
    assert head == HEAD and [entry["step"] for entry in entries if entry["kind"] == "metrics"] == [0, 1]


@pytest.mark.parametrize("cut", [0, 5])
def test_a_spool_goes_on_where_another_ended(tmp_path: Path, cut: int) -> None:
    """What was left comes first, in doubt, under its own head, but for a cut line; then the file is the new one's."""
    store, path = Store(), tmp_path / "unsent.jsonl"
    store.refuse = away
    first = Spool(path, HEAD, store, "the store", 30)
    for step in range(3):
        first.append(metrics(step))
    first.close()
    path.write_bytes(path.read_bytes() + json.dumps(metrics(9)).encode()[:cut])
    second = Spool(path, HEAD | {"run_id": "new"}, store, "the store", 30)
    second.append(metrics(3))
    head, entries = read_entries(path)
    assert head == HEAD and [entry["step"] for entry in entries if entry["kind"] == "metrics"] == [0, 1, 2, 3]
    store.refuse = lambda entries: None
    assert second.flush()
    assert store.steps() == [0, 1, 2, 3]
    assert not store.doubted[-1]
    store.refuse = away
    second.append(metrics(4))
    second.close()
    head, entries = read_entries(path)
    assert head == HEAD | {"run_id": "new"} and metrics(4) in entries and metrics(3) not in entries
    there = Store()
    third = Spool(path, HEAD, there, "the store", 30)
    assert third.flush()
    third.append(metrics(5))
    third.close()
    assert there.steps() == [4, 5] and there.doubted[0] and not there.doubted[-1]


@pytest.mark.parametrize("what", ["empty", "day"])
def test_replay_takes_a_run_or_a_sweep(tmp_path: Path, what: str) -> None:
    """An empty folder, and one that only holds runs, where one may still run: refused, nothing is made or sent there."""
    run = tmp_path / "run" / "unsent.jsonl"
    if what == "day":
        run.parent.mkdir()
        run.write_text('{"tracking_uri": "sqlite:////a/b.db", "run_id": "r"}\n{"kind": "end_children"}\n')
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="allowed: a run's folder, or a sweep's"):
        runpy.run_path(str(ROOT / "scripts" / "replay.py"))["main"]([f"run={tmp_path}"])
    assert sorted(tmp_path.rglob("*")) == before
