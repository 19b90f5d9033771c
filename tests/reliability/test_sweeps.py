"""A sweep that is asked to stop: no later point starts, and the same line runs exactly what is missing."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.reliability.conftest import Line
from tests.reliability.trace import Runs


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sigterm_in_the_first_of_four_points(runs: Runs, line: Line, tmp_path: Path) -> None:
    """143, KILLED; then four points of four steps are done, with no step done twice and one run in the record for each."""
    folder, trace = tmp_path / "sweep", tmp_path / "trace"
    typed = [one for one in line(folder) if not one.startswith(("hydra.run.dir", "trainer.max_steps"))]
    typed += [
        "trainer.max_steps=4",
        "generation.sample_prompts=[]",
        "lora.r=2,4",
        "seed=65,66",
        f"hydra.sweep.dir={folder}",
        "-m",
    ]
    run = runs.run(typed, trace, "step:3:TERM")
    assert run.code == 143, run.log.read_text()
    assert "Traceback" not in run.log.read_text()
    assert sum(json.loads(text)[1] >= 0 for text in trace.read_text().splitlines()) == 4
    found = [json.loads(path.read_text())["status"] for path in folder.glob("*/result.json")]
    assert sorted(found) in (["KILLED"], ["KILLED", *["NOT STARTED"] * 3])
    client = MlflowClient(f"sqlite:///{folder}.db")
    experiments = [client.get_experiment_by_name("medllm").experiment_id]
    assert [one.info.status for one in client.search_runs(experiments)] == ["KILLED", "KILLED"]
    run = runs.run(typed, trace)
    assert run.code == 0, run.log.read_text()
    assert sum(json.loads(text)[1] >= 0 for text in trace.read_text().splitlines()) == 4 * 4 * 2
    assert [one.info.status for one in client.search_runs(experiments)] == ["FINISHED"] * 5
    found = [json.loads(path.read_text())["status"] for path in folder.glob("*/result.json")]
    assert found == ["FINISHED"] * 4
    written = {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")}
    run = runs.run(typed, trace)
    assert run.code == 0, run.log.read_text()
    assert {path: path.stat().st_mtime_ns for path in written} == written
