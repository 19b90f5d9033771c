"""Schemas of the `tracking` group: where the record of a run is kept."""

import re
from dataclasses import dataclass
from pathlib import Path

from medllm.config.conf import Conf
from medllm.config.paths import path_exists
from medllm.errors import Fault

# What MLflow takes beside a file of SQLite.
ADDRESS = re.compile(r"(?:https?|(?:postgresql|mysql|mssql)(?:\+\w+)?)://[^/\s]\S*|databricks(?:://\S+)?")
SQLITE = "sqlite:///"


@dataclass
class TrackingConf(Conf):
    """Base of the group."""


@dataclass
class NoTrackingConf(TrackingConf):
    """No record beside the artifact folder."""


@dataclass
class MlflowConf(TrackingConf):
    """An MLflow tracking store.

    Attributes:
        tracking_uri: `sqlite:///<absolute file>` or the address of a server. Credentials come from the environment
            (`MLFLOW_TRACKING_USERNAME`, `MLFLOW_TRACKING_TOKEN` ...), never from here.
        experiment_name: Created where it does not exist.
        artifact_location: Where a new experiment keeps its files: an absolute folder or an address such as `s3://...`.
            Null leaves it to a server, and puts it beside a local database, in `mlruns/`.
        log_texts: Whether the record gets files with texts of patients or of models, too: samples of data, sample answers, items
            of an evaluation. In the run's folder they are in any case.
    """

    tracking_uri: str = "sqlite:///${medllm.root:}/mlflow.db"
    experiment_name: str = "medllm"
    artifact_location: str | None = None
    log_texts: bool = False

    def faults(self) -> list[Fault]:
        """A relative path would depend on where a command was typed."""
        found, uri, location = [], self.tracking_uri, self.artifact_location
        file = Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None
        is_folder = file is not None and path_exists(file) and file.is_dir()
        if not (ADDRESS.fullmatch(uri) if file is None else file.is_absolute() and file.name and not is_folder):
            allowed = (
                "sqlite:////ABSOLUTE/FILE.db, or the address of a server: http://HOST:PORT, postgresql://HOST/NAME"
            )
            found.append(Fault("tracking_uri", "is no store of runs", uri, allowed=allowed))
        if location and "://" not in location and not Path(location).is_absolute():
            found.append(
                Fault("artifact_location", "is relative", location, allowed="an absolute folder or an address")
            )
        return found
