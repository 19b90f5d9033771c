"""A sweep that is asked to stop, or whose disk is full: the same line runs exactly what is missing."""

import json
import subprocess
from pathlib import Path

import pytest
from mlflow import MlflowClient

from medllm.artifact import sha256
from tests.reliability.chaos import unkeyed
from tests.reliability.conftest import Line
from tests.reliability.trace import Runs, command, environment

# An operation of the second save of a run, of which each takes about 55.
SECOND_SAVE = 80


def sweep_line(line: Line, folder: Path) -> list[str]:
    """Four points of four steps."""
    typed = [one for one in line(folder) if not one.startswith(("hydra.run.dir", "trainer.max_steps"))]
    own = ["trainer.max_steps=4", "generation.sample_prompts=[]", "lora.r=2,4", "seed=65,66"]
    return [*typed, *own, f"hydra.sweep.dir={folder}", "-m"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sigterm_in_the_first_of_four_points(runs: Runs, line: Line, tmp_path: Path) -> None:
    """143, KILLED; then four points of four steps are done, with no step done twice and one run in the record for each."""
    folder, trace = tmp_path / "sweep", tmp_path / "trace"
    typed = sweep_line(line, folder)
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


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_disk_that_is_full_from_the_middle_of_the_first_point(runs: Runs, line: Line, tmp_path: Path) -> None:
    """No file grows any more, the sweep's own neither: code 1, one message; then the same line ends as an undisturbed one."""
    results = []
    for cut in ("", f"save:{SECOND_SAVE}:FULL"):
        folder = tmp_path / (cut[:4] or "whole")
        typed, trace = sweep_line(line, folder), tmp_path / "trace"
        if cut:  # through a pipe: a log could not grow either
            own = environment(trace, cut)
            failed = subprocess.run(command(typed), env=own, cwd=tmp_path, capture_output=True, text=True)
            assert failed.returncode == 1, failed.stderr
            assert "Traceback" not in failed.stderr + failed.stdout
            assert failed.stderr.count("medllm: ") == 1, failed.stderr
            assert f"medllm: {folder}" in failed.stderr and ": could not be written: File too large; " in failed.stderr
        run = runs.run(typed, trace)
        assert run.code == 0, run.log.read_text()
        results.append(
            {
                "/".join(map(unkeyed, path.relative_to(folder).parts)): sha256(path)
                if path.suffix == ".safetensors"
                else ""
                for path in (*folder.glob("*/artifact/*"), *folder.glob("*/*"), *folder.glob("*"))
            }
        )
    assert results[0] == results[1]
