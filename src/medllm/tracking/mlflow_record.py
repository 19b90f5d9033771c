"""The run record in MLflow.

It speaks to the store through `MlflowClient` and keeps no active run: MLflow's global state lets one run's numbers slip into
another's, and its exit handler calls a crashed run finished.
"""

import contextlib
import json
import logging
import math
import os
import platform
import shutil
import sqlite3
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from medllm.config.tracking import MlflowConf
from medllm.console import console
from medllm.errors import PointPrunedError, TrackingError
from medllm.redaction import redacted
from medllm.run_folder import RECORD_KEY, UNSENT, has_unsent, write_whole
from medllm.tracking.delivery import Delivery, log_tags, reason_of
from medllm.tracking.names import legal_names, legal_value
from medllm.tracking.record import Opening, Record
from medllm.tracking.spool import Entry, NotDeliveredError, Spool, describe, read_entries, replay

logger = logging.getLogger(__name__)

# A call ends within 8 seconds where a server hangs, and at once where it is gone, instead of MLflow's four minutes and more.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "4")

# The tag of a run that names the folder it was made for.
KEY = "record.key"

# Seconds that a run waits in all where nothing arrives: of a server that hangs, and of a database that others write to, for which
# MLflow itself waits 20.
SERVER_PATIENCE, DATABASE_PATIENCE = 8.0, 30.0
# Parameters in one call, of 100 that MLflow takes.
BATCH = 90


class MlflowRecord(Record):
    """A run in an MLflow store. A store that is away is told and survived: what was trained is worth more than its record.

    Args:
        run_id: Of the run.
        take: Brings one entry on its way: into a spool, or to the store at once.
        takes_texts: Whether patients' and models' texts may go there.
        flush: Waits for what is on its way.
    """

    def __init__(
        self, run_id: str, take: Callable[[Entry], None], takes_texts: bool, flush: Callable[[], Any] = lambda: None
    ):
        self.id, self.takes_texts = run_id, takes_texts
        self._take, self._flush = take, flush

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Named numbers at an optimizer step; non-finite ones are left out, since MLflow stores infinity as 1.8e308."""
        names = legal_names(metrics)
        finite = {names[k]: float(v) for k, v in metrics.items() if math.isfinite(v)}
        if finite:
            self._take({"kind": "metrics", "step": step, "time": _now(), "metrics": finite})

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Copies a file into the store, as it is when its turn comes."""
        self._take({"kind": "file", "path": str(path.absolute()), "folder": folder})

    def log_texts(self, path: Path, folder: str = "") -> None:
        """Copies it into the store, or says that it stays where it is."""
        if self.takes_texts:
            self.log_artifact(path, folder)
        else:
            logger.info("%s holds texts and stays in the run's folder (tracking.log_texts=false)", path.name)

    def set_tags(self, tags: dict[str, str]) -> None:
        """Short texts."""
        self._take({"kind": "tags", "tags": {name: redacted(value) for name, value in tags.items()}})

    def end_children(self) -> None:
        """Children whose process died without a word were killed; the store still thinks they run."""
        self._take({"kind": "end_children"})
        self._flush()  # later it would end those that come next, too

    def log_data(self, name: str, digest: str, source: str, context: str, num_rows: int) -> None:
        """A data set's name, digest and size."""
        told = {"source": json.dumps({"uri": source}), "profile": json.dumps({"num_rows": num_rows})}
        self._take({"kind": "data", "name": name, "digest": digest[:36], "context": context, **told})

    def fail(self, error: Exception) -> None:
        """Why the run failed."""
        self.set_tags({"error": f"{type(error).__name__}: {error}"})
        text = redacted("".join(traceback.format_exception(error)))
        self._take({"kind": "text", "path": "traceback.txt", "text": text})

    def end(self, status: str) -> None:
        """The last word."""
        self._take({"kind": "status", "status": status, "time": _now()})


def _now() -> int:
    return int(time.time() * 1000)


