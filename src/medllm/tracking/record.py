"""The run record's interface, which is also its null object."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class Record:
    """One run's record. This one keeps nothing and is what `tracking=none` gives.

    Attributes:
        id: Empty where there is no store.
    """

    id = ""

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Named numbers at an optimizer step."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """A file of settings, numbers or pictures."""

    def log_texts(self, path: Path, folder: str = "") -> None:
        """A file that holds what patients or models said: kept only where `tracking.log_texts` allows it."""

    def set_tags(self, tags: dict[str, str]) -> None:
        """Short texts that may change later."""

    def end_children(self) -> None:
        """Marks points that still seem to run as killed, once their sweep is over."""

    def log_data(self, name: str, digest: str, source: str, context: str, num_rows: int) -> None:
        """A data set that went in, by its digest; never its content."""


@dataclass(frozen=True)
class Opening:
    """What is known of a run when its record opens.

    Attributes:
        name: Shown in lists.
        params: Dotted config path to value.
        tags: Short texts.
        parent_id: The sweep's record, if the run is a point of one.
        run_id: The record to go on with, if there is one.
    """

    name: str
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    parent_id: str = ""
    run_id: str = ""


def flatten(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dictionary's leaves under dotted paths; lists are leaves."""
    leaves: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves
