"""An MLflow store: made where there is none, reached, and a run of it begun."""

import contextlib
import logging
import os
import platform
import shutil
import sqlite3
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from filelock import FileLock

from medllm.config.compose import load_run_conf
from medllm.config.tracking import MlflowConf
from medllm.errors import TrackingError
from medllm.run_folder import RECORD_KEY, read_record_key, write_whole
from medllm.storage import is_on_network
from medllm.tracking.delivery import log_tags, reason_of, reopen
from medllm.tracking.names import legal_names, legal_value
from medllm.tracking.record import Opening

# A call ends within 8 seconds where a server hangs, and at once where it is gone, instead of MLflow's four minutes and more.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "4")

# What MLflow sends to a server, beside what ~/.mlflow/credentials holds.
CREDENTIALS = tuple(f"MLFLOW_TRACKING_{name}" for name in ("TOKEN", "USERNAME", "PASSWORD", "AUTH", "AWS_SIGV4"))

# The tag of a run that names the folder it was made for.
KEY = "record.key"

# Parameters in one call, of 100 that MLflow takes.
BATCH = 90


def connect(conf: MlflowConf) -> tuple[Any, str]:
    """A client and the experiment's id; makes database and experiment where they are missing.

    The first two users of a fresh SQLite database break it together, so its schema is made under a lock; and beside its place,
    for one whose process died in the middle of that would be refused for ever.

    Raises:
        TrackingError: if the store cannot be reached or the experiment was deleted.
    """
    database = _database(conf)
    lock = FileLock(f"{database}.lock") if database is not None else contextlib.nullcontext()
    with told(conf), lock:  # which makes the folder, too
        if database is not None and not database.exists():
            _make_database(database)
        client = client_of(conf)
        experiment = client.get_experiment_by_name(conf.experiment_name)
        if experiment is None:
            return client, client.create_experiment(conf.experiment_name, artifact_location=artifact_location(conf))
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"tracking.experiment_name={conf.experiment_name} was deleted\n"
            "    fix: restore it with `mlflow experiments restore`, or choose another name"
        )
    return client, experiment.experiment_id


def client_of(conf: MlflowConf) -> Any:
    """MLflow's client of a store; see `store_errors` for what it raises."""
    from mlflow import MlflowClient

    quieten()
    knock(conf)
    return MlflowClient(tracking_uri=conf.tracking_uri, registry_uri=conf.tracking_uri)


def refuse_credentials(uri: str, named: str = "") -> None:
    """Keeps credentials from a server that a file alone names, a run's or an artifact's, which may have come from elsewhere.

    MLflow sends what the environment holds to whichever server it is asked to speak to.

    Args:
        uri: As the file has it.
        named: The address that this command's own configuration names.

    Raises:
        TrackingError: if there are credentials, and neither that, nor the configuration's own, nor MLFLOW_TRACKING_URI is the
            server's.
    """
    held = any(os.environ.get(name) for name in CREDENTIALS) or (Path.home() / ".mlflow" / "credentials").is_file()
    if not uri.startswith("http") or not held:
        return
    own = getattr(load_run_conf([]).tracking, "tracking_uri", "")  # with what `conf/local` has
    origins = [urlsplit(address)[:2] for address in (uri, named, own, os.environ.get("MLFLOW_TRACKING_URI", ""))]
    if origins[0] not in origins[1:]:
        raise TrackingError(
            f"{uri} is named by nothing but a file, and gets no credentials of MLflow's, which are set\n"
            f"    fix: if they are for that server, MLFLOW_TRACKING_URI={uri} or tracking.tracking_uri in conf/local/default.yaml"
        )


def knock(conf: MlflowConf) -> None:
    """Connects once to a database server: one that refuses MLflow asks ten times, in 100 seconds, before it says so."""
    if conf.tracking_uri.startswith(("sqlite:", "http", "databricks")):
        return
    from mlflow.store.db.utils import create_sqlalchemy_engine

    engine = create_sqlalchemy_engine(conf.tracking_uri)
    engine.connect().close()
    engine.dispose()