def connect(conf: MlflowConf) -> tuple[Any, str]:
    """A client and the experiment's id; makes database and experiment where they are missing.

    The first two users of a fresh SQLite database break it together, so its schema is made under a lock; and beside its place,
    for one whose process died in the middle of that would be refused for ever.

    Raises:
        TrackingError: if the store cannot be reached or the experiment was deleted.
    """
    from mlflow import MlflowClient

    quieten()
    database = Path(conf.tracking_uri.removeprefix("sqlite:///")) if conf.tracking_uri.startswith("sqlite:") else None
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{database}.lock") if database is not None else contextlib.nullcontext()
    with told(conf), lock:
        if database is not None and not database.exists():
            _make_database(database)
        client = MlflowClient(tracking_uri=conf.tracking_uri)
        experiment = client.get_experiment_by_name(conf.experiment_name)
        if experiment is None:
            location = _artifact_location(conf, database)
            return client, client.create_experiment(conf.experiment_name, artifact_location=location)
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"tracking.experiment_name={conf.experiment_name} was deleted\n"
            "    fix: restore it with `mlflow experiments restore`, or choose another name"
        )
    return client, experiment.experiment_id


def _make_database(database: Path) -> None:
    """A database with MLflow's tables and a write-ahead log, whole or not at all."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    prefix = f".{database.name}-"
    for dead in database.parent.glob(f"{prefix}*"):
        shutil.rmtree(dead)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=database.parent) as folder:
        made = Path(folder) / "new.db"
        store = SqlAlchemyStore(f"sqlite:///{made}", (database.parent / "mlruns").as_uri())
        store.engine.dispose()
        with contextlib.closing(sqlite3.connect(made)) as connection:
            connection.execute("pragma journal_mode=wal")  # eight that write at once take a tenth of the time
        made.replace(database)


def _artifact_location(conf: MlflowConf, database: Path | None) -> str | None:
    if conf.artifact_location and "://" in conf.artifact_location:
        return conf.artifact_location
    if conf.artifact_location:
        return Path(conf.artifact_location).as_uri()
    return (database.parent / "mlruns").as_uri() if database is not None else None


@contextlib.contextmanager
def open_mlflow_record(conf: MlflowConf, opening: Opening, folder: Path) -> Iterator[MlflowRecord]:
    """See `medllm.tracking.build.open_record`."""
    client, experiment_id = connect(conf)
    # With them from the first moment on: a run of a process that dies at once can be found, too.
    tags = process_tags() | ({"mlflow.parentRunId": opening.parent_id} if opening.parent_id else {})
    with told(conf):
        if not opening.parent_id:
            _end_dead_runs(client, experiment_id)
        known = _known(client, opening.run_id)
    if has_unsent(folder):
        replay_unsent(folder)
    with told(conf):
        known = known or _made_before(client, experiment_id, folder)
        tags |= {KEY: (folder / RECORD_KEY).read_text(encoding="utf-8")}
        run_id = known or client.create_run(experiment_id, run_name=opening.name, tags=tags).info.run_id
    head = {"tracking_uri": conf.tracking_uri, "run_id": run_id}
    patience = SERVER_PATIENCE if conf.tracking_uri.startswith("http") else DATABASE_PATIENCE
    delivery = Delivery(client, run_id, again=bool(known))
    spool = Spool(folder / UNSENT, head, delivery, conf.tracking_uri, patience)
    record = MlflowRecord(run_id, spool.append, conf.log_texts, spool.flush)
    status = "FAILED"
    try:
        with told(conf):
            if known:
                log_tags(client, run_id, tags)
                _reopen(client, run_id)
            kept = client.get_run(run_id).data.params if known else {}
            _log_params(client, run_id, opening.params, kept)
            log_tags(client, run_id, opening.tags)
        yield record
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit, PointPrunedError):
        status = "KILLED"
        raise
    except Exception as error:
        record.fail(error)
        raise
    finally:
        record.end(status)
        spool.close()


def find_mlflow_record(conf: MlflowConf, run_id: str) -> MlflowRecord | None:
    """The record of a run that has ended; None if the store does not answer or does not have it. Makes no store.

    What is added to it is sent at once. After the first time that the store does not answer, the rest is only told.
    """
    found = _find(conf, run_id)
    if found is None:
        return None
    delivery, away = Delivery(found[0], run_id), ""

    def take(entry: Entry) -> None:
        nonlocal away
        reason = away
        try:
            if not away:
                delivery([entry], False)
        except NotDeliveredError as error:
            reason, away = str(error), "" if error.answers else str(error)
        if reason:
            console.print(f"tracking: {describe(entry)} not recorded: {reason}")

    return MlflowRecord(run_id, take, conf.log_texts)


def tag_of(conf: MlflowConf, run_id: str, name: str) -> str:
    """A tag's text; empty where there is none, or no such run, or the store does not answer. Makes no store."""
    found = _find(conf, run_id)
    return "" if found is None else str(found[1].data.tags.get(name, ""))


