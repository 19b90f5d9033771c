"""Opens the run record that the `tracking` group asks for."""

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from medllm.config.tracking import MlflowConf, NoTrackingConf, TrackingConf
from medllm.console import say
from medllm.errors import StoreAwayError, TrackingError
from medllm.tracking.record import Opening, Record


def import_tracker(conf: TrackingConf) -> None:
    """Imports what `open_record` will need, which takes a second and 0.1 GiB."""
    if isinstance(conf, MlflowConf):
        is_server = conf.tracking_uri.startswith("http")
        importlib.import_module("mlflow" if is_server else "mlflow.store.tracking.sqlalchemy_store")


@contextlib.contextmanager
def open_record(conf: TrackingConf, opening: Opening, folder: Path) -> Iterator[Record]:
    """Opens a run's record and closes it with the truth: FINISHED, FAILED with the traceback, or KILLED.

    A point that a search gave up was killed. A store that goes away while it is open costs nothing but a few seconds at the end:
    what it has not got stays in the folder, tagged `tracking=degraded`, and is sent when it is back, when the run goes on, or by
    `replay_record`.

    Args:
        conf: Of the store.
        opening: Of the run.
        folder: The run's own.

    Raises:
        TrackingError: if the store cannot be opened.
    """
    if isinstance(conf, NoTrackingConf):
        yield Record()
    elif isinstance(conf, MlflowConf):
        from medllm.tracking.mlflow_record import open_mlflow_record

        with open_mlflow_record(conf, opening, folder) as record:
            yield record
    else:
        raise TrackingError(f"tracking: no builder for {type(conf).__name__}")


def find_record(conf: TrackingConf, record_id: str, named: str = "") -> Record:
    """The record of a run that has ended, to add to it; the null one where the store does not have it, which is said.

    Args:
        conf: Of the store, as a file may have it.
        record_id: Of the run.
        named: The address that this command's own configuration names, if any does; see `refuse_credentials`.
    """
    if not isinstance(conf, MlflowConf) or not record_id:
        return Record()
    from medllm.tracking.mlflow_record import find_mlflow_record

    try:
        record = find_mlflow_record(conf, record_id, named)
    except TrackingError as error:
        say("tracking", f"nothing is recorded: {error}")
        return Record()
    if record is None:
        say("tracking", f"run {record_id} is not in {conf.tracking_uri}: nothing is recorded there")
    return record or Record()


def tag_record(conf: TrackingConf, record_id: str, tags: dict[str, str]) -> None:
    """Tags of a run that has ended; a store that is away or does not take them is told, and no failure."""
    find_record(conf, record_id).set_tags(tags)


def folder_of_record(conf: TrackingConf, record_id: str) -> str:
    """Where the run of a record left its files, relative to the project's root; empty if the store does not have it."""
    if not isinstance(conf, MlflowConf):
        return ""
    from medllm.tracking.mlflow_record import tag_of

    return tag_of(conf, record_id, "folder")


def replay_record(folder: Path, named: str = "") -> tuple[int, int]:
    """Sends what a run or a sweep could not, to the store that it was meant for, where it has not got it.

    Args:
        folder: Of a run or a sweep that no process works in, and that has something unsent.
        named: The address that this command's own configuration names, if any does; see `refuse_credentials`.

    Returns:
        How many entries the store has now, and how many it will never take, which `refused.jsonl` in the folder keeps.

    Raises:
        StoreAwayError: if the store still does not answer; they stay.
        TrackingError: if these cannot be sent; they stay.
    """
    from medllm.tracking.mlflow_record import replay_unsent

    return replay_unsent(folder, named)


def replay_records(folders: Sequence[Path], named: str = "") -> Iterator[tuple[Path, int, int, str]]:
    """`replay_record` of each, as far as it goes; once the store has not answered, the rest are not tried.

    Yields:
        Folder, what it returns, and why nothing could be sent, if so.
    """
    for folder in folders:
        try:
            yield folder, *replay_record(folder, named), ""
        except TrackingError as error:
            yield folder, 0, 0, str(error)
            if isinstance(error, StoreAwayError):
                return
