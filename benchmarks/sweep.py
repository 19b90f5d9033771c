"""A sweep against the same points typed one by one: `python -m benchmarks.sweep [OVERRIDE...]`.

    --steps 20      optimizer steps of each point
    --points 8      how many points of the grid, rank times learning rate
    --singles 8     how many of them are typed one by one too; the time of all is in proportion
    --jobs 1        processes of the sweep: more than one by hydra/launcher=joblib
    --out FOLDER    an empty one that keeps runs, record and the page of the sweep

Every override of train.py is taken; `experiment=demo` is the ground. Half of the single runs come before the sweep and half
after it, so that other load on the machine meets both alike.

    wall        of the processes, from start to exit
    to start    from Hydra's start of a point to its first optimizer step: in a sweep, what the points before left ready
    training    in optimizer steps: the same work on both sides, which tells how alike the load was
    same        points whose held-out loss is the same, bit for bit, either way
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.train_run import TRAIN

RANKS = (4, 8, 16, 32)
RATES = ("1e-3", "5e-4")


@dataclass(frozen=True)
class Timing:
    """One point, sweep or alone.

    Attributes:
        loss: Held-out, at the end.
        to_start: Seconds from Hydra's start of the point to the first optimizer step.
        training: Seconds in optimizer steps.
    """

    loss: float
    to_start: float
    training: float


def typed(*arguments: str) -> float:
    """Runs train.py; returns its wall time."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, str(TRAIN), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{arguments} failed:\n{done.stderr[-3000:]}")
    return time.perf_counter() - started


def timing(folder: Path) -> Timing:
    """Of a finished run's folder. Hydra writes its files when the point starts, the run its own when its clock does."""
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    before = (folder / "config.yaml").stat().st_mtime - (folder / ".hydra" / "overrides.yaml").stat().st_mtime
    return Timing(metrics["eval/loss"], before + metrics["perf/startup_seconds"], metrics["perf/train_seconds"])


def main() -> None:
    """Runs both sides and prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--points", type=int, default=8, choices=range(2, len(RANKS) * len(RATES) + 1, 2))
    parser.add_argument("--singles", type=int)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options, overrides = parser.parse_known_args()
    ranks = RANKS[: options.points // 2]
    grid = list(itertools.product(ranks, RATES))
    chosen = grid[:: max(len(grid) // (options.singles or len(grid)), 1)]
    with contextlib.nullcontext(options.out.resolve()) if options.out else tempfile.TemporaryDirectory() as work:
        own = ["experiment=demo", f"trainer.max_steps={options.steps}", *overrides]
        own += [f"tracking.tracking_uri=sqlite:///{work}/runs.db", f"tracking.artifact_location={work}/artifacts"]
        # Base, data and database are ready for both sides, and a GPU's kernels, which are compiled once for each rank.
        ready = ("trainer.max_steps=1", "trainer.eval_strategy=no", "generation.sample_prompts=[]")
        typed(*own, *ready, f"lora.r={','.join(map(str, ranks))}", f"hydra.sweep.dir={work}/warm", "-m")
        folders = [Path(work, f"{rank}-{rate}") for rank, rate in chosen]

        def alone(number: int) -> float:
            rank, rate = chosen[number]
            where = f"hydra.run.dir={folders[number]}"
            return say(f"alone {number}", typed(*own, f"lora.r={rank}", f"trainer.learning_rate={rate}", where))

        def say(name: str, seconds: float) -> float:
            print(f"{name}: {seconds:.1f} s", file=sys.stderr, flush=True)
            return seconds

        half = len(chosen) // 2
        walls = [alone(number) for number in range(half)]
        axes = (f"lora.r={','.join(map(str, ranks))}", f"trainer.learning_rate={','.join(RATES)}")
        if options.jobs > 1:
            axes += ("hydra/launcher=joblib", f"hydra.launcher.n_jobs={options.jobs}")
        sweep = say("sweep", typed(*own, *axes, f"hydra.sweep.dir={work}/sweep", "-m"))
        walls += [alone(number) for number in range(half, len(chosen))]
        one_by_one = sum(walls) * len(grid) / len(chosen)
        points = json.loads((Path(work) / "sweep" / "sweep.json").read_text())["points"]
        together = [timing(Path(work) / "sweep" / point["folder"]) for point in points]
        single = [timing(folder) for folder in folders]
    print(f"{len(grid)} points of {options.steps} steps, {len(chosen)} of them alone too, {os.cpu_count()} cores")
    print(f"{'':10}{'wall s':>10}{'to start s, first':>20}{'others: median':>17}{'longest':>10}{'training s':>13}")
    for name, wall, found in (("one by one", one_by_one, single), ("sweep", sweep, together)):
        first, *others = [one.to_start for one in found]
        starts = f"{first:20.1f}{statistics.median(others):17.2f}{max(others):10.2f}"
        print(f"{name:10}{wall:10.1f}{starts}{sum(one.training for one in found) * len(grid) / len(found):13.1f}")
    same = sum(together[grid.index(point)].loss == one.loss for point, one in zip(chosen, single, strict=True))
    print(f"wall, sweep over one by one: {sweep / one_by_one:.2f}; {same} of {len(chosen)} held-out losses the same")


if __name__ == "__main__":
    main()
