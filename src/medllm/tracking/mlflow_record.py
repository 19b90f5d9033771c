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
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from medllm.config.tracking import MlflowConf
from medllm.console import console
from medllm.errors import PointPrunedError, StoreAwayError, TrackingError, frames_in_brief, in_brief
from medllm.redaction import redacted
from medllm.run_folder import REFUSED, UNSENT, has_unsent, withdraw_degraded, write_record_id
from medllm.tracking.delivery import Delivery
from medllm.tracking.entries import Entry, describe, line_of, read_entries
from medllm.tracking.mlflow_store import (
    begin,
    client_of,
    first_tags,
    introduce,
    is_there,
    refuse_credentials,
    settle,
    store_errors,
    told,
)
from medllm.tracking.names import legal_names, legal_value
from medllm.tracking.record import Opening, Record
from medllm.tracking.spool import Deliver, NotDeliveredError, Spool, replay

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
        """Why the run failed; where texts may not go there, without words that may quote one."""
        words = str(error) if self.takes_texts else in_brief(error)
        name = type(error).__name__
        self.set_tags({"error": words if words.startswith(name) else f"{name}: {words}"})
        text = "".join(traceback.format_exception(error)) if self.takes_texts else frames_in_brief(error)
        self._take({"kind": "text", "path": "traceback.txt", "text": redacted(text)})

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

    @property
    def refused(self) -> list[Entry]:
        """See `Delivery`."""
        return self._delivery.refused if self._delivery else []

    def __call__(self, entries: Sequence[Entry], doubtful: bool) -> None:
        """See `Delivery`."""
        if self._delivery is None:
            try:
                self._delivery = self._begin()
            except (TrackingError, OSError) as error:  # the latter of the run's own folder, on a full disk
                raise NotDeliveredError(str(error).split("\n")[0], answers=False) from None
        self._delivery(entries, doubtful)


@contextlib.contextmanager
def open_mlflow_record(conf: MlflowConf, opening: Opening, folder: Path) -> Iterator[MlflowRecord]:
    """See `medllm.tracking.build.open_record`."""
    opened, started = _now(), time.monotonic()
    left = _send_left(conf, folder)
    if left:
        opening = replace(opening, run_id=left["run_id"] or opening.run_id)
    begun: tuple[Any, str, bool] | None = None
    try:
        if not left:
            begun = begin(conf, opening, folder)
    except TrackingError:
        # Of a new run nothing has been paid for yet. A point of a sweep, and a run that goes on, do so without their store.
        if not opening.parent_id and not opening.run_id:
            raise
    head: Entry = {"tracking_uri": conf.tracking_uri, "run_id": "", "since": opened}
    patience = SERVER_PATIENCE if conf.tracking_uri.startswith("http") else DATABASE_PATIENCE
    deliver: Deliver
    if begun is not None:
        client, run_id, again = begun
        head |= {"run_id": run_id, "since": opened if again else 0}
        deliver = Delivery(client, run_id, head["since"], folder)
    else:
        run_id = opening.run_id
        since = left.get("since", 0) if left else opened
        deliver = LateDelivery(lambda: _begin_late(conf, opening, folder, since, record))
        head |= {"conf": asdict(conf), "opening": _told_of(opening)}
        patience = max(patience - (time.monotonic() - started), 1.0)
    # First, since the spool's thread may begin a run at once and then gives it its id.
    record = MlflowRecord(run_id, lambda entry: spool.append(entry), conf.log_texts, lambda: spool.flush())
    spool = Spool(folder / UNSENT, head, deliver, conf.tracking_uri, patience)
    status = "FAILED"
    try:
        if begun is not None:
            introduce(conf, opening, *begun)
        elif left:
            spool.append({"kind": "go_on", "time": opened, "tags": first_tags(opening) | opening.tags})
        yield record
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit, PointPrunedError):
        status = "KILLED"
        raise
    except Exception as error:
        record.fail(error)
        raise
    finally:
        try:
            record.end(status)
            spool.close()
        except (KeyboardInterrupt, SystemExit):  # what the run's folder will say, too
            record.end("KILLED")
            spool.close()
            raise
        finally:
            settle(conf)


