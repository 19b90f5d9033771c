"""A store that dies, hangs or comes back changes nothing of what is recorded in the end."""

import contextlib
import errno
import json
import math
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import Enum
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import DEFAULT, Mock

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException

from medllm.config.compose import load_run_conf
from medllm.config.tracking import MlflowConf
from medllm.errors import TrackingError
from medllm.experiment import run_training
from medllm.run_folder import (
    RECORD,
    REFUSED,
    SWEEP,
    UNSENT,
    has_unsent,
    read_record_id,
    read_result,
    write_record_id,
    write_result,
)
from medllm.tracking import mlflow_record
from medllm.tracking import spool as spooling
from medllm.tracking.build import find_record, open_record, replay_record
from medllm.tracking.delivery import Delivery
from medllm.tracking.record import Opening
from medllm.tracking.spool import NotDeliveredError

ROOT = Path(__file__).parents[2]
SENDING = ("log_batch", "log_inputs", "log_artifact", "log_text", "set_terminated")
KEYS = ("train/loss", "train/learning_rate", "eval/loss")


POINT = Opening("lora.r=8", {"lora.r": 8}, {"git": "abc"}, parent_id="0" * 32)


def database(folder: Path) -> MlflowConf:
    """A store of its own."""
    return MlflowConf(f"sqlite:///{folder}/mlflow.db", "test", f"{folder}/mlruns")


def recorded(uri: str, run_id: str) -> tuple[str, Counter[tuple[str, int, float]]]:
    """Status, and each metric, step and value as often as the store has it."""
    client = MlflowClient(uri)
    found = Counter((m.key, m.step, m.value) for key in KEYS for m in client.get_metric_history(run_id, key))
    return client.get_run(run_id).info.status, found


def everything(steps: int) -> Counter[tuple[str, int, float]]:
    """What `log` says, each once."""
    return Counter((key, step, step / 8) for step in range(steps) for key in KEYS[:2])


