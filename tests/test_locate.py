"""What people type to name an artifact."""

from pathlib import Path

import pytest

from medllm import locate
from medllm.config.tracking import MlflowConf, NoTrackingConf
from medllm.errors import ConfigError
from medllm.locate import find_artifact
from medllm.tracking.build import open_record
from medllm.tracking.record import Opening
from tests.review.made import run_folder


def recorded(store: MlflowConf, folder: Path) -> str:
    """The id of the record of a run that left its files there."""
    with open_record(store, Opening("made", tags={"folder": str(folder)}), folder) as record:
        return record.id


@pytest.fixture
def store(tmp_path: Path, database: Path) -> MlflowConf:
    """An empty one."""
    return MlflowConf(tracking_uri=f"sqlite:///{database}", artifact_location=str(tmp_path / "artifacts"))


def test_by_folder(tmp_path: Path) -> None:
    """A run's, or its artifact's; what has none is told so, and what is not there too."""
    run = run_folder(tmp_path / "run")
    assert find_artifact(str(run)) == find_artifact(str(run / "artifact")) == run / "artifact"
    with pytest.raises(ConfigError, match=r"has no manifest\.json"):
        find_artifact(str(tmp_path), NoTrackingConf())
    for text in ("0" * 32, "~nobody-of-that-name/run", "l" * 300):
        with pytest.raises(ConfigError, match="names no folder and no run record"):
            find_artifact(text, NoTrackingConf())


def test_by_the_id_of_a_run_record(tmp_path: Path, store: MlflowConf, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the store that is named, or the project's; a run that left no artifact is told so."""
    run = run_folder(tmp_path / "run")
    name, empty = recorded(store, run), recorded(store, tmp_path / "empty")
    assert find_artifact(name, store) == run / "artifact"
    with pytest.raises(ConfigError, match=r"is a run without an artifact: .*empty/artifact is not there"):
        find_artifact(empty, store)
    with pytest.raises(ConfigError, match="names no folder and no run record"):
        find_artifact("0" * 32, store)
    load = locate.load_conf
    monkeypatch.setattr(
        locate, "load_conf", lambda root, o: load(root, [*o, f"tracking.tracking_uri={store.tracking_uri}"])
    )
    assert find_artifact(name) == run / "artifact"
