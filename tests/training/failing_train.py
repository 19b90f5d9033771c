"""`train.py` of which rank 1 fails at its third optimizer step, for `test_ranks`."""

import hydra
from omegaconf import DictConfig

from medllm import ranks
from medllm.cli import launch, run_point


@hydra.main(version_base="1.3", config_path="../../conf", config_name="train")
def main(config: DictConfig) -> float:
    """Runs one point."""
    from medllm.training.callbacks import StepTimer

    begin = StepTimer.on_step_begin

    def failing(self, args, state, control, **rest):  # type: ignore[no-untyped-def]
        if ranks.rank() == 1 and state.global_step == 2:
            raise RuntimeError("the second card fell off")
        begin(self, args, state, control, **rest)

    StepTimer.on_step_begin = failing  # type: ignore[method-assign]
    return run_point(config)


if __name__ == "__main__":
    launch(main)