def log(record: Any, steps: range) -> None:
    """Two metrics per step."""
    for step in steps:
        record.log_metrics(dict.fromkeys(KEYS[:2], step / 8), step)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between tries."""
    monkeypatch.setattr(spooling, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(spooling, "LONGEST_PAUSE", 0.1)


def break_store(patch: pytest.MonkeyPatch, *, arrives: bool = False) -> None:
    """From now on no call of the client is answered; with `arrives`, what it asked for happens all the same."""

    def failing(do: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            if arrives:
                do(*arguments, **more)
            raise MlflowException("no answer")

        return call

    patch.setattr(MlflowClient, "get_run", Mock(side_effect=MlflowException("no answer")))
    for name in SENDING:
        patch.setattr(MlflowClient, name, failing(getattr(MlflowClient, name)))


@pytest.mark.parametrize("arrives", [False, True])
def test_a_store_that_comes_back_has_everything_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrives: bool
) -> None:
    """Whether what was sent in the outage arrived or not: metrics, tags, files, data, status; and it says degraded."""
    (tmp_path / "file.txt").write_text("x")
    with open_record(database(tmp_path), Opening("one"), tmp_path) as record:
        log(record, range(5))
        with monkeypatch.context() as patch:
            break_store(patch, arrives=arrives)
            log(record, range(5, 40))
            record.set_tags({"labels": "proven"})
            record.log_data("dialogues", "f" * 64, "data/dialogues.jsonl", "training", 10)
            record.log_artifact(tmp_path / "file.txt")
            record.end_children()  # waits for what is on its way, here in vain
            assert has_unsent(tmp_path)
        log(record, range(40, 50))
    assert not (tmp_path / UNSENT).exists()
    assert recorded(database(tmp_path).tracking_uri, record.id) == ("FINISHED", everything(50))
    client = MlflowClient(database(tmp_path).tracking_uri)
    run = client.get_run(record.id)
    assert (run.data.tags["labels"], run.data.tags["tracking"]) == ("proven", "degraded")
    assert len(run.inputs.dataset_inputs) == 1
    assert [file.path for file in client.list_artifacts(record.id)] == ["file.txt"]


def end_in_outage(folder: Path, error: BaseException | None = None) -> str:
    """A run whose store goes away for good after 5 of 20 steps; its id."""
    run = folder / "run"
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.suppress(ValueError, KeyboardInterrupt),
        open_record(database(folder), Opening("one"), run) as record,
    ):
        write_record_id(run, record.id)
        log(record, range(5))
        break_store(patch)
        log(record, range(5, 20))
        if error:
            raise error
    assert has_unsent(run)
    return (run / RECORD).read_text()


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (ValueError("bad"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_a_run_that_ends_in_an_outage_is_replayed(tmp_path: Path, error: BaseException | None, status: str) -> None:
    """All metrics once, and the true status with its traceback; its result says degraded until then."""
    run_id, uri = end_in_outage(tmp_path, error), database(tmp_path).tracking_uri
    assert recorded(uri, run_id)[0] == "RUNNING"
    write_result(tmp_path / "run", status)
    assert read_result(tmp_path / "run")["tracking"] == "degraded"
    spooled = (tmp_path / "run" / UNSENT).read_bytes()
    for _ in range(2):
        (tmp_path / "run" / UNSENT).write_bytes(spooled)
        assert replay_record(tmp_path / "run")[0] > 0
        assert recorded(uri, run_id) == (status, everything(20))
        assert not (tmp_path / "run" / UNSENT).exists()
    files = [file.path for file in MlflowClient(uri).list_artifacts(run_id)]
    assert files == (["traceback.txt"] if status == "FAILED" else [])
    assert read_result(tmp_path / "run") == {"status": status, "objective": None}


def test_a_run_that_goes_on_sends_what_was_left(tmp_path: Path) -> None:
    """First of all, so that its last word is that of now."""
    run_id = end_in_outage(tmp_path, KeyboardInterrupt())
    with open_record(database(tmp_path), Opening("one", run_id=run_id), tmp_path / "run") as record:
        assert recorded(database(tmp_path).tracking_uri, run_id) == ("RUNNING", everything(20))
        log(record, range(20, 30))
    assert recorded(database(tmp_path).tracking_uri, run_id) == ("FINISHED", everything(30))


def test_a_store_that_is_still_away_leaves_what_was_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay loses nothing of it, and says why and which file it is; a database that is gone is not made by looking."""
    run_id = end_in_outage(tmp_path)
    spooled = (tmp_path / "run" / UNSENT).read_bytes()
    with monkeypatch.context() as patch:
        break_store(patch)
        with pytest.raises(TrackingError, match=r"run/unsent.jsonl cannot be sent to sqlite:.*: no answer"):
            replay_record(tmp_path / "run")
    assert (tmp_path / "run" / UNSENT).read_bytes() == spooled
    (tmp_path / "mlflow.db").unlink()
    opened = open_record(database(tmp_path), Opening("one", run_id=run_id), tmp_path / "run")
    for refused in (lambda: replay_record(tmp_path / "run"), opened.__enter__):
        with pytest.raises(TrackingError, match=r"no such database\n +fix: put it back, or move that file away"):
            refused()
    assert not (tmp_path / "mlflow.db").exists()
    assert (tmp_path / "run" / UNSENT).read_bytes() == spooled


