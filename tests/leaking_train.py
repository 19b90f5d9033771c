"""train.py whose libraries say what they should not: at the second step they log `MEDLLM_TEST_LEAK` and fail with it.

An exception caused by another, logged with its traceback, and raised: as their own, whose words go no further than the folder, or
quoted by an error of this project (`MEDLLM_TEST_QUOTED=1`), whose words results, tables and records tell.
"""

import logging
import os
import sys
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


def install() -> None:
    """Replaces the trainer's step in this process."""
    from medllm.errors import TrackingError
    from medllm.training.trainer import MedTrainer

    step = MedTrainer.training_step

    def leaking(self: Any, *arguments: Any, **more: Any) -> Any:
        if self.state.global_step < 1:
            return step(self, *arguments, **more)
        said = os.environ["MEDLLM_TEST_LEAK"]
        library = logging.getLogger("some.package")
        try:
            raise ConnectionError(f"refused: {said}")
        except ConnectionError as error:
            library.exception("cannot connect with %s", said)
            quoted = os.environ["MEDLLM_TEST_QUOTED"] == "1"
            raise (TrackingError if quoted else RuntimeError)(f"gave up: {said}") from error

    MedTrainer.training_step = leaking  # type: ignore[method-assign]


@hydra.main(version_base="1.3", config_path=str(ROOT / "conf"), config_name="train")
def main(config: DictConfig) -> float:
    """One run."""
    from medllm.point import run_point

    install()
    return run_point(config)


if __name__ == "__main__":
    from medllm.cli import launch

    launch(main)
