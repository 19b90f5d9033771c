"""Entries of a spool as calls of MLflow's client, each of which may come twice and counts once."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medllm.console import console
from medllm.redaction import redacted
from medllm.tracking.entries import Entry, describe
from medllm.tracking.names import legal_names
from medllm.tracking.spool import NotDeliveredError

# How urllib3 ends what it says of a connection.
CAUSE = re.compile(r"Caused by .*: ([^:'\"]+)['\"]\)")

# Metrics that a clock decides, and nothing that was computed.
CLOCKS = "perf/"


class Delivery:
    """Brings entries to a run.

    Args:
        client: MLflow's.
        run_id: Of the run.
        since: When the process whose entries they are began, if an earlier one may have recorded there, in ms; else 0. A number
            that was recorded before then at the same step is not sent again: a run that goes on from a checkpoint repeats the
            steps after it.
        folder: The run's own: files of other places are not sent, since entries may come from a file. None for entries of this
            process.

    Attributes:
        refused: What the store will never take.
    """

    def __init__(self, client: Any, run_id: str, since: int = 0, folder: Path | None = None):
        self._client, self._run_id, self._since = client, run_id, since
        self._folder = folder
        self.refused: list[Entry] = []
        self._there: dict[str, set[tuple[int, int]]] = {}
        self._before: dict[str, set[tuple[int, float]]] = {}

    def __call__(self, entries: Sequence[Entry], doubtful: bool) -> None:
        """Sends them, in one call.

        Args:
            entries: One, or several of metrics.
            doubtful: Whether the store may have some of them already; then it is asked which.

        Raises:
            NotDeliveredError: if they may not have arrived. What never can is told, and is no error.
        """
        try:
            self._send(entries, doubtful)
        except Exception as error:  # a store of artifacts has errors of its own library
            self._there.clear()
            stage = self._stage()
            if stage == "deleted":  # it may be had back, and then everything in its order
                fix = f"`mlflow runs restore --run-id {self._run_id}` where the store is"
                raise NotDeliveredError(f"run {self._run_id} was deleted", answers=False, fix=fix) from None
            if not _is_refused(error):
                raise NotDeliveredError(reason_of(error), answers=bool(stage)) from None
            if len(entries) > 1:
                for entry in entries:
                    self([entry], doubtful)
            else:
                console.print(f"tracking: {describe(entries[0])} not recorded: {reason_of(error)}")
                self.refused += entries

    def _send(self, entries: Sequence[Entry], doubtful: bool) -> None:
        entry, client, run_id = entries[0], self._client, self._run_id
        match entry["kind"]:
            case "metrics":
                self._send_metrics(entries, doubtful)
            case "tags":
                log_tags(client, run_id, entry["tags"])
            case "file":
                client.log_artifact(run_id, self._own(entry["path"]), entry["folder"] or None)
            case "text":
                client.log_text(run_id, entry["text"], entry["path"])
            case "data":
                self._send_data(entry)
            case "end_children":
                self._end_children()
            case "go_on":
                self._go_on(entry)
            case "status":
                client.set_terminated(run_id, entry["status"], entry["time"])

    def _own(self, path: str) -> str:
        """A file of the run's."""
        if self._folder is not None and not Path(path).resolve().is_relative_to(self._folder.resolve()):
            raise FileNotFoundError(f"{path} lies outside of {self._folder}")
        return path

    def _send_metrics(self, entries: Sequence[Entry], doubtful: bool) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(key, value, entry["time"], entry["step"])
            for entry in entries
            for key, value in entry["metrics"].items()
        ]
        if self._since:
            metrics = [m for m in metrics if _number(m) not in self._known_before(m.key)]
        if doubtful:
            metrics = [m for m in metrics if (m.step, m.timestamp) not in self._known(m.key)]
        else:
            self._there.clear()
        if metrics:
            self._client.log_batch(self._run_id, metrics=metrics)

    def _known(self, key: str) -> set[tuple[int, int]]:
        """Steps and times at which the store has a metric."""
        if key not in self._there:
            self._there[key] = {(m.step, m.timestamp) for m in self._client.get_metric_history(self._run_id, key)}
        return self._there[key]

    def _known_before(self, key: str) -> set[tuple[int, float]]:
        """Numbers of a metric from before the process whose entries these are."""
        if key not in self._before:
            history = self._client.get_metric_history(self._run_id, key)
            self._before[key] = {_number(m) for m in history if m.timestamp < self._since}
        return self._before[key]

    def _go_on(self, entry: Entry) -> None:
        """What comes is of another process than what came."""
        reopen(self._client, self._run_id, entry["tags"])
        self._since = entry["time"]
        self._before.clear()

    def _send_data(self, entry: Entry) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(entry["name"], entry["digest"], "local", entry["source"], profile=entry["profile"])
        given = DatasetInput(dataset, [InputTag("mlflow.data.context", entry["context"])])
        self._client.log_inputs(self._run_id, datasets=[given])

    def _end_children(self) -> None:
        experiment_id = self._client.get_run(self._run_id).info.experiment_id
        query = f"tags.`mlflow.parentRunId` = '{self._run_id}' and attributes.status = 'RUNNING'"
        for run in self._client.search_runs([experiment_id], query):
            self._client.set_terminated(run.info.run_id, "KILLED")

    def _stage(self) -> str:
        """Of the run's life: `active` or `deleted`; empty where the store does not answer."""
        try:
            return str(self._client.get_run(self._run_id).info.lifecycle_stage)
        except Exception:  # whatever it is, it is no answer
            return ""


def _number(metric: Any) -> tuple[int, float]:
    """Step and value, by which a number is known again; a clock's by its step alone, since it never shows the same twice."""
    return metric.step, 0.0 if metric.key.startswith(CLOCKS) else metric.value


def log_tags(client: Any, run_id: str, tags: dict[str, str]) -> None:
    """Short texts, in one call; what is longer than MLflow takes is cut."""
    from mlflow.entities import RunTag

    names = legal_names(tags)
    client.log_batch(run_id, tags=[RunTag(names[name], redacted(value)[:8000]) for name, value in tags.items()])


def reopen(client: Any, run_id: str, tags: dict[str, str]) -> None:
    """Sets a run that did not end well to RUNNING, with tags of the process that goes on with it."""
    log_tags(client, run_id, tags)
    client.update_run(run_id, status="RUNNING")
    if "error" in client.get_run(run_id).data.tags:
        client.delete_tag(run_id, "error")


def _is_refused(error: Exception) -> bool:
    """Whether trying again is of no use: the store does not take these words, or there is no such file."""
    return getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE" or isinstance(error, FileNotFoundError)


def reason_of(error: Exception) -> str:
    """What went wrong, in one line; of a connection that failed what lies beneath, without the way down to it."""
    text = (redacted(str(error)).strip() or type(error).__name__).split("\n")[0]
    found = CAUSE.search(text)
    return (found[1] if found else text)[:200].strip()