@pytest.mark.parametrize("back", ["while it runs", "at the next resume", "for a replay"])
@pytest.mark.parametrize("late", [False, True])
def test_what_goes_on_in_an_outage_loses_and_doubles_nothing(tmp_path: Path, late: bool, back: str) -> None:
    """A run that ended in an outage, or a point that never had its store, resumed in the same outage, and once more.

    Each repeats steps of the one before, some of them sent and some left; all arrives in its order, each number once.
    """
    run, uri = tmp_path / "point", database(tmp_path).tracking_uri
    parent = POINT.parent_id if late else ""

    def go_on(steps: range) -> Any:
        opened = open_record(database(tmp_path), replace(POINT, parent_id=parent, run_id=read_record_id(run)), run)
        record = opened.__enter__()
        log(record, steps)
        return opened, record

    def interrupt(opened: Any) -> None:
        with contextlib.suppress(SystemExit):
            opened.__exit__(SystemExit, SystemExit(143), None)

    with pytest.MonkeyPatch.context() as patch:
        if not late:
            opened, record = go_on(range(5))
            write_record_id(run, record.id)
            record.end_children()
        break_store(patch)
        patch.setattr(MlflowClient, "create_run", Mock(side_effect=MlflowException("no answer")))
        if late:
            opened, record = go_on(range(5))
        log(record, range(5, 12))
        interrupt(opened)
        for first in (3, 10):
            opened, record = go_on(range(first, first + 10))
            assert record.id == read_record_id(run) and bool(record.id) is not late
            if first == 3 or back != "while it runs":
                interrupt(opened)
    match back:
        case "while it runs":
            log(record, range(20, 30))
            record.end_children()
            run_id = record.id
            assert recorded(uri, run_id) == ("RUNNING", everything(30)) and not has_unsent(run)
            opened.__exit__(None, None, None)
            assert recorded(uri, run_id) == ("FINISHED", everything(30))
        case "at the next resume":
            opened, record = go_on(range(15, 30))
            opened.__exit__(None, None, None)
            assert recorded(uri, record.id) == ("FINISHED", everything(30))
        case "for a replay":
            assert replay_record(run)[0] > 0
            assert recorded(uri, read_record_id(run)) == ("KILLED", everything(20))
    assert not (run / UNSENT).exists()
    client = MlflowClient(uri)
    (only,) = client.search_runs([client.get_experiment_by_name("test").experiment_id])
    assert only.data.tags["git"] == "abc" and only.data.params == {"lora.r": "8"}


class Colour(Enum):
    """A parameter of no type that JSON has."""

    RED = 1


def test_a_late_run_has_every_parameter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that JSON has no word for too, as a run has them whose store was there."""
    params = {
        "nan": math.nan,
        "infinity": [math.inf, -math.inf],
        "enum": Colour.RED,
        "path": Path("/a/b"),
        "long": "x" * 9000,
    }
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_run", Mock(side_effect=MlflowException("no answer")))
        with open_record(database(tmp_path), replace(POINT, params=params), tmp_path / "point"):
            pass
    assert replay_record(tmp_path / "point")[0] > 0
    with open_record(database(tmp_path), replace(POINT, params=params), tmp_path / "other") as other:
        pass
    client = MlflowClient(database(tmp_path).tracking_uri)
    late, timely = (client.get_run(run_id).data.params for run_id in (read_record_id(tmp_path / "point"), other.id))
    assert late == timely and late.keys() == params.keys()


def test_a_run_goes_on_without_its_store(tmp_path: Path) -> None:
    """Where it was stopped with everything sent: what was paid for is not refused, and its record stays its own."""
    run, conf = tmp_path / "run", database(tmp_path)
    with contextlib.suppress(SystemExit), open_record(conf, Opening("one"), run) as record:
        log(record, range(10))
        raise SystemExit(143)
    with pytest.MonkeyPatch.context() as patch:
        break_store(patch)
        with open_record(conf, Opening("one", run_id=record.id), run) as again:
            assert again.id == record.id
            log(again, range(5, 15))
    assert replay_record(run)[0] > 0
    assert recorded(conf.tracking_uri, record.id) == ("FINISHED", everything(15))


def test_a_run_that_goes_on_forgets_why_it_failed(tmp_path: Path) -> None:
    """Also where both lie in one file: the error is that of a process whose word is not the last."""
    run_id = end_in_outage(tmp_path, ValueError("bad"))
    with pytest.MonkeyPatch.context() as patch:
        break_store(patch)
        with open_record(database(tmp_path), Opening("one", run_id=run_id), tmp_path / "run") as record:
            log(record, range(15, 25))
    assert replay_record(tmp_path / "run")[0] > 0
    assert recorded(database(tmp_path).tracking_uri, run_id) == ("FINISHED", everything(25))
    assert "error" not in MlflowClient(database(tmp_path).tracking_uri).get_run(run_id).data.tags


def test_what_is_left_for_another_store_is_not_mixed(tmp_path: Path) -> None:
    """A run that goes on with another address is refused while what it left cannot be sent where it belongs; and none is made."""
    run_id, left = end_in_outage(tmp_path, KeyboardInterrupt()), (tmp_path / "run" / UNSENT).read_bytes()
    other = MlflowConf(f"sqlite:///{tmp_path}/other.db", "test", None)
    with pytest.MonkeyPatch.context() as patch:
        break_store(patch)
        opened = open_record(other, Opening("one", run_id=run_id), tmp_path / "run")
        with pytest.raises(TrackingError, match=r"cannot be sent to sqlite:.*mlflow.db: no answer\n +fix: "):
            opened.__enter__()
    assert (tmp_path / "run" / UNSENT).read_bytes() == left and not (tmp_path / "other.db").exists()


def test_a_deleted_run_keeps_what_it_has_not_got(tmp_path: Path) -> None:
    """A replay and a run that goes on are refused, with the way to have it back; then everything arrives."""
    run_id, uri = end_in_outage(tmp_path, KeyboardInterrupt()), database(tmp_path).tracking_uri
    client, left = MlflowClient(uri), (tmp_path / "run" / UNSENT).read_bytes()
    client.delete_run(run_id)
    opened = open_record(database(tmp_path), Opening("one", run_id=run_id), tmp_path / "run")
    for refused in (lambda: replay_record(tmp_path / "run"), opened.__enter__):
        with pytest.raises(
            TrackingError, match=rf"{run_id} was deleted\n +fix: `mlflow runs restore --run-id {run_id}`"
        ):
            refused()
        assert (tmp_path / "run" / UNSENT).read_bytes() == left
    client.restore_run(run_id)
    assert replay_record(tmp_path / "run")[0] > 0
    assert recorded(uri, run_id) == ("KILLED", everything(20))


def test_a_run_that_is_deleted_while_it_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Is told once, keeps everything, and has it when it is restored."""
    uri = database(tmp_path).tracking_uri
    with open_record(database(tmp_path), Opening("one"), tmp_path / "run") as record:
        log(record, range(5))
        record.end_children()
        MlflowClient(uri).delete_run(record.id)
        log(record, range(5, 10))
    assert capsys.readouterr().err.count(f"run {record.id} was deleted") == 1
    MlflowClient(uri).restore_run(record.id)
    assert replay_record(tmp_path / "run")[0] > 0
    assert recorded(uri, record.id) == ("FINISHED", everything(10))


