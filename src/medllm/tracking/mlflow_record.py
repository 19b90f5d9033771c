"""The run record in MLflow.

It speaks to the store through `MlflowClient` and keeps no active run: MLflow's global state lets one run's numbers slip into
another's, and its exit handler calls a crashed run finished.
"""

import contextlib
import json
import logging
import math
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medllm.config.tracking import MlflowConf
from medllm.console import console
from medllm.errors import PointPrunedError, TrackingError
from medllm.redaction import redacted
from medllm.run_folder import UNSENT, has_unsent, write_record_id
from medllm.tracking.delivery import Delivery
from medllm.tracking.mlflow_store import begin, introduce, is_there, quieten, settle, store_errors, told
from medllm.tracking.names import legal_names
from medllm.tracking.record import Opening, Record
from medllm.tracking.spool import Deliver, Entry, NotDeliveredError, Spool, describe, read_entries, replay

logger = logging.getLogger(__name__)

# Seconds that a run waits in all where nothing arrives: of a server that hangs, and of a database that others write to, for which
# MLflow itself waits 20.
SERVER_PATIENCE, DATABASE_PATIENCE = 8.0, 30.0


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


class LateDelivery:
    """Brings entries to a run that is begun when its store answers.

    Args:
        begin: Begins it, as often as it takes.
    """

    def __init__(self, begin: Callable[[], Delivery]):
        self._begin = begin
        self._delivery: Delivery | None = None

    def __call__(self, entries: Sequence[Entry], doubtful: bool) -> None:
        """See `Delivery`."""
        if self._delivery is None:
            try:
                self._delivery = self._begin()
            except TrackingError as error:
                raise NotDeliveredError(str(error).split("\n")[0], answers=False) from None
        self._delivery(entries, doubtful)


@contextlib.contextmanager
def open_mlflow_record(conf: MlflowConf, opening: Opening, folder: Path) -> Iterator[MlflowRecord]:
    """See `medllm.tracking.build.open_record`."""
    if has_unsent(folder):
        replay_unsent(folder)
    head: Entry = {"tracking_uri": conf.tracking_uri}
    patience = SERVER_PATIENCE if conf.tracking_uri.startswith("http") else DATABASE_PATIENCE
    started = time.monotonic()
    deliver: Deliver
    again, client, run_id = False, None, ""
    try:
        client, run_id, again = begin(conf, opening, folder)
        deliver = Delivery(client, run_id, again=again)
        head["run_id"] = run_id
    except TrackingError:
        if not opening.parent_id:  # of a single run nothing has been paid for yet
            raise
        # A sweep, whose record was opened, goes on where its store goes away between two points.
        deliver = LateDelivery(lambda: _begin_late(conf, opening, folder, record))
        head |= {"run_id": "", "conf": asdict(conf), "opening": asdict(opening)}
        patience = max(patience - (time.monotonic() - started), 1.0)
    spool = Spool(folder / UNSENT, head, deliver, conf.tracking_uri, patience)
    record = MlflowRecord(run_id, spool.append, conf.log_texts, spool.flush)
    status = "FAILED"
    try:
        if run_id:
            introduce(conf, opening, client, run_id, again)
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
        settle(conf)


def _begin_late(conf: MlflowConf, opening: Opening, folder: Path, record: MlflowRecord | None = None) -> Delivery:
    """Begins the run of a folder whose store was away when it should have been begun."""
    client, run_id, again = begin(conf, opening, folder)
    introduce(conf, opening, client, run_id, again)
    write_record_id(folder, run_id)
    if record is not None:
        record.id = run_id
    return Delivery(client, run_id, again=again)


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

    quieten()
    if not is_there(conf):
        return None
    try:
        client = MlflowClient(tracking_uri=conf.tracking_uri)
        run = client.get_run(run_id)
    except store_errors():
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
        if not head["run_id"]:
            opening = Opening(**head["opening"])
            return replay(path, LateDelivery(lambda: _begin_late(MlflowConf(**head["conf"]), opening, folder)))
        with told(conf):
            client = MlflowClient(tracking_uri=conf.tracking_uri)
        return replay(path, Delivery(client, head["run_id"]))
    except NotDeliveredError as error:
        raise TrackingError(
            f"{path} cannot be sent to {conf.tracking_uri}: {error}\n"
            "    fix: start the server, or move that file away to go on without what is in it"
        ) from None