def _send_left(conf: MlflowConf, folder: Path) -> Entry:
    """Sends what an earlier process left in a folder, or takes it over.

    Returns:
        The head of what stays there, for the spool of this process to begin with; empty if nothing does.

    Raises:
        TrackingError: if it can neither be sent now nor later with what this process has to say.
    """
    if not has_unsent(folder):
        return {}
    head, _ = read_entries(folder / UNSENT)
    try:
        _replay(head, folder, conf.tracking_uri)
    except NotDeliveredError as error:
        if head["tracking_uri"] != conf.tracking_uri or error.fix:
            raise _untold(head, folder, error) from None
        return head
    return {}


def _told_of(opening: Opening) -> dict[str, Any]:
    """An opening as a spool's head keeps it: every parameter as the text that MLflow would show."""
    params = {name: legal_value(value) for name, value in opening.params.items()}
    tags = {name: redacted(value) for name, value in opening.tags.items()}
    return asdict(replace(opening, params=params, tags=tags))


def _begin_late(
    conf: MlflowConf, opening: Opening, folder: Path, since: int, record: MlflowRecord | None = None
) -> Delivery:
    """Begins the run of a folder whose store was away when it should have been begun."""
    client, run_id, again = begin(conf, opening, folder)
    introduce(conf, opening, client, run_id, again)
    if run_id != opening.run_id:  # a sweep that goes on has its own in its file
        write_record_id(folder, run_id)
    if record is not None:
        record.id = run_id
    return Delivery(client, run_id, since, folder)


def find_mlflow_record(conf: MlflowConf, run_id: str, named: str) -> MlflowRecord | None:
    """The record of a run that has ended; None if the store does not answer or does not have it. Makes no store.

    What is added to it is sent at once. After the first time that the store does not answer, the rest is only told.

    Raises:
        TrackingError: see `refuse_credentials`.
    """
    refuse_credentials(conf.tracking_uri, named)
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
    if not is_there(conf):
        return None
    try:
        client = client_of(conf)
        run = client.get_run(run_id)
    except store_errors():
        return None
    return (client, run) if run.info.lifecycle_stage == "active" else None


def replay_unsent(folder: Path, named: str) -> tuple[int, int]:
    """See `medllm.tracking.build.replay_record`."""
    head, _ = read_entries(folder / UNSENT)
    try:
        found = _replay(head, folder, named)
    except NotDeliveredError as error:
        raise _untold(head, folder, error) from None
    withdraw_degraded(folder)
    return found


def _replay(head: Entry, folder: Path, named: str) -> tuple[int, int]:
    """See `replay_unsent`; raises NotDeliveredError."""
    refuse_credentials(head["tracking_uri"], named)
    conf, run_id, since = MlflowConf(head["tracking_uri"]), head["run_id"], head.get("since", 0)
    if not is_there(conf):
        raise NotDeliveredError("no such database", answers=False, fix="put it back")
    try:
        late = None if run_id else (MlflowConf(**head["conf"]), Opening(**head["opening"]))
    except TypeError:
        fix = "send it with the version that wrote it"
        raise NotDeliveredError("it is of another version of medllm", answers=False, fix=fix) from None

    def reach() -> Delivery:
        if late:
            return _begin_late(*late, folder, since)
        with told(conf):
            return Delivery(client_of(conf), run_id, since, folder)

    delivery = LateDelivery(reach)
    count = replay(folder / UNSENT, delivery)
    if delivery.refused:
        with (folder / REFUSED).open("ab") as file:
            file.writelines(map(line_of, delivery.refused))
    (folder / UNSENT).unlink()
    return count - len(delivery.refused), len(delivery.refused)


def _untold(head: Entry, folder: Path, error: NotDeliveredError) -> TrackingError:
    fix = f"{error.fix or 'start the server'}, or move that file away to go on without what is in it"
    kind = TrackingError if error.answers or error.fix else StoreAwayError
    return kind(f"{folder / UNSENT} cannot be sent to {head['tracking_uri']}: {error}\n    fix: {fix}")