def test_what_comes_after_a_run_is_told_and_asks_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Added to a record that was found: each loss is named, and no call follows one that was not answered."""
    with open_record(database(tmp_path), Opening("one"), tmp_path) as record:
        pass
    found = find_record(database(tmp_path), record.id)
    break_store(monkeypatch)
    asked = Mock(side_effect=MlflowException("no answer"))
    monkeypatch.setattr(MlflowClient, "log_batch", asked)
    found.log_metrics({"evaluate/loss": 2.0}, 0)
    found.set_tags({"evaluate.limited": "true"})
    found.log_artifact(tmp_path / "results.json")
    said = capsys.readouterr().err
    for lost in ("metrics of step 0", "evaluate.limited", "results.json"):
        assert f"tracking: {lost} not recorded: no answer" in said
    assert asked.call_count == 1


def test_what_a_store_never_takes_is_told_and_the_rest_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is gone, a metric that is refused among others: one line each, and nothing is left."""
    log_batch = MlflowClient.log_batch

    def picky(self: MlflowClient, run_id: str, metrics: Any = (), **more: Any) -> None:
        if any(metric.step == 2 for metric in metrics):
            raise MlflowException("no such step", error_code=INVALID_PARAMETER_VALUE)
        log_batch(self, run_id, metrics=metrics, **more)

    monkeypatch.setattr(MlflowClient, "log_batch", picky)
    with open_record(database(tmp_path), Opening("one"), tmp_path / "run") as record:
        record.log_artifact(tmp_path / "gone.png")
        log(record, range(4))
    said = capsys.readouterr().err
    assert "gone.png not recorded: " in said and "metrics of step 2 not recorded: no such step" in said
    _, found = recorded(database(tmp_path).tracking_uri, record.id)
    assert sorted({step for _, step, _ in found}) == [0, 1, 3]
    assert not (tmp_path / "run" / UNSENT).exists()