def _make_database(database: Path) -> None:
    """A database with MLflow's tables, and a write-ahead log where one may lie, whole or not at all.

    Such a log needs memory that all its users share: https://sqlite.org/wal.html. On a network's file system SQLite's own journal
    stays.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    quieten()
    prefix = f".{database.name}-"
    for dead in database.parent.glob(f"{prefix}*"):
        shutil.rmtree(dead)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=database.parent) as folder:
        made = Path(folder) / "new.db"
        store = SqlAlchemyStore(f"sqlite:///{made}", (database.parent / "mlruns").as_uri())
        store.engine.dispose()
        if not is_on_network(database.parent):
            with contextlib.closing(sqlite3.connect(made)) as connection:
                connection.execute("pragma journal_mode=wal")  # eight that write at once take a tenth of the time
        made.replace(database)


def settle(conf: MlflowConf) -> None:
    """Brings what a write-ahead log still holds into the database's file, which is the whole store where nobody writes to it."""
    path = _database(conf)
    if path is None or not path.is_file():  # which looking would make
        return
    with (
        contextlib.suppress(sqlite3.Error),  # somebody else has it: the last of them settles it
        contextlib.closing(sqlite3.connect(path, timeout=1)) as connection,
    ):
        connection.execute("pragma wal_checkpoint(truncate)")


def _database(conf: MlflowConf) -> Path | None:
    return Path(conf.tracking_uri.removeprefix("sqlite:///")) if conf.tracking_uri.startswith("sqlite:") else None


def artifact_location(conf: MlflowConf) -> str | None:
    """Where a new experiment keeps its files, an address: as configured or beside the database; None leaves it to the server."""
    database = _database(conf)
    if conf.artifact_location and "://" in conf.artifact_location:
        return conf.artifact_location
    if conf.artifact_location:
        return Path(conf.artifact_location).as_uri()
    return (database.parent / "mlruns").as_uri() if database is not None else None


def begin(conf: MlflowConf, opening: Opening, folder: Path) -> tuple[Any, str, bool]:
    """Reaches the run of a folder, or makes it.

    Returns:
        MLflow's client, the run's id, and whether an earlier process has recorded there.

    Raises:
        OSError: if the folder cannot be written to.
        TrackingError: if the store cannot be reached.
    """
    client, experiment_id = connect(conf)
    key, is_new = _key(folder)
    with told(conf):
        if not opening.parent_id:
            _end_dead_runs(client, experiment_id)
        known = _known(client, opening.run_id) or ("" if is_new else _made_before(client, experiment_id, key))
        tags = first_tags(opening) | {KEY: key}
        run_id = known or client.create_run(experiment_id, run_name=opening.name, tags=tags).info.run_id
    return client, run_id, bool(known)


def introduce(conf: MlflowConf, opening: Opening, client: Any, run_id: str, again: bool) -> None:
    """Records what is known of a run at its beginning.

    Raises:
        TrackingError: if the store does not take it.
    """
    with told(conf):
        if again:
            reopen(client, run_id, first_tags(opening))
        kept = client.get_run(run_id).data.params if again else {}
        _log_params(client, run_id, opening.params, kept)
        log_tags(client, run_id, opening.tags)


def first_tags(opening: Opening) -> dict[str, str]:
    """From the first moment on: a run of a process that dies at once can be found, too."""
    return process_tags() | ({"mlflow.parentRunId": opening.parent_id} if opening.parent_id else {})


def quieten() -> None:
    """Only errors of MLflow's are shown; called after its import, which sets levels of its own."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs a traceback of what it raises, too


def is_there(conf: MlflowConf) -> bool:
    """Whether a local database exists, which opening it would make; servers are not asked."""
    database = _database(conf)
    return database is None or database.is_file()


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


def _key(folder: Path) -> tuple[str, bool]:
    """What names a folder in the store, and whether it has only now been given."""
    key = read_record_key(folder)
    if key:
        return key, False
    folder.mkdir(parents=True, exist_ok=True)
    key = uuid.uuid4().hex
    write_whole(folder / RECORD_KEY, key)
    return key, True


def _made_before(client: Any, experiment_id: str, key: str) -> str:
    """The id of the run that a process made for a folder and did not live to write down; empty if there is none.

    The key tells, which is in the folder before the run is made with it.
    """
    found = client.search_runs([experiment_id], f"tags.`{KEY}` = '{key}'", max_results=1)
    return str(found[0].info.run_id) if found else ""


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


def store_errors() -> tuple[type[Exception], ...]:
    """What a store raises that cannot be used: MLflow, files, and databases, whose driver may not be installed."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, OSError, SQLAlchemyError, ImportError


@contextlib.contextmanager
def told(conf: MlflowConf) -> Iterator[None]:
    """Turns what the store raises into one message."""
    try:
        yield
    except store_errors() as error:
        raise TrackingError(
            f"tracking.tracking_uri={conf.tracking_uri} cannot be used: {reason_of(error)}\n"
            "    fix: start the server, correct the address, or tracking=none"
        ) from None
