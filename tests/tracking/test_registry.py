"""Artifacts by name: registered, promoted, rolled back, found again by every script."""

import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from mlflow import MlflowClient

from medllm.artifact import MANIFEST, sha256
from medllm.config.tracking import MlflowConf, NoTrackingConf
from medllm.errors import ConfigError, TrackingError
from medllm.locate import find_artifact
from medllm.tracking.build import open_record, tag_record
from medllm.tracking.mlflow_record import tag_of
from medllm.tracking.record import Opening
from medllm.tracking.registry import Registry
from tests.review.made import run_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path, database: Path) -> MlflowConf:
    """An empty one."""
    return MlflowConf(tracking_uri=f"sqlite:///{database}", artifact_location=str(tmp_path / "artifacts"))


def recorded(store: MlflowConf, folder: Path) -> Path:
    """A run with an artifact and a record."""
    with open_record(store, Opening("made", tags={"folder": str(folder)}), folder) as record:
        return run_folder(folder, 2, record.id)


def registered(registry: Registry, run: Path, alias: str) -> int:
    """Promotes a run's artifact; returns its version."""
    manifest = run / "artifact" / MANIFEST
    version = registry.register("med", find_run_id(run), sha256(manifest))
    registry.promote(version, alias)
    return version.number


def find_run_id(run: Path) -> str:
    """The id in an artifact's manifest."""
    from medllm.artifact import load_artifact

    return str(load_artifact(run / "artifact").manifest["run_id"])


def test_an_alias_moves_and_moves_back(tmp_path: Path, store: MlflowConf) -> None:
    """Through three versions and back; promoting what is in use already is no step of its own."""
    runs = [recorded(store, tmp_path / name) for name in "abc"]
    registry = Registry(store)
    assert [registered(registry, run, "champion") for run in (*runs, runs[2])] == [1, 2, 3, 3]
    assert find_artifact("models:/med@champion", store) == runs[2] / "artifact"
    assert registry.roll_back("med", "champion") == (3, 2)
    assert find_artifact("models:/med@champion", store) == runs[1] / "artifact"
    assert registry.roll_back("med", "champion") == (2, 1)
    with pytest.raises(ConfigError, match="named no version before this one"):
        registry.roll_back("med", "champion")
    assert find_artifact("models:/med/3", store) == runs[2] / "artifact"
    assert [(v.number, v.aliases) for v in registry.versions("med")] == [(3, ()), (2, ()), (1, ("champion",))]


def test_what_an_alias_names_cannot_be_changed_behind_it(tmp_path: Path, store: MlflowConf) -> None:
    """A manifest that was written anew is refused; so is a folder that is gone."""
    run = recorded(store, tmp_path / "run")
    registered(Registry(store), run, "champion")
    manifest = run / "artifact" / MANIFEST
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(ConfigError, match="is not what was registered"):
        find_artifact("models:/med@champion", store)
    manifest.unlink()
    with pytest.raises(ConfigError, match="is a run without an artifact"):
        find_artifact("models:/med@champion", store)


@pytest.mark.parametrize(
    "text", ["models:/med@challenger", "models:/med/7", "models:/other@champion", "models:/", "models:/a'b@c"]
)
def test_names_of_nothing(text: str, tmp_path: Path, store: MlflowConf) -> None:
    """What there is stands in the message."""
    run = recorded(store, tmp_path / "run")
    registered(Registry(store), run, "champion")
    with pytest.raises(ConfigError, match="names no registered model") as error:
        find_artifact(text, store)
    assert ("models:/med@champion, models:/med/1" in str(error.value)) == text.startswith("models:/med")
    with pytest.raises(TrackingError, match="keeps no models"):
        find_artifact(text, NoTrackingConf())


def test_tags_of_a_run_that_has_ended(tmp_path: Path, store: MlflowConf, monkeypatch: pytest.MonkeyPatch) -> None:
    """They reach its record; a store that is away or breaks is no failure."""
    run_id = find_run_id(recorded(store, tmp_path / "run"))
    tag_record(store, run_id, {"hub.commit": "abc"})
    assert tag_of(store, run_id, "hub.commit") == "abc"
    tag_record(MlflowConf(tracking_uri=f"sqlite:///{tmp_path}/none.db"), run_id, {"hub.commit": "abc"})
    assert not (tmp_path / "none.db").exists()
    tag_record(NoTrackingConf(), run_id, {"hub.commit": "abc"})

    monkeypatch.setattr(MlflowClient, "log_batch", Mock(side_effect=OSError("the disk is full")))
    tag_record(store, run_id, {"hub.commit": "def"})


@pytest.mark.slow
def test_the_script(tmp_path: Path, store: MlflowConf) -> None:
    """Promote twice, list, roll back; and a card of what the alias names."""
    runs = [recorded(store, tmp_path / name) for name in "ab"]

    def typed(script: str, *arguments: str) -> tuple[int, str]:
        command = [sys.executable, str(ROOT / "scripts" / script), *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    uri, name = f"tracking_uri={store.tracking_uri}", ("name=med", "alias=champion")
    for number, run in enumerate(runs, 1):
        code, said = typed("registry.py", "promote", f"artifact={run}", *name, uri)
        assert code == 0 and f"models:/med@champion names version {number}" in said and "UNREVIEWED" in said
    code, said = typed("registry.py", "list", uri)
    assert code == 0 and "2 @champion: UNREVIEWED" in said and "1: UNREVIEWED" in said
    code, said = typed("registry.py", "rollback", *name, uri)
    assert code == 0 and "names version 1, no longer 2" in said
    code, said = typed("registry.py", "promote", "artifact=nowhere", *name, uri)
    assert code == 2 and "names no folder and no run record" in said
    copied = shutil.copytree(runs[1] / "artifact", tmp_path / "elsewhere" / "artifact")
    code, said = typed("registry.py", "promote", f"artifact={copied}", *name, uri)
    assert code == 2 and "is not what is found by its run record" in said
    code, said = typed("registry.py", "list", f"tracking_uri=sqlite:///{tmp_path}/none.db")
    assert code == 1 and "no such database" in said and not (tmp_path / "none.db").exists()
    code, said = typed("registry.py", "promoted")
    assert code == 2 and "allowed: promote, rollback, list" in said
    code, said = typed("registry.py", "promote", "name=../x")
    assert code == 2 and "artifact: needs a value" in said and "name=../x: is no plain name" in said