@pytest.fixture
def hanging() -> Iterator[str]:
    """The address of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_hanging_server_is_away(hanging: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is not asked the same again and again."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(NotDeliveredError, match="timed out") as raised:
        Delivery(MlflowClient(hanging), "0" * 32)([{"kind": "tags", "tags": {"a": "b"}}], False)
    assert not raised.value.answers


class Server:
    """A real `mlflow server` on a database, that can be killed and started again."""

    def __init__(self, folder: Path):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.folder = folder
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        store = ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        files = ["--artifacts-destination", f"{self.folder}/files", "--workers", "1"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), *store, *files],
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while True:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except OSError:
                assert self.process.poll() is None
                time.sleep(0.1)

    def send(self, signum: int) -> None:
        """A signal to all its processes."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signum)

    def kill(self) -> None:
        """At once."""
        self.send(signal.SIGKILL)
        if self.process is not None:
            self.process.wait(30)

    def recorded(self, run_id: str) -> tuple[str, Counter[tuple[str, int, float]]]:
        """What its database holds of a run, read beside it."""
        return recorded(f"sqlite:///{self.folder}/mlflow.db", run_id)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """One that answers."""
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


def wait_for(condition: Callable[[], object], seconds: float = 240) -> None:
    """Polls."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come about"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_outages_of_a_real_server(tmp_path: Path, server: Server) -> None:
    """Hung and continued, killed and restarted, killed for ever: every key and step exactly once, and nobody waited for it."""
    run = tmp_path / "run"
    with open_record(MlflowConf(server.uri, "test", None), Opening("one"), run) as record:
        log(record, range(10))
        wait_for(lambda: not has_unsent(run))
        server.send(signal.SIGSTOP)
        log(record, range(10, 20))
        time.sleep(10)  # longer than a call and its second try
        log(record, range(20, 30))
        server.send(signal.SIGCONT)
        wait_for(lambda: not has_unsent(run))
        assert server.recorded(record.id) == ("RUNNING", everything(30))
        server.kill()
        log(record, range(30, 40))
        time.sleep(1)
        server.start()
        log(record, range(40, 50))
        wait_for(lambda: not has_unsent(run))
        assert server.recorded(record.id) == ("RUNNING", everything(50))
        server.kill()
        log(record, range(50, 60))
    assert server.recorded(record.id) == ("RUNNING", everything(50))
    server.start()
    assert replay_record(run) == (11, 0)  # with the status
    assert server.recorded(record.id) == ("FINISHED", everything(60))
    assert MlflowClient(server.uri).get_run(record.id).data.tags["tracking"] == "degraded"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_training_goes_on_without_its_store(
    tmp_path: Path, server: Server, train: Callable[..., Any], tiny_overrides: list[str]
) -> None:
    """Its server hangs for ever from the middle of a run on: exit code 0, a remedy, and after it what an undisturbed run has."""
    uri = [f"tracking.tracking_uri={server.uri}", "tracking.artifact_location=null"]
    line = [*tiny_overrides, *uri, "trainer.max_steps=60", "trainer.logging_steps=1"]
    run, calm = tmp_path / "run", tmp_path / "calm"
    conf = load_run_conf([override for override in line if not override.startswith("hydra.")])
    run_training(conf, calm)
    assert not (calm / UNSENT).exists()

    def stop_the_server() -> None:
        key = ("train/loss", 5)
        path = run / RECORD
        wait_for(lambda: path.is_file() and key in {(k, s) for k, s, _ in server.recorded(path.read_text())[1]})
        server.send(signal.SIGSTOP)

    stopping = threading.Thread(target=stop_the_server)
    stopping.start()
    done = train(*line)
    stopping.join()
    assert done.returncode == 0, done.stderr
    assert f"python scripts/replay.py run={run}" in done.stderr
    assert read_result(run)["tracking"] == "degraded" and read_result(run)["status"] == "FINISHED"
    server.send(signal.SIGCONT)
    typed = [sys.executable, str(ROOT / "scripts" / "replay.py"), f"run={run}"]
    sent = [subprocess.run(typed, capture_output=True, text=True, timeout=120) for _ in range(2)]
    assert [one.returncode for one in sent] == [0, 0], sent[0].stderr
    assert "entries of" in sent[0].stdout and "nothing was left to send" in sent[1].stdout
    histories = [server.recorded((folder / RECORD).read_text()) for folder in (calm, run)]
    assert histories[0][0] == histories[1][0] == "FINISHED"
    counts = [Counter((key, step) for key, step, _ in found.elements()) for _, found in histories]
    assert counts[0] == counts[1] and len(counts[0]) > 100
    client = MlflowClient(server.uri)
    files = [sorted(f.path for f in client.list_artifacts((folder / RECORD).read_text())) for folder in (calm, run)]
    assert files[0] == files[1] != []


def begun_late(folder: Path) -> Any:
    """The one run of the store, with what is known of it at its beginning."""
    client = MlflowClient(database(folder).tracking_uri)
    (run,) = client.search_runs([client.get_experiment_by_name("test").experiment_id])
    assert run.info.run_name == "lora.r=8" and run.data.params == {"lora.r": "8"}
    assert (run.data.tags["git"], run.data.tags["mlflow.parentRunId"]) == ("abc", "0" * 32)
    assert (folder / "point" / RECORD).read_text() == run.info.run_id
    return run


def test_a_point_begins_without_its_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep's store that is away when a point begins gets its run when it is back; a single run is refused."""
    away = pytest.raises(TrackingError, match="no answer")
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_run", Mock(side_effect=MlflowException("no answer")))
        with away, open_record(database(tmp_path), Opening("one"), tmp_path / "one"):
            pytest.fail("is not reached")
        opened = open_record(database(tmp_path), POINT, tmp_path / "point")
        record = opened.__enter__()
        log(record, range(5))
        assert record.id == ""
    log(record, range(5, 10))
    opened.__exit__(None, None, None)
    run = begun_late(tmp_path)
    assert record.id == run.info.run_id
    assert recorded(database(tmp_path).tracking_uri, record.id) == ("FINISHED", everything(10))
    assert not has_unsent(tmp_path / "point")


