"""The run record in MLflow.

It speaks to the store through `MlflowClient` and keeps no active run: MLflow's global state lets one run's numbers slip into
another's, and its exit handler calls a crashed run finished.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import platform
import re
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from medllm.config.tracking import MlflowConf
from medllm.console import console
from medllm.errors import PointPrunedError, TrackingError
from medllm.tracking.record import Opening, Record

# Fail within seconds instead of MLflow's four minutes when a server is gone.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")

ILLEGAL = re.compile(r"[^\w\-. :/]+")
LONGEST_VALUE, LONGEST_NAME, BATCH = 6000, 250, 90


def legal_name(name: str) -> str:
    """A parameter or metric name that MLflow accepts: what it refuses becomes `_`, parts of a path that say nothing, too."""
    parts = ILLEGAL.sub("_", name).strip("./ ").split("/")
    path = "/".join("_" if part in ("", ".", "..") else part for part in parts)
    return path[:LONGEST_NAME].strip("./ ") or "_"


def legal_names(names: Iterable[str]) -> dict[str, str]:
    """Each name's legal one; where several would have the same, those that were changed end in a hash of what they were."""
    legal = {name: legal_name(name) for name in names}
    taken = Counter(legal.values())
    for name, short in legal.items():
        if taken[short] > 1 and short != name:
            mark = f"_{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"
            legal[name] = short[: LONGEST_NAME - len(mark)] + mark
    return legal


def legal_value(value: Any) -> str:
    """A parameter value as text, marked where MLflow's limit cuts it; the resolved config holds it whole."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    mark = " ... (cut, see config.yaml)"
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - len(mark)] + mark


class MlflowRecord(Record):
    """A run in an MLflow store. A store that is away is told and survived: what was trained is worth more than its record."""

    def __init__(self, client: Any, run_id: str):
        self.client = client
        self.id = run_id

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Named numbers at an optimizer step; non-finite ones are left out, since MLflow stores infinity as 1.8e308."""
        from mlflow.entities import Metric

        now, names = int(time.time() * 1000), legal_names(metrics)
        entries = [Metric(names[k], float(v), now, step) for k, v in metrics.items() if math.isfinite(v)]
        with survived(f"metrics of step {step}"):
            self.client.log_batch(self.id, metrics=entries)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Copies a file into the store."""
        with survived(path.name):
            self.client.log_artifact(self.id, str(path), folder or None)

    def set_tags(self, tags: dict[str, str]) -> None:
        """Short texts."""
        with survived(", ".join(tags)):
            _log_tags(self.client, self.id, tags)

    def tag(self, name: str) -> str:
        """A tag's text; empty where there is none."""
        return str(self.client.get_run(self.id).data.tags.get(name, ""))

    def end_children(self) -> None:
        """Children whose process died without a word were killed; the store still thinks they run."""
        with survived("status of killed points"):
            experiment_id = self.client.get_run(self.id).info.experiment_id
            query = f"tags.`mlflow.parentRunId` = '{self.id}' and attributes.status = 'RUNNING'"
            for run in self.client.search_runs([experiment_id], query):
                self.client.set_terminated(run.info.run_id, "KILLED")

    def log_data(self, name: str, digest: str, source: str, context: str, num_rows: int) -> None:
        """A data set's name, digest and size."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name, digest[:36], "local", json.dumps({"uri": source}), profile=json.dumps({"num_rows": num_rows})
        )
        with survived(f"{context} data"):
            self.client.log_inputs(
                self.id, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", context)])]
            )


def connect(conf: MlflowConf) -> tuple[Any, str]:
    """A client and the experiment's id; makes database and experiment where they are missing.

    The first two users of a fresh SQLite database break it together, so its schema is made under a lock.

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


def _artifact_location(conf: MlflowConf, database: Path | None) -> str | None:
    if conf.artifact_location and "://" in conf.artifact_location:
        return conf.artifact_location
    if conf.artifact_location:
        return Path(conf.artifact_location).as_uri()
    return (database.parent / "mlruns").as_uri() if database is not None else None


@contextlib.contextmanager
def open_mlflow_record(conf: MlflowConf, opening: Opening) -> Iterator[MlflowRecord]:
    """See `medllm.tracking.build.open_record`."""
    client, experiment_id = connect(conf)
    # With them from the first moment on: a run of a process that dies at once can be found, too.
    tags = process_tags() | ({"mlflow.parentRunId": opening.parent_id} if opening.parent_id else {})
    with told(conf):
        if not opening.parent_id:
            _end_dead_runs(client, experiment_id)
        known = _known(client, opening.run_id)
        run_id = known or client.create_run(experiment_id, run_name=opening.name, tags=tags).info.run_id
    record = MlflowRecord(client, run_id)
    status = "FAILED"
    try:
        with told(conf):
            if known:
                _log_tags(client, run_id, tags)
                _reopen(client, run_id)
            kept = client.get_run(run_id).data.params if known else {}
            _log_params(client, run_id, opening.params, kept)
            _log_tags(client, run_id, opening.tags)
        yield record
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit, PointPrunedError):
        status = "KILLED"
        raise
    except Exception as error:
        with survived("reason of the failure"):
            _log_failure(record, error)
        raise
    finally:
        with survived("status"):
            client.set_terminated(record.id, status)


def find_mlflow_record(conf: MlflowConf, run_id: str) -> MlflowRecord | None:
    """The record of a run that has ended; None if the store does not answer or does not have it. Makes no store."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    quieten()
    if not is_there(conf):
        return None
    try:
        client = MlflowClient(tracking_uri=conf.tracking_uri)
        return MlflowRecord(client, run_id) if client.get_run(run_id).info.lifecycle_stage == "active" else None
    except (MlflowException, OSError):
        return None


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


def _log_tags(client: Any, run_id: str, tags: dict[str, str]) -> None:
    from mlflow.entities import RunTag

    names = legal_names(tags)
    client.log_batch(run_id, tags=[RunTag(names[name], value[:8000]) for name, value in tags.items()])


def _known(client: Any, run_id: str) -> str:
    """The id of a run that can be gone on with; empty if the store does not know it any more."""
    from mlflow.exceptions import MlflowException

    if not run_id:
        return ""
    try:
        run = client.get_run(run_id)
    except MlflowException:
        return ""
    return run_id if run.info.lifecycle_stage == "active" else ""


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
        reason = str(error).strip().split("\n")[0]
        raise TrackingError(
            f"tracking.tracking_uri={conf.tracking_uri} cannot be used: {reason}\n"
            "    fix: start the server, correct the address, or tracking=none"
        ) from None


@contextlib.contextmanager
def survived(what: str) -> Iterator[None]:
    """Lets a run go on, or end with its own error, when the store does not answer; says once per call what was lost."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        console.print(f"tracking: {what} not recorded: {reason}")


def _log_failure(record: MlflowRecord, error: Exception) -> None:
    record.set_tags({"error": f"{type(error).__name__}: {error}"})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traceback.txt"
        path.write_text("".join(traceback.format_exception(error)))
        record.log_artifact(path)
