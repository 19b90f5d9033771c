"""kill -9 at any instant: no completed checkpoint is lost, and the same line comes to the same bits.

`MEDLLM_KILLS=50 python -m pytest -m slow tests/reliability/test_kills.py -s` is the nightly size; it says what it did.
"""

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from medllm.run_folder import read_result
from medllm.training.checkpoint import newest_valid
from tests.reliability import killer
from tests.reliability.conftest import Line
from tests.reliability.trace import Runs, outcome, saved

KILLS = int(os.environ.get("MEDLLM_KILLS", "10"))
# Operations on the disk that a save takes, about.
OPERATIONS = 60


def newest(folder: Path) -> int:
    """Step of the newest whole checkpoint; 0 if there is none."""
    checkpoint = newest_valid(folder / "checkpoints")
    return int(checkpoint.name.partition("-")[2]) if checkpoint else 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_any_instant(runs: Runs, line: Line, undisturbed: tuple[Any, float], tmp_path: Path) -> None:
    """Killed again and again, every other time inside a save: what was saved stays, each end is that of the undisturbed run."""
    whole, seconds = undisturbed
    chance = random.Random(65)
    killed = inside = ends = ended = 0
    while killed < KILLS or ended != 0:
        folder, trace = tmp_path / f"run-{ends}", tmp_path / f"trace-{ends}"
        aimed = killed < KILLS and killed % 2
        run = runs.start(line(folder), trace, f"save:{chance.randint(1, OPERATIONS)}:KILL" if aimed else "")
        if killed < KILLS and not aimed:
            killer.at_random(run, seconds, chance)
        ended = run.wait()
        assert ended in (0, -signal.SIGKILL), run.log.read_text()
        assert newest(folder) >= saved(trace)
        done = read_result(folder).get("status") == "FINISHED"  # also of one that was killed after its last word
        assert done or ended
        if ended:
            killed += 1
            inside += bool(aimed)
        if done:
            assert outcome(folder, trace) == whole
            ends += 1
            ended = 0
    print(f"{killed} kills, {inside} of them inside a save; {ends} runs went on to the undisturbed run's end")