def test_a_full_disk_does_not_end_what_begins_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Store and disk are away when a point begins: it is sent as soon as both are back."""
    full = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_run", Mock(side_effect=MlflowException("no answer")))
        opened = open_record(database(tmp_path), POINT, tmp_path / "point")
        record = opened.__enter__()
    writes = Mock(side_effect=[full, full, DEFAULT], wraps=write_record_id)
    monkeypatch.setattr(mlflow_record, "write_record_id", writes)
    log(record, range(5))
    for _ in range(2):
        record.end_children()  # waits for a try
    opened.__exit__(None, None, None)
    assert writes.call_count == 3
    assert recorded(database(tmp_path).tracking_uri, record.id) == ("FINISHED", everything(5))
    assert not has_unsent(tmp_path / "point")


def test_a_point_that_never_had_its_store_is_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, however often that is tried."""
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_run", Mock(side_effect=MlflowException("no answer")))
        with open_record(database(tmp_path), POINT, tmp_path / "point") as record:
            log(record, range(5))
        assert record.id == "" and has_unsent(tmp_path / "point")
        with pytest.raises(TrackingError, match="no answer"):
            replay_record(tmp_path / "point")
    spooled = (tmp_path / "point" / UNSENT).read_bytes()
    for _ in range(2):
        (tmp_path / "point" / UNSENT).write_bytes(spooled)
        assert replay_record(tmp_path / "point")[0] > 0
        assert recorded(database(tmp_path).tracking_uri, begun_late(tmp_path).info.run_id) == (
            "FINISHED",
            everything(5),
        )


