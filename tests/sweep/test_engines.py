"""One contract for every engine: of six points one raises, two exit and one is killed; they end in the same state and record."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

SCRIPT = Path(__file__).with_name("faulty_train.py")
ENGINES = {
    "in process": [],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit": ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10"],
    "ray": ["hydra/launcher=ray"],
}
# Of the points that fail, by name.
SOURCE = Path(__file__).with_name("faulty_train.py").read_text().splitlines()
RAISES = next(number for number, text in enumerate(SOURCE, 1) if "this point always fails" in text)
REASONS = {
    "lora.r=4,seed=66": f"RuntimeError in faulty_train.py, line {RAISES}",
    "lora.r=4,seed=65": "ended itself with code 0",
    "lora.r=2,seed=66": "ended itself with code 3",
}
NEEDS = {"submitit": "hydra_plugins.hydra_submitit_launcher", "ray": "ray"}


def there(module: str) -> bool:
    """Whether a module can be imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_contract(engine: str, tiny_overrides: list[str], tmp_path: Path) -> None:
    """Typed until nothing is left but what always fails, a sweep holds three finished points and three failed ones, with reasons.

    Each has one run under the one parent, with its own numbers at each step up to its last; the killed one went on from its
    checkpoint in its own run; finished points were not run again. Who exits has failed, also with code 0, and takes no other
    point along.
    """
    if engine in NEEDS and not there(NEEDS[engine]):
        pytest.skip(f"{NEEDS[engine]} is not installed (pip install -e '.[ray]')")
    own = [override for override in tiny_overrides if not override.startswith(("hydra.run.dir", "trainer.max_steps"))]
    line = [
        *own,
        *ENGINES[engine],
        f"name='{tmp_path}/marker'",
        f"hydra.sweep.dir={tmp_path}/sweep",
        "trainer.max_steps=4",
        "trainer.save_strategy=steps",
        "trainer.save_steps=1",
        "trainer.eval_strategy=no",
        "generation.sample_prompts=[]",
        "lora.r=2,4,8",
        "sweep.seeds=2",
        "-m",
    ]
    codes, finished_at = [], {}
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, str(SCRIPT), *line],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "160"},
        )
        codes.append(done.returncode)
        for path in (tmp_path / "sweep").glob("*/result.json"):
            if json.loads(path.read_text())["status"] == "FINISHED":
                assert finished_at.setdefault(path, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
        if len(finished_at) == 3:
            break
    assert len(finished_at) == 3, (codes, done.stderr[-3000:])
    assert (tmp_path / "marker").exists()
    assert codes[-1] == 1 and 0 not in codes, done.stderr
    assert "3 of 6 points did not finish" in done.stderr
    results = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "sweep").glob("*/result.json")}
    reasons = {name.rpartition("-")[0]: found["reason"] for name, found in results.items() if "reason" in found}
    assert reasons == REASONS
    assert all(f"{name.replace(',', ', ')} FAILED" in done.stderr for name in REASONS)
    parent, children = runs_of(tmp_path)
    assert parent.info.status == "FAILED"
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    for child in children:
        name = child.info.run_name
        assert child.info.status == ("FAILED" if name in REASONS else "FINISHED")
        steps = {metric.step for metric in client.get_metric_history(child.info.run_id, "train/loss")}
        assert steps == (
            set() if "RuntimeError" in REASONS.get(name, "") else {1, 2} if name in REASONS else {1, 2, 3, 4}
        )
        assert REASONS.get(name, "") in child.data.tags.get("error", "")
        assert child.data.params["lora.r"] == name.partition("lora.r=")[2].partition(",")[0]
    assert not (tmp_path / "sweep" / "stop").exists()


def runs_of(folder: Path, points: int = 6) -> tuple[Any, list[Any]]:
    """The parent run and its children, of which there must be nothing else."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("medllm").experiment_id])
    parents = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    assert len(children) == len(found) - 1 == points
    return parents[0], children


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ctrl_c_leaves_a_sweep_that_resumes(tiny_overrides: list[str], tmp_path: Path) -> None:
    """The first stops after the step under way with a checkpoint and the table; the same line then ends as if never stopped."""
    import shutil
    import signal

    root = SCRIPT.parents[2]
    own = [override for override in tiny_overrides if not override.startswith(("hydra.run.dir", "trainer.max_steps"))]
    line = [sys.executable, str(root / "train.py"), *own, "trainer.eval_strategy=no", "generation.sample_prompts=[]"]
    line += ["trainer.max_steps=150", "lora.r=2,4", "-m"]

    def losses(folder: Path) -> dict[str, Any]:
        return {p.parent.name: json.loads(p.read_text())["objective"] for p in folder.glob("*/result.json")}

    folder = tmp_path / "sweep"
    process = subprocess.Popen([*line, f"hydra.sweep.dir={folder}"], stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stderr is not None
    said = []
    for text in process.stderr:
        said.append(text)
        if text.startswith("step"):
            process.send_signal(signal.SIGINT)
            break
    said += list(process.stderr)
    assert process.wait(timeout=120) == 130, said
    text = "".join(said)
    assert "stopping after this step, with a checkpoint" in text
    assert "NOT STARTED" in text
    assert "Traceback" not in text
    assert len(list(folder.glob("*/checkpoints/checkpoint-*/manifest.json"))) == 1
    parent, children = runs_of(tmp_path, 1)
    assert [run.info.status for run in (parent, *children)] == ["KILLED", "KILLED"]
    done = subprocess.run([*line, f"hydra.sweep.dir={folder}"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "resumes" in done.stderr
    parent, children = runs_of(tmp_path, 2)
    assert [run.info.status for run in (parent, *children)] == ["FINISHED"] * 3
    resumed = losses(folder)
    shutil.rmtree(folder)
    whole = subprocess.run([*line, f"hydra.sweep.dir={folder}"], capture_output=True, text=True, cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    assert losses(folder) == resumed


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", ["in process", "joblib"])
def test_a_second_ctrl_c_stops_at_once(engine: str, tiny_overrides: list[str], tmp_path: Path) -> None:
    """In the middle of a step that takes minutes, without its checkpoint; the same line then completes the sweep."""
    import signal
    import time

    own = [override for override in tiny_overrides if not override.startswith(("hydra.run.dir", "trainer.max_steps"))]
    line = [sys.executable, str(SCRIPT), *own, *ENGINES[engine], f"name='{tmp_path}/marker'", "trainer.max_steps=4"]
    line += ["trainer.eval_strategy=no", "generation.sample_prompts=[]", f"hydra.sweep.dir={tmp_path}/sweep"]
    line += ["lora.r=16,2", "hydra.launcher.n_jobs=1" if engine == "joblib" else "seed=65", "-m"]
    log = tmp_path / "log"

    def wait_for(there: Callable[[], bool]) -> None:
        until = time.monotonic() + 240
        while not there():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)

    with log.open("w") as out:
        process = subprocess.Popen(line, stderr=out, stdout=out, text=True, cwd=tmp_path)
    wait_for((tmp_path / "marker").exists)
    process.send_signal(signal.SIGINT)
    wait_for(lambda: "once more stops at once" in log.read_text())
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130, log.read_text()
    said = log.read_text()
    assert "medllm: interrupted" in said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("sweep/*/checkpoints/checkpoint-*"))
    parent, children = runs_of(tmp_path, 1)
    assert [run.info.status for run in (parent, *children)] == ["KILLED", "KILLED"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    parent, children = runs_of(tmp_path, 2)
    assert [run.info.status for run in (parent, *children)] == ["FINISHED"] * 3
