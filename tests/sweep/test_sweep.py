"""Sweeps as people type them, on the tiny model: truthful records, isolated points, one table."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

ROOT = Path(__file__).parents[2]


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


@pytest.mark.slow
def test_a_sweep_with_a_failing_point(tiny_overrides: list[str], tmp_path: Path) -> None:
    """Six points in one process, the second failing, on a database that does not exist yet.

    The others finish with their own numbers only, the failed one says why, the parent has table and page, exit code 1.
    """
    line = [*sweep_overrides(tiny_overrides, tmp_path), "lora.r=4,2", "seed=65,66,67", "-m"]
    script = Path(__file__).with_name("faulty_train.py")
    done = subprocess.run(
        [sys.executable, str(script), *line],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "160"},
    )
    assert done.returncode == 1, done.stderr
    parent, children = runs_of(tmp_path)
    assert parent.info.status == "FAILED" and parent.info.end_time
    children = sorted(children, key=lambda child: child.info.start_time)
    points = [(child.data.params["lora.r"], child.data.params["seed"]) for child in children]
    assert points == [(rank, seed) for rank in "42" for seed in ("65", "66", "67")]
    assert [child.info.status for child in children] == ["FINISHED", "FAILED", *["FINISHED"] * 4]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    for child in children:
        history = client.get_metric_history(child.info.run_id, "train/loss")
        left = json.loads((ROOT / child.data.tags["folder"] / "history.json").read_text()) if history else {"train": []}
        assert [(m.step, m.value) for m in history] == [tuple(point) for point in left["train"]]
        assert [m.step for m in history] == ([1, 2] if child.info.status == "FINISHED" else [])
        if child.info.status == "FAILED":
            assert child.data.tags["error"].startswith("RuntimeError in faulty_train.py, line ")
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"points.csv", "sweep.json", "comparison.html", "comparison"} <= files
    with (tmp_path / "sweep" / "points.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == [*["FINISHED"] * 5, "FAILED"]
    losses = [float(row["held_out_loss"]) for row in rows[:5]]
    assert losses == sorted(losses)
    assert "1 of 6 points did not finish" in done.stderr
    assert "held-out loss" in done.stderr


@pytest.mark.slow
def test_faulty_data_stops_the_sweep_before_it_starts(
    train: Callable[..., Any], tiny_overrides: list[str], tmp_path: Path
) -> None:
    """What the data of any point would raise is raised while planning."""
    own = sweep_overrides(tiny_overrides, tmp_path)
    done = train(*own, "data.max_length=64", "data.over_length=truncate,error", "-m")
    assert done.returncode == 1
    assert "data.max_length=64" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "sweep").exists()


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
    assert {child.info.run_name for child in children} == {"lora=default", "lora=dora", "lora=ia3", "lora=prefix"}
    assert {child.data.tags["data.batching"] for child in children} == {"packed", "length_grouped"}
    assert len([path for path in (cache / "samples").iterdir() if path.is_dir()]) == 1
    folders = sorted(path.name for path in (tmp_path / "sweep").glob("lora=*"))
    assert [name.rpartition("-")[0] for name in folders] == ["lora=default", "lora=dora", "lora=ia3", "lora=prefix"]


def test_a_bad_point_stops_the_sweep_before_it_starts(train: Callable[..., Any], tmp_path: Path) -> None:
    """No record, no folder, exit code 2."""
    done = train(
        "lora.r=8,0", "-m", f"hydra.sweep.dir={tmp_path}/sweep", f"tracking.tracking_uri=sqlite:///{tmp_path}/m.db"
    )
    assert done.returncode == 2
    assert "lora.r=0: is out of range" in done.stderr
    assert not (tmp_path / "sweep").exists()
    assert not (tmp_path / "m.db").exists()


@pytest.mark.slow
def test_the_plan_is_kept_to(train: Callable[..., Any], tiny_overrides: list[str], tmp_path: Path) -> None:
    """A dry run writes nothing; typing a line again runs nothing again; a grown grid runs what is new, in the same record."""
    own = [*sweep_overrides(tiny_overrides, tmp_path), "generation.sample_prompts=[]"]
    (tmp_path / "mlflow.db").unlink()
    dry = train(*own, "lora.r=2,4", "sweep.dry_run=true", "-m", MEDLLM_CACHE=str(tmp_path / "cache"))
    assert dry.returncode == 0, dry.stderr
    assert "to do     2 points" in dry.stderr
    assert "time not measured" not in dry.stderr
    assert not (tmp_path / "sweep").exists()
    assert not (tmp_path / "mlflow.db").exists()
    first = train(*own, "lora.r=2,4", "-m")
    assert first.returncode == 0, first.stderr
    results = {path: path.read_bytes() for path in (tmp_path / "sweep").glob("*/result.json")}
    assert len(results) == 2
    grown = train(*own, "lora.r=2,4,8", "-m")
    assert grown.returncode == 0, grown.stderr
    assert "to do     1 points" in grown.stderr
    assert {path: path.read_bytes() for path in results} == results
    parent, children = runs_of(tmp_path)
    assert parent.info.status == "FINISHED"
    assert len(children) == 3
    other = train(*own, "lora.r=2,4", "trainer.max_steps=3", "-m")
    assert other.returncode == 2
    assert "holds a sweep over lora.r with other settings" in other.stderr


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        pytest.param("lora.r=2,2", "lora.r=2: stands twice in the grid", marks=pytest.mark.slow),
        pytest.param(
            "trainer.num_train_epochs=1,2", "trainer.num_train_epochs=1 / 2: has no effect", marks=pytest.mark.slow
        ),
        pytest.param(
            "data.num_conversations=100,200",
            "data.num_conversations=100 / 200: has no effect",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_points_that_would_be_the_same_are_refused(
    axis: str, expected: str, train: Callable[..., Any], tiny_overrides: list[str], tmp_path: Path
) -> None:
    """Two values that train the same model on the same data are told before anything runs."""
    done = train(*sweep_overrides(tiny_overrides, tmp_path), axis, "-m")
    assert done.returncode == 2
    assert expected in done.stderr
    assert not (tmp_path / "sweep").exists()


def test_a_point_on_a_used_base_equals_a_run_alone(tiny_overrides: list[str], tmp_path: Path) -> None:
    """What an earlier point left in the process changes nothing: same losses and weights, bit for bit."""
    from medllm.artifact import sha256
    from medllm.config.compose import load_run_conf
    from medllm.experiment import run_training
    from medllm.foundation import foundation

    own = [o for o in tiny_overrides if not o.startswith(("tracking.", "hydra."))]
    confs = [load_run_conf([*own, "tracking=none", f"lora.r={rank}"]) for rank in (8, 4)]
    try:
        for number, conf in enumerate(confs):
            last = run_training(conf, tmp_path / str(number), is_point=True)
    finally:
        foundation.clear()
    alone = run_training(confs[-1], tmp_path / "alone")
    assert last.after == alone.after
    assert last.before == alone.before
    weights = [sha256(result.artifact / "adapter_model.safetensors") for result in (last, alone)]
    assert weights[0] == weights[1]


def test_a_failed_point_frees_its_model(
    tiny_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failing point in this process no model is alive, although the error still is."""
    import gc

    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict
    from transformers import PreTrainedModel

    from medllm.config.compose import compose_config
    from medllm.errors import PointFailedError
    from medllm.point import run_point
    from medllm.training.trainer import MedTrainer

    own = [override for override in tiny_overrides if not override.startswith("hydra.")]
    own = [override for override in own if not override.startswith("tracking.")]
    config = compose_config([*own, "tracking=none"], multirun=True)

    def fail(*arguments: Any, **more: Any) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(MedTrainer, "training_step", fail)
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


