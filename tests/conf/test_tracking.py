"""The `tracking` group."""

from pathlib import Path

import pytest

from medllm.config.store import project_root
from medllm.config.tracking import MlflowConf
from medllm.errors import ConfigError
from medllm.tracking.build import open_record
from medllm.tracking.record import Opening
from tests.conf.groups import assert_round_trips, load, options, refusal


@pytest.mark.parametrize("option", options("tracking"))
def test_composes_and_round_trips(option: str, tmp_path: Path) -> None:
    """Each option composes, validates and survives YAML."""
    assert_round_trips(load("tracking", option), tmp_path)


@pytest.mark.parametrize("option", options("tracking"))
def test_opens_a_record(option: str, tmp_path: Path, database: Path) -> None:
    """Each option gives a record to write to; only a store gives it an id."""
    conf = load("tracking", option).tracking
    if isinstance(conf, MlflowConf):
        conf.tracking_uri, conf.artifact_location = f"sqlite:///{database}", f"{tmp_path}/mlruns"
    with open_record(conf, Opening("run"), tmp_path) as record:
        record.log_metrics({"eval/loss": 1.0}, 1)
    assert bool(record.id) == (option != "none")


def test_store_is_at_the_root_wherever_a_run_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The address is absolute."""
    monkeypatch.chdir(tmp_path)
    conf = load("tracking", "mlflow").tracking
    assert isinstance(conf, MlflowConf)
    assert conf.tracking_uri == f"sqlite:///{project_root()}/mlflow.db"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "nonsense",
        "mlruns",
        "file:/a/mlruns",
        "sqlite://",
        "sqlite:///",
        "sqlite:///runs.db",
        "sqlite:////tmp",
        "http://",
        "ftp://x",
    ],
)
def test_no_address_of_a_store(uri: str) -> None:
    """Is refused with what is one: MLflow would make a store of its own somewhere, or raise."""
    with pytest.raises(ConfigError, match=r"is no store of runs\n +allowed: sqlite:////ABSOLUTE/FILE.db"):
        MlflowConf(uri)


@pytest.mark.parametrize(
    "uri", ["sqlite:////a/b.db", "https://h", "http://h:5000/a", "postgresql+psycopg://h/db", "databricks"]
)
def test_addresses_of_stores(uri: str) -> None:
    """Files, servers and databases that MLflow takes."""
    assert MlflowConf(uri).tracking_uri == uri


def test_refusals() -> None:
    """Unknown key and wrong type."""
    assert "did you mean tracking.tracking_uri?" in refusal("tracking.tracking_url=x")
    assert "tracking.experiment_name=null: must have a value" in refusal("tracking.experiment_name=null")
    assert "tracking.artifact_location=mlruns: is relative" in refusal("tracking.artifact_location=mlruns")
    assert "not in the chosen option of tracking" in refusal("tracking=none", "tracking.tracking_uri=x")
