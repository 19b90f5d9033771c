"""Sweeps as people type them, on the tiny model: truthful records, isolated points, one table."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient


def runs_of(folder: Path) -> tuple[Any, list[Any]]:
    """The parent run and its children."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("medllm").experiment_id])
    parents = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    assert len(children) == len(found) - 1
    return parents[0], children


def sweep_overrides(tiny_overrides: list[str], folder: Path) -> list[str]:
    """The tiny run's, writing sweeps to a folder of the test."""
    own = [override for override in tiny_overrides if not override.startswith("hydra.run.dir")]
    return [*own, f"hydra.sweep.dir={folder}/sweep", "trainer.max_steps=2"]


JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


@pytest.mark.parametrize("launcher", [[], pytest.param(JOBLIB, marks=pytest.mark.slow)], ids=["basic", "joblib"])
def test_a_sweep_with_a_failing_point(
    launcher: list[str], train: Callable[..., Any], tiny_overrides: list[str], tmp_path: Path
) -> None:
    """Four points, one failing, on a database that does not exist yet.

    The others finish with their own numbers only, the failed one says why, the parent has table and plot, exit code 1.
    """
    done = train(
        *sweep_overrides(tiny_overrides, tmp_path),
        "lora.r=8,16",
        "data.max_length=64",
        "data.over_length=truncate,error",
        "-m",
        *launcher,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    parent, children = runs_of(tmp_path)
    assert parent.info.status == "FAILED"
    assert sorted(child.info.status for child in children) == ["FAILED", "FAILED", "FINISHED", "FINISHED"]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    for child in children:
        steps = [m.step for m in client.get_metric_history(child.info.run_id, "train/loss")]
        assert steps == ([1, 2] if child.info.status == "FINISHED" else [])
        if child.info.status == "FAILED":
            assert "data.max_length=64" in child.data.tags["error"]
    assert {"points.csv", "points.png"} <= {file.path for file in client.list_artifacts(parent.info.run_id)}
    with (tmp_path / "sweep" / "points.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["FINISHED", "FINISHED", "FAILED", "FAILED"]
    losses = [float(row["held_out_loss"]) for row in rows[:2]]
    assert losses == sorted(losses)
    assert "2 of 4 points did not finish" in done.stderr
    assert "held-out loss" in done.stderr


@pytest.mark.slow
def test_a_sweep_over_methods(train: Callable[..., Any], tiny_overrides: list[str], tmp_path: Path) -> None:
    """`lora=default,dora,ia3,prefix -m` sweeps the method like any other key; samples are tokenized once."""
    cache = tmp_path / "cache"
    done = train(
        *sweep_overrides(tiny_overrides, tmp_path), "lora=default,dora,ia3,prefix", "-m", MEDLLM_CACHE=str(cache)
    )
    assert done.returncode == 0, done.stderr
    parent, children = runs_of(tmp_path)
    assert parent.info.status == "FINISHED"
    assert {child.data.params["lora"] for child in children} == {"default", "dora", "ia3", "prefix"}
    assert {child.info.run_name for child in children} == {
        "0_lora=default",
        "1_lora=dora",
        "2_lora=ia3",
        "3_lora=prefix",
    }
    assert {child.data.tags["data.batching"] for child in children} == {"packed", "length_grouped"}
    assert len([path for path in (cache / "samples").iterdir() if path.is_dir()]) == 1
    folders = sorted(path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    assert folders == ["0_lora=default", "1_lora=dora", "2_lora=ia3", "3_lora=prefix"]


def test_a_bad_point_stops_the_sweep_before_it_starts(train: Callable[..., Any], tmp_path: Path) -> None:
    """No record, no folder, exit code 2."""
    done = train(
        "lora.r=8,0", "-m", f"hydra.sweep.dir={tmp_path}/sweep", f"tracking.tracking_uri=sqlite:///{tmp_path}/m.db"
    )
    assert done.returncode == 2
    assert "lora.r=0: is out of range" in done.stderr
    assert not (tmp_path / "sweep").exists()
    assert not (tmp_path / "m.db").exists()


def test_a_failed_point_frees_its_model(
    tiny_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failing point in this process no model is alive, although the error still is."""
    import gc

    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict
    from transformers import PreTrainedModel

    from medllm.cli import run_point
    from medllm.config.compose import compose_config
    from medllm.errors import PointFailedError
    from medllm.training.trainer import MedTrainer

    own = [override for override in tiny_overrides if not override.startswith("hydra.")]
    own = [override for override in own if not override.startswith("tracking.")]
    config = compose_config([*own, "tracking=none"], multirun=True)

    def fail(*arguments: Any, **more: Any) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(MedTrainer, "compute_loss", fail)
    with open_dict(config):
        config.hydra.runtime.output_dir = str(tmp_path / "point")
    HydraConfig.instance().set_config(config)
    kept = []
    for _ in range(3):
        (tmp_path / "point" / "result.json").unlink(missing_ok=True)
        try:
            run_point(config)
        except PointFailedError as error:
            kept.append(error)
        gc.collect()
        assert not [thing for thing in gc.get_objects() if isinstance(thing, PreTrainedModel)]
    assert len(kept) == 3
    assert json.loads((tmp_path / "point" / "result.json").read_text())["status"] == "FAILED"
