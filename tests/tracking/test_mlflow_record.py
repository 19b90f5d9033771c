"""The run record tells the truth."""

import contextlib
import logging
import multiprocessing
import os
import shutil
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.tracking import sqlalchemy_store

from medllm.config.tracking import MlflowConf, NoTrackingConf
from medllm.config.ui import UiConf
from medllm.errors import TrackingError
from medllm.tracking import mlflow_store
from medllm.tracking.build import find_record, folder_of_record, open_record
from medllm.tracking.feedback import FeedbackStore
from medllm.tracking.mlflow_store import connect, process_tags
from medllm.tracking.names import legal_name, legal_value
from medllm.tracking.record import Opening, flatten
from medllm.tracking.registry import Registry
from medllm.tracking.ui import show_runs


def store(folder: Path) -> MlflowConf:
    """A database of its own."""
    return MlflowConf(f"sqlite:///{folder}/mlflow.db", "test", f"{folder}/mlruns")


def runs(folder: Path) -> list:
    """All runs of that database."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("test")
    return client.search_runs([experiment.experiment_id])


def test_a_finished_run(tmp_path: Path) -> None:
    """Parameters under their paths, metrics by step, files, data by digest, FINISHED."""
    opening = Opening("one", {"lora.r": 8, "lora.target_modules": ["q", "v"], "data.path": None}, {"git": "abc"})
    with open_record(store(tmp_path), opening, tmp_path) as record:
        record.log_metrics({"train/loss": 2.0}, 1)
        record.log_metrics({"train/loss": 1.0, "eval/loss": 1.5}, 2)
        record.log_data("dialogues", "f" * 64, "data/dialogues.jsonl", "training", 10)
        (tmp_path / "file.txt").write_text("x")
        record.log_artifact(tmp_path / "file.txt")
    (run,) = runs(tmp_path)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"lora.r": "8", "lora.target_modules": '["q", "v"]', "data.path": "null"}
    assert (run.data.metrics, run.data.tags["git"]) == ({"train/loss": 1.0, "eval/loss": 1.5}, "abc")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")] == [(1, 2.0), (2, 1.0)]
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["file.txt"]
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("dialogues", "f" * 36)


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("bad"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(143), "KILLED")]
)
def test_a_run_that_does_not_finish(tmp_path: Path, error: BaseException, status: str) -> None:
    """FAILED with the traceback, or KILLED; the exception goes on."""
    with pytest.raises(type(error)), open_record(store(tmp_path), Opening("one"), tmp_path):
        raise error
    (run,) = runs(tmp_path)
    assert run.info.status == status
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    files = [file.path for file in client.list_artifacts(run.info.run_id)]
    assert files == (["traceback.txt"] if status == "FAILED" else [])


def test_a_failed_run_leaves_nothing_for_the_next(tmp_path: Path) -> None:
    """Two runs in one process keep their own parameters and numbers."""
    with (
        pytest.raises(ValueError),
        open_record(store(tmp_path), Opening("one", {"lora.r": 8}), tmp_path / "one") as record,
    ):
        record.log_metrics({"train/loss": 9.0}, 1)
        raise ValueError
    with open_record(store(tmp_path), Opening("two", {"lora.r": 16}), tmp_path / "two") as record:
        record.log_metrics({"eval/loss": 1.0}, 1)
    by_name = {run.info.run_name: run for run in runs(tmp_path)}
    assert by_name["one"].data.metrics == {"train/loss": 9.0}
    assert by_name["two"].data.metrics == {"eval/loss": 1.0}
    assert by_name["two"].data.params == {"lora.r": "16"}


def test_names_and_values_that_mlflow_refuses(tmp_path: Path) -> None:
    """They are made legal one by one, and none of the others is lost."""
    params = {"a@b": 1, "x[0]": 2, "c=d": 3, "../e": 4, "ü": 5, "long": "y" * 10_000, "k" * 400: 6}
    with open_record(store(tmp_path), Opening("one", params), tmp_path):
        pass
    (run,) = runs(tmp_path)
    assert len(run.data.params) == len(params)
    assert (legal_name("a@b"), legal_name("x[0]"), legal_name("lora.r")) == ("a_b", "x_0_", "lora.r")
    assert run.data.params["long"].endswith("(cut, see config.yaml)")
    assert legal_value([1, "é"]) == '[1, "é"]'


def test_no_name_takes_the_place_of_another(tmp_path: Path) -> None:
    """A hundred odd names, many of which come to the same: every value arrives, and what was legal keeps its name."""
    odd = [f"a{char}b" for char in "_@=[]{}()!?#$%&*+,;<>|~^\"'\\\t\n"]
    odd += [
        f"{before}c{after}"
        for before in ("", "/", "./", "../", "//", " ")
        for after in ("", "/", "/.", "/..", "//", " ")
    ]
    odd += ["d//e", "d/./e", "d/../e", "d/_/e", "", ".", "..", "/", "_", "é", "e\u0301", "\U0001f600", "\u202e", "日本"]
    odd += [f"{'k' * length}{end}" for length in (249, 250, 251, 400) for end in ("1", "2", "@", "/x")]
    odd += [f"lora.{number}" for number in range(100 - len(odd))]
    params = {name: f"value {number}" for number, name in enumerate(odd)}
    assert len(params) >= 100
    with open_record(store(tmp_path), Opening("one", params), tmp_path):
        pass
    (run,) = runs(tmp_path)
    assert sorted(run.data.params.values()) == sorted(params.values())
    assert (run.data.params["a_b"], run.data.params["lora.0"]) == (params["a_b"], params["lora.0"])


def test_non_finite_numbers_are_left_out(tmp_path: Path) -> None:
    """MLflow would store infinity as a number."""
    with open_record(store(tmp_path), Opening("one"), tmp_path) as record:
        record.log_metrics({"a": float("inf"), "b": float("nan"), "c": 1.0}, 1)
    assert runs(tmp_path)[0].data.metrics == {"c": 1.0}


def _first_users(folder: str, number: int, repeats: int, steps: int, together: Any) -> None:
    """One of several processes that open the same database in the same moment, again and again another one."""
    for repeat in range(repeats):
        home = Path(folder) / str(repeat)
        together.wait(200)
        with open_record(store(home), Opening(f"run {number}", {"number": number}), home / str(number)) as record:
            for step in range(steps):
                record.log_metrics({"train/loss": step}, step)


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("fresh_database")
@pytest.mark.parametrize(("users", "repeats", "steps"), [(3, 1, 100), pytest.param(8, 20, 100, marks=pytest.mark.slow)])
def test_a_fresh_database_survives_simultaneous_first_users(
    tmp_path: Path, users: int, repeats: int, steps: int
) -> None:
    """Processes open a database that does not exist yet, as one: one experiment, and all their runs are there and whole."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "mlflow.store.tracking.sqlalchemy_store"])  # once instead of in each
    together = context.Barrier(users)
    processes = [
        context.Process(target=_first_users, args=(str(tmp_path), number, repeats, steps, together))
        for number in range(users)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(390)
    assert [process.exitcode for process in processes] == [0] * users
    for repeat in range(repeats):
        found = runs(tmp_path / str(repeat))
        assert sorted(run.data.params["number"] for run in found) == [str(number) for number in range(users)]
        assert {run.info.status for run in found} == {"FINISHED"}
        with sqlite3.connect(tmp_path / str(repeat) / "mlflow.db") as database:
            counts = database.execute(
                "select count(*), count(distinct run_uuid || ' ' || step) from metrics"
            ).fetchone()
            named = database.execute("select count(*) from experiments where name = 'test'").fetchone()
            journal = database.execute("pragma journal_mode").fetchone()
        assert journal == ("wal",)
        assert counts == (users * steps, users * steps) and named == (1,)


def _killed(folder: str, place: str) -> None:
    """Dies without a word where it is told to: at a call of the client, or in the middle of the run."""

    def die(*arguments: Any, **more: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if place != "open":
        setattr(MlflowClient, place, die)
    with open_record(
        store(Path(folder)), Opening(place, {"lora.r": 8}, {"git": "abc"}), Path(folder) / str(os.getpid())
    ):
        die()


def test_a_run_that_nobody_wrote_down_is_found_again(tmp_path: Path) -> None:
    """The folder's key names it: a process that died in between leaves no second run; another folder is another run."""
    ids = []
    for name in ("one", "one", "two"):
        with pytest.raises(SystemExit), open_record(store(tmp_path), Opening("run"), tmp_path / name) as record:
            ids.append(record.id)
            raise SystemExit(143)
    assert ids[0] == ids[1] != ids[2]
    assert len(runs(tmp_path)) == 2


def test_steps_that_are_done_again_count_once(tmp_path: Path) -> None:
    """The same number at the same step is not recorded twice; another one is, unless it is a clock's."""
    for losses in ((4.0, 3.0, 2.0), (3.0, 2.5, 1.0)):
        with open_record(store(tmp_path), Opening("run"), tmp_path / "run") as record:
            for step, loss in enumerate(losses, start=1 if losses[0] == 4.0 else 2):
                record.log_metrics({"train/loss": loss, "perf/tokens_per_second": 100 * loss + step}, step)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = runs(tmp_path)
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted((metric.step, metric.value) for metric in history) == [
        (1, 4.0),
        (2, 3.0),
        (3, 2.0),
        (3, 2.5),
        (4, 1.0),
    ]


@pytest.mark.slow
def test_a_killed_process_leaves_no_run_that_seems_to_run(tmp_path: Path) -> None:
    """Wherever it died after the run was made, the next record to open says KILLED."""
    with open_record(store(tmp_path), Opening("first"), tmp_path / "first"):
        pass
    context = multiprocessing.get_context("spawn")
    places = ("log_batch", "open")
    dying = [context.Process(target=_killed, args=(str(tmp_path), place)) for place in places]
    for process in dying:
        process.start()
    for process in dying:
        process.join(120)
    assert [process.exitcode for process in dying] == [-signal.SIGKILL] * len(places)
    assert "RUNNING" in {run.info.status for run in runs(tmp_path)}
    with open_record(store(tmp_path), Opening("next"), tmp_path / "next"):
        pass
    found = {run.info.run_name: run.info.status for run in runs(tmp_path)}
    assert found == {"first": "FINISHED", **dict.fromkeys(places, "KILLED"), "next": "FINISHED"}


def test_a_process_is_known_by_its_host_its_number_and_its_start(tmp_path: Path) -> None:
    """A number that another process has by now is no sign of life; what another host keeps is left alone."""
    here, (pid, started) = process_tags(), (os.getpid(), psutil.Process().create_time())
    client, experiment_id = connect(store(tmp_path))
    for name, tags in {
        "alive": here,
        "another process": here | {"process.pid": f"{pid} {started - 3600:.0f}"},
        "another host": {"process.host": "elsewhere", "process.pid": "1 0"},
    }.items():
        client.create_run(experiment_id, run_name=name, tags=tags)
    with open_record(store(tmp_path), Opening("next"), tmp_path / "next"):
        pass
    found = {run.info.run_name: run.info.status for run in runs(tmp_path)}
    assert found == {"alive": "RUNNING", "another process": "KILLED", "another host": "RUNNING", "next": "FINISHED"}


def test_a_record_that_cannot_be_filled_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interruption or a fault between the making of a run and its first words leaves it with the truth."""
    for error, status in ((KeyboardInterrupt, "KILLED"), (MlflowException, "FAILED")):
        monkeypatch.setattr(MlflowClient, "log_batch", Mock(side_effect=error("now")))
        refused = pytest.raises(KeyboardInterrupt if status == "KILLED" else TrackingError)
        with refused, open_record(store(tmp_path), Opening(status, {"lora.r": 8}), tmp_path / status):
            pytest.fail("is not reached")
    assert {run.info.run_name: run.info.status for run in runs(tmp_path)} == {"KILLED": "KILLED", "FAILED": "FAILED"}


@pytest.mark.parametrize("uri", ["sqlite:///{}/text", "sqlite:///{}/text/m.db", "mysql+nodriver://h/runs"])
def test_what_is_no_database_is_told(tmp_path: Path, uri: str) -> None:
    """A file of another kind, a place that cannot be, a driver that is not there: one message, whoever asks."""
    (tmp_path / "text").write_text("no database")
    conf = MlflowConf(uri.format(tmp_path))
    with pytest.raises(TrackingError, match="cannot be used"), open_record(conf, Opening("one"), tmp_path / "run"):
        pass
    assert find_record(conf, "0" * 32).id == ""


def test_a_database_server_that_refuses_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked once, whoever asks, instead of the ten times in 100 seconds that MLflow takes."""
    asked = Mock(side_effect=sqlite3.OperationalError("Connection refused"))
    errors = {name: kind for name, kind in vars(sqlite3).items() if name.endswith("Error")}
    monkeypatch.setitem(sys.modules, "pymysql", Mock(connect=asked, paramstyle="pyformat", **errors))
    conf = MlflowConf("mysql+pymysql://127.0.0.1:1/x")
    for number, use in enumerate(
        (
            lambda: open_record(conf, Opening("one"), tmp_path / "run").__enter__(),
            lambda: Registry(conf),
            lambda: FeedbackStore(conf),
            lambda: show_runs(UiConf(0, conf)),
        )
    ):
        with pytest.raises(TrackingError, match=r"127.0.0.1:1/x cannot be used: .*Connection refused\n +fix: "):
            use()
        assert asked.call_count == number + 1
    assert find_record(conf, "0" * 32).id == ""
    assert asked.call_count == 5


def test_a_run_whose_folder_lost_its_key(tmp_path: Path, database: Path) -> None:
    """Goes on in its record all the same: its id is written down, too."""
    with open_record(store(tmp_path), Opening("one"), tmp_path / "run") as first:
        pass
    (tmp_path / "run" / "record_key").unlink()
    with open_record(store(tmp_path), Opening("one", run_id=first.id), tmp_path / "run") as again:
        pass
    assert again.id == first.id
    assert (tmp_path / "run" / "record_key").is_file()


def test_faults_of_the_store_are_told(tmp_path: Path) -> None:
    """An unreachable server and a deleted experiment: one message with the remedy."""
    conf = MlflowConf("http://127.0.0.1:9", "test", None)
    with (
        pytest.raises(TrackingError, match=r"tracking.tracking_uri=http://127.0.0.1:9 cannot be used"),
        open_record(conf, Opening("one"), tmp_path),
    ):
        pass
    with open_record(store(tmp_path), Opening("one"), tmp_path):
        pass
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    client.delete_experiment(client.get_experiment_by_name("test").experiment_id)
    with pytest.raises(TrackingError, match="was deleted"), open_record(store(tmp_path), Opening("two"), tmp_path):
        pass


def test_flatten() -> None:
    """Dotted paths; lists are leaves."""
    assert flatten({"lora": {"r": 8, "t": ["q"]}, "seed": 1}) == {"lora.r": 8, "lora.t": ["q"], "seed": 1}


def test_a_record_is_found_again(tmp_path: Path) -> None:
    """What comes after a run is added to its record, which stays FINISHED; its folder is known by its id."""
    with open_record(store(tmp_path), Opening("one", tags={"folder": "outputs/one"}), tmp_path) as record:
        pass
    again = find_record(store(tmp_path), record.id)
    again.log_metrics({"evaluate/quick/tuned/conversation/loss": 2.5}, 0)
    (run,) = runs(tmp_path)
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"evaluate/quick/tuned/conversation/loss": 2.5})
    assert folder_of_record(store(tmp_path), record.id) == "outputs/one"
    assert folder_of_record(store(tmp_path), "0" * 32) == ""


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_database")
def test_a_new_database_is_made_without_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """MLflow would tell of each of its migrations; the first thing that a process asks of it may be that."""
    for name, level in (
        ("mlflow", logging.INFO),
        ("mlflow.store.db.utils", logging.NOTSET),
    ):  # as its import leaves them
        logging.getLogger(name).setLevel(level)
    connect(store(tmp_path))
    assert capsys.readouterr().err == ""