def _find(conf: MlflowConf, run_id: str) -> tuple[Any, Any] | None:
    """A client and the run, if the store answers and has it. Makes no store."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    quieten()
    if not is_there(conf):
        return None
    try:
        client = MlflowClient(tracking_uri=conf.tracking_uri)
        run = client.get_run(run_id)
    except (MlflowException, OSError):
        return None
    return (client, run) if run.info.lifecycle_stage == "active" else None


def replay_unsent(folder: Path) -> int:
    """See `medllm.tracking.build.replay_record`."""
    from mlflow import MlflowClient

    path = folder / UNSENT
    head, _ = read_entries(path)
    conf = MlflowConf(head["tracking_uri"])
    quieten()
    try:
        if not is_there(conf):
            raise NotDeliveredError("no such database", answers=False)
        with told(conf):
            client = MlflowClient(tracking_uri=conf.tracking_uri)
        return replay(path, Delivery(client, head["run_id"]))
    except NotDeliveredError as error:
        raise TrackingError(
            f"{path} cannot be sent to {conf.tracking_uri}: {error}\n"
            "    fix: start the server, or move that file away to go on without what is in it"
        ) from None


def quieten() -> None:
    """Only errors of MLflow's are shown; called after its import, which sets levels of its own."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def is_there(conf: MlflowConf) -> bool:
    """Whether a local database exists, which opening it would make; servers are not asked."""
    uri = conf.tracking_uri
    return not uri.startswith("sqlite:") or Path(uri.removeprefix("sqlite:///")).is_file()


def process_tags() -> dict[str, str]:
    """Who keeps a run's record: enough to know later whether that process still lives."""
    process = psutil.Process()
    return {"process.host": platform.node(), "process.pid": f"{process.pid} {process.create_time():.0f}"}


def _log_params(client: Any, run_id: str, params: dict[str, Any], kept: Iterable[str]) -> None:
    """Every leaf of the configuration, in batches the store accepts; those that the run has already can't change any more."""
    from mlflow.entities import Param

    names = legal_names(params)
    entries = [Param(names[name], legal_value(value)) for name, value in params.items() if names[name] not in kept]
    for start in range(0, len(entries), BATCH):
        client.log_batch(run_id, params=entries[start : start + BATCH])


def _known(client: Any, run_id: str) -> str:
    """The id of a run that can be gone on with; empty if the store does not know it any more."""
    from mlflow.exceptions import MlflowException

    if not run_id:
        return ""
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return ""
    return run_id if run.info.lifecycle_stage == "active" else ""


def _made_before(client: Any, experiment_id: str, folder: Path) -> str:
    """The id of the run that a process made for this folder and did not live to write down; empty if there is none.

    A key tells, which is in the folder before the run is made with it.
    """
    path = folder / RECORD_KEY
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, uuid.uuid4().hex)
        return ""
    key = path.read_text(encoding="utf-8")
    found = client.search_runs([experiment_id], f"tags.`{KEY}` = '{key}'", max_results=1)
    return str(found[0].info.run_id) if found else ""


def _reopen(client: Any, run_id: str) -> None:
    """Sets a run that did not end well to RUNNING."""
    client.update_run(run_id, status="RUNNING")
    if "error" in client.get_run(run_id).data.tags:
        client.delete_tag(run_id, "error")


def _end_dead_runs(client: Any, experiment_id: str) -> None:
    """Runs of this machine whose process died without a word were killed; the store still thinks they run."""
    query = f"attributes.status = 'RUNNING' and tags.`process.host` = '{platform.node()}'"
    for run in client.search_runs([experiment_id], query):
        pid, _, created = run.data.tags["process.pid"].partition(" ")
        try:
            alive = abs(psutil.Process(int(pid)).create_time() - float(created)) < 2
        except psutil.Error:
            alive = False
        if not alive:
            client.set_terminated(run.info.run_id, "KILLED")


@contextlib.contextmanager
def told(conf: MlflowConf) -> Iterator[None]:
    """Turns what the store raises into one message."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"tracking.tracking_uri={conf.tracking_uri} cannot be used: {reason_of(error)}\n"
            "    fix: start the server, correct the address, or tracking=none"
        ) from None
