"""The command for vLLM: of what it can put beside a base, and of what it cannot."""

import itertools
import json
import shlex
from pathlib import Path

import pytest

from medllm.artifact import load_artifact
from medllm.serving.fleet import fleet_command
from tests.evaluation.conftest import train_tiny


def test_an_adapter_stands_beside_its_base(trained: Path) -> None:
    """With a rank that vLLM takes, the template and the defaults that it was trained with."""
    folder = trained / "artifact"
    words = shlex.split(fleet_command(load_artifact(folder)))
    assert words[:2] == ["vllm", "serve"]
    given = dict(itertools.pairwise(words))
    rank = json.loads((folder / "adapter_config.json").read_text())["r"]
    assert int(given["--max-lora-rank"]) >= rank
    assert given["--lora-modules"].endswith(f"={folder}")
    assert Path(given["--chat-template"]).is_file()
    assert (Path(given["--generation-config"]) / "generation_config.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("option", ["lora=dora", "lora=ia3", "lora.bias=all"])
def test_what_cannot_is_merged_first(option: str, dialogues: Path, tmp_path: Path) -> None:
    """VLLM would refuse it, or load it as something else."""
    folder = train_tiny(dialogues, tmp_path / "run", option, "trainer.max_steps=1") / "artifact"
    command = fleet_command(load_artifact(folder))
    assert command.startswith("python scripts/export.py artifact=")
    assert "export/merged" in command and "--enable-lora" not in command


def test_a_whole_model_is_served_as_it_is(dialogues: Path, tmp_path: Path) -> None:
    """From full fine-tuning or from an export."""
    folder = train_tiny(dialogues, tmp_path / "run", "lora=none", "trainer.max_steps=1") / "artifact"
    words = shlex.split(fleet_command(load_artifact(folder)))
    assert words[:3] == ["vllm", "serve", str(folder)]