@pytest.mark.parametrize("place", ["training_step", "gates"])
def test_a_point_that_exits_has_failed(
    place: str, tiny_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asked it to: folder and record say FAILED and with which code, and the sweep goes on, as after any failure.

    In training, and before there is a record.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    from medllm import experiment
    from medllm.config.compose import compose_config
    from medllm.errors import PointFailedError
    from medllm.point import run_point
    from medllm.training.trainer import MedTrainer

    def leave(*arguments: Any, **more: Any) -> None:
        sys.exit(0)

    if place == "gates":
        monkeypatch.setattr(experiment, "check", leave)
    else:
        monkeypatch.setattr(MedTrainer, "training_step", leave)
    config = compose_config([o for o in tiny_overrides if not o.startswith("hydra.")], multirun=True)
    with open_dict(config):
        config.hydra.runtime.output_dir = str(tmp_path / "point")
    HydraConfig.instance().set_config(config)
    with pytest.raises(PointFailedError, match="ended itself with code 0"):
        run_point(config)
    result = json.loads((tmp_path / "point" / "result.json").read_text())
    assert (result["status"], result["reason"]) == ("FAILED", "ended itself with code 0")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment_id = getattr(client.get_experiment_by_name("medllm"), "experiment_id", None)
    runs = client.search_runs([experiment_id]) if experiment_id else []
    assert [run.info.status for run in runs] == ([] if place == "gates" else ["FAILED"])
    assert all("ended itself with code 0" in run.data.tags["error"] for run in runs)


def test_workers_of_ray_end_before_the_table(
    tiny_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ends the launch: nobody writes into the points' folders while they are summed up."""
    from types import SimpleNamespace

    from medllm.config.plan import make_plan
    from medllm.sweep.run import Sweep

    happened: list[str] = []

    def launch(jobs: Any, initial_job_idx: int) -> None:
        happened.append(f"launch {len(jobs)}")
        raise KeyboardInterrupt

    ray = SimpleNamespace(is_initialized=lambda: True, shutdown=lambda: happened.append("shutdown"))
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(Sweep, "_conclude", lambda self, record: happened.append("table"))
    own = [override for override in tiny_overrides if not override.startswith(("hydra.", "tracking."))]
    line = [*own, "tracking=none", f"hydra.sweep.dir={tmp_path}/sweep", "lora.r=2,4"]
    plan = make_plan(line, multirun=True)
    sweep = Sweep(plan, [SimpleNamespace(key=f"{number:016}") for number in range(2)])  # type: ignore[misc]
    with pytest.raises(KeyboardInterrupt), sweep.open(plan.points[0].conf):
        sweep.launch(SimpleNamespace(launch=launch))
    assert happened == ["launch 2", "shutdown", "table"]
