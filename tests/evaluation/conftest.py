"""One tiny artifact that was really trained, for all tests of evaluation."""

import shutil
from pathlib import Path

import pytest

from medllm.config.compose import load_run_conf
from medllm.config.run import RunConf
from medllm.experiment import run_training


def tiny_conf(dialogues: Path, *overrides: str) -> RunConf:
    """A run of seconds."""
    return load_run_conf(
        [
            "model=tiny_random",
            "quantization=none",
            "data=local",
            f"data.path={dialogues}",
            "data.max_length=256",
            "data.eval_fraction=0.25",
            "trainer=cpu",
            "trainer.bf16=false",
            "trainer.max_steps=4",
            "trainer.learning_rate=1e-2",
            "generation.max_new_tokens=4",
            "generation.sample_prompts=[]",
            "tracking=none",
            *overrides,
        ]
    )


def train_tiny(dialogues: Path, folder: Path, *overrides: str) -> Path:
    """Trains it; returns its folder."""
    run_training(tiny_conf(dialogues, *overrides), folder)
    return folder


@pytest.fixture(scope="session")
def trained(dialogues: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's folder; not to be written to."""
    return train_tiny(dialogues, tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(trained, tmp_path / "run"))
