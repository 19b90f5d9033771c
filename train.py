"""Fine-tune a language model on patient-doctor dialogues: `python train.py --help`."""

import hydra
from omegaconf import DictConfig

from medllm.cli import launch
from medllm.point import run_point


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> float:
    """Runs one point; its return value is the objective of any sweeper."""
    return run_point(config)


if __name__ == "__main__":
    launch(main)