def test_what_a_replay_cannot_send_is_kept_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rest arrives; the script says how many the store will never take, where they are, and does not end well."""
    run_id, run = end_in_outage(tmp_path), tmp_path / "run"
    (tmp_path / "other.txt").touch()
    (run / "linked.txt").symlink_to(tmp_path / "other.txt")
    names = (run / "gone.png", tmp_path / "other.txt", run / ".." / "other.txt", run / "linked.txt")
    lost = [{"kind": "file", "path": str(name), "folder": ""} for name in names]
    with (run / UNSENT).open("a") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in lost)
    with pytest.raises(TrackingError, match=rf"will never take 4 entries, which are in {run / REFUSED}"):
        runpy.run_path(str(ROOT / "scripts" / "replay.py"))["main"]([f"run={run}"])
    assert recorded(database(tmp_path).tracking_uri, run_id) == ("FINISHED", everything(20))
    assert [json.loads(line) for line in (run / REFUSED).read_text().splitlines()] == lost
    assert not has_unsent(run)
    said = capsys.readouterr().err
    assert "gone.png not recorded: " in said and said.count(f"lies outside of {run}") == 3
    assert [file.path for file in MlflowClient(database(tmp_path).tracking_uri).list_artifacts(run_id)] == []


def test_a_point_that_cannot_be_sent_keeps_no_other_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told when the rest has arrived; a store that does not answer is asked once, whatever the points have to say."""
    replay = runpy.run_path(str(ROOT / "scripts" / "replay.py"))["main"]
    (tmp_path / SWEEP).write_text("{}")
    run_id = end_in_outage(tmp_path)
    damaged = tmp_path / "a" / UNSENT
    damaged.parent.mkdir()
    damaged.write_bytes((tmp_path / "run" / UNSENT).read_bytes() + b'{"kind": "none"}\n')
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / UNSENT).write_bytes((tmp_path / "run" / UNSENT).read_bytes())
    with monkeypatch.context() as patch:
        break_store(patch)
        with pytest.raises(TrackingError) as caught:
            replay([f"run={tmp_path}"])
    assert [line for line in str(caught.value).splitlines() if not line.startswith("    fix: ")] == [
        f'{damaged} is no file of entries for a store: a line is no entry: {{"kind": "none"}}',
        f"{tmp_path / 'b' / UNSENT} cannot be sent to {database(tmp_path).tracking_uri}: no answer",
    ]
    with pytest.raises(TrackingError) as caught:
        replay([f"run={tmp_path}"])
    assert str(caught.value).startswith(f"{damaged} is no file of entries") and "run/unsent" not in str(caught.value)
    assert damaged.exists() and not has_unsent(tmp_path / "b") and not has_unsent(tmp_path / "run")
    assert recorded(database(tmp_path).tracking_uri, run_id) == ("FINISHED", everything(20))


@pytest.fixture
def stranger() -> Iterator[tuple[str, list[str | None]]]:
    """The address of a server, and the credentials that it was sent."""
    seen: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization"))
            self.send_error(404)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *arguments: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", seen
        server.shutdown()


def test_a_file_that_names_a_server_gets_no_credentials(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stranger: tuple[str, list[str | None]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of a run or of an artifact, neither by a replay nor by what is added to a record; where its operator names it, it does."""
    uri, seen = stranger
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "canary")
    head = {"tracking_uri": uri, "run_id": "0" * 32, "since": 0}
    entry = {"kind": "tags", "tags": {"a": "b"}}
    (tmp_path / UNSENT).write_text(f"{json.dumps(head)}\n{json.dumps(entry)}\n")
    with pytest.raises(TrackingError, match=f"fix: if they are for that server, MLFLOW_TRACKING_URI={uri}"):
        replay_record(tmp_path)
    assert find_record(MlflowConf(uri), "0" * 32).id == ""
    assert "is named by nothing but a file" in capsys.readouterr().err
    assert not seen
    find_record(MlflowConf(uri), "0" * 32, f"{uri}/")
    assert seen and set(seen) == {"Bearer canary"}
    seen.clear()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{uri}/")
    with pytest.raises(TrackingError, match="cannot be sent to"):
        replay_record(tmp_path)
    assert "Bearer canary" in seen


@pytest.mark.parametrize(("uri", "seconds"), [("http://127.0.0.1:1", 8), ("sqlite:///{}/a.db", 30)])
def test_a_run_waits_no_longer_than_is_said(
    uri: str, seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten seconds of an outage, a call that is under way included; of a database that others write to longer."""
    spools = Mock(wraps=spooling.Spool)
    monkeypatch.setattr(mlflow_record, "Spool", spools)
    monkeypatch.setattr(mlflow_record, "begin", Mock(return_value=(Mock(), "0" * 32, False)))
    with open_record(MlflowConf(uri.format(tmp_path)), Opening("one"), tmp_path):
        pass
    assert spools.call_args.args[-1] <= seconds
