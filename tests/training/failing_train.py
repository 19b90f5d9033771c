"""`train.py` of which rank 1 fails at its third optimizer step: MEDLLM_FAILURE=memory has no memory left, others raise."""

import os

import hydra
import torch
from omegaconf import DictConfig

from medllm import ranks
from medllm.cli import launch
from medllm.point import run_point


@hydra.main(version_base="1.3", config_path="../../conf", config_name="train")
def main(config: DictConfig) -> float:
    """Runs one point."""
    from medllm.training.callbacks import StepTimer

    begin = StepTimer.on_step_begin

    def failing(self, args, state, control, **rest):  # type: ignore[no-untyped-def]
        if ranks.rank() == 1 and state.global_step == 2:
            if os.environ.get("MEDLLM_FAILURE") == "memory":
                torch.cuda.empty_cache()
                torch.cuda.set_per_process_memory_fraction(1e-6)
                return
            raise RuntimeError("the second card fell off")
        begin(self, args, state, control, **rest)

    StepTimer.on_step_begin = failing  # type: ignore[method-assign]
    return run_point(config)


if __name__ == "__main__":
    launch(main)
