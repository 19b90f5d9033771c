"""train.py with faults, installed inside the job, so that they reach every process that an engine starts.

The points of rank 4 and a seed of `RAISES` raise; those of `EXITS` exit at their third step, as a library may. Of rank 8 and
a seed of `KILLED` one is killed at its third step, of rank 16 one hangs there, once: the marker file that `name` names says
that it happened.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

# Seeds: the first of each are a sweep's, the others a search's, in which nothing exits.
RAISES, KILLED = (66, 68), (65, 67)
# The code that a point exits with, by rank and seed.
EXITS = {(4, 65): 0, (2, 66): 3}
# Seconds; far longer than a test waits.
HANG = 600


def install(config: DictConfig) -> None:
    """Replaces the trainer's step in this process."""
    from medllm.training.trainer import MedTrainer

    marker, rank, seed = Path(config.name), config.lora.r, config.seed
    step = getattr(MedTrainer, "unharmed_step", MedTrainer.training_step)

    def harmed(self: Any, *arguments: Any, **more: Any) -> Any:
        if rank == 4 and seed in RAISES:
            raise RuntimeError("this point always fails")
        if (rank, seed) in EXITS and self.state.global_step == 2:
            sys.exit(EXITS[rank, seed])
        if rank == 8 and seed in KILLED and self.state.global_step == 2 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if rank == 16 and self.state.global_step == 2 and not marker.exists():
            marker.touch()
            time.sleep(HANG)
        return step(self, *arguments, **more)

    MedTrainer.unharmed_step = step  # type: ignore[attr-defined]
    MedTrainer.training_step = harmed  # type: ignore[method-assign]


@hydra.main(version_base="1.3", config_path=str(ROOT / "conf"), config_name="train")
def main(config: DictConfig) -> float:
    """One point."""
    from medllm.point import run_point

    install(config)
    return run_point(config)


if __name__ == "__main__":
    from medllm.cli import launch

    launch(main)
