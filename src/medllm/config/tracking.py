"""Schemas of the `tracking` group: where the record of a run is kept."""

from dataclasses import dataclass

from medllm.config.conf import Conf


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
        tracking_uri: `sqlite:///<file>` or the address of a server. Credentials come from the environment
            (`MLFLOW_TRACKING_USERNAME`, `MLFLOW_TRACKING_TOKEN` ...), never from here.
        experiment_name: Created where it does not exist.
        artifact_location: Where a new experiment keeps its files; null leaves it to the server.
    """

    tracking_uri: str = "sqlite:///${medllm.root:}/mlflow.db"
    experiment_name: str = "medllm"
    artifact_location: str | None = "${medllm.root:}/mlruns"