def test_a_record_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The null record and one line; no store is made by looking."""
    record = find_record(store(tmp_path / "none"), "0" * 32)
    record.log_metrics({"x": 1.0}, 0)
    assert record.id == ""
    assert "nothing is recorded there" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert find_record(NoTrackingConf(), "0" * 32).id == ""


def test_the_store_is_one_file(tmp_path: Path) -> None:
    """When a run has ended, a copy of its database alone has all of it."""
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as made:
        made.execute("pragma journal_mode=wal")
    with open_record(store(tmp_path), Opening("one"), tmp_path / "one") as record:
        record.log_metrics({"eval/loss": 1.0}, 1)
    (tmp_path / "copy").mkdir()
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "copy")
    (run,) = runs(tmp_path / "copy")
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"eval/loss": 1.0})


@pytest.mark.usefixtures("fresh_database")
def test_no_write_ahead_log_on_a_network(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database made there has SQLite's own journal, and takes runs; one made elsewhere has the log."""
    make = Mock(side_effect=lambda uri, files: shutil.copy(empty_database, uri.removeprefix("sqlite:///")) and Mock())
    for shared, journal in ((True, "delete"), (False, "wal")):
        with monkeypatch.context() as patched:
            patched.setattr(sqlalchemy_store, "SqlAlchemyStore", make)
            patched.setattr(mlflow_store, "is_on_network", lambda folder, shared=shared: shared)
            mlflow_store._make_database(tmp_path / f"{journal}.db")
        with contextlib.closing(sqlite3.connect(tmp_path / f"{journal}.db")) as database:
            assert database.execute("pragma journal_mode").fetchone() == (journal,)
    conf = MlflowConf(f"sqlite:///{tmp_path}/delete.db", "test", f"{tmp_path}/mlruns")
    with open_record(conf, Opening("one"), tmp_path / "run") as record:
        record.log_metrics({"eval/loss": 1.0}, 1)
    assert MlflowClient(conf.tracking_uri).get_run(record.id).data.metrics == {"eval/loss": 1.0}


@pytest.mark.slow
def test_a_database_is_made_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies while MLflow makes its tables leaves nothing in the way of the next one."""
    from alembic import command

    class Killed(BaseException):
        pass

    upgrade, conf = command.upgrade, MlflowConf(tracking_uri=f"sqlite:///{tmp_path}/m.db")

    def die(*arguments: Any) -> None:
        upgrade(*arguments)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(command, "upgrade", die)
        with pytest.raises(Killed):
            connect(conf)
    assert not (tmp_path / "m.db").exists()
    client, experiment_id = connect(conf)
    assert client.get_experiment(experiment_id).name == conf.experiment_name
