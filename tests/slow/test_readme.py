"""The README's commands run, shortened: on the tiny model, for one step, in a folder of the test."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from medllm.cli import overrides_first

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]


def commands() -> list[str]:
    """Every python command of the README's shell blocks that is meant to succeed here."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    lines = [re.split(r"\s+#", line)[0].strip() for block in blocks for line in block.splitlines()]
    # A model that nobody has here, sweeps and artifacts that a reader has made, what does not end by itself: the tests of those
    # scripts type them.
    elsewhere = (
        "/models/",
        "scripts/compare.py",
        "scripts/ui.py",
        "run=outputs/",
        "artifact=outputs/",
        "artifact=models:/",
    )
    return [line for line in lines if line.startswith("python ") and not any(part in line for part in elsewhere)]


def shortened(command: str, dialogues: Path, folder: Path) -> list[str]:
    """The command with the reader's file in place, and with what keeps it short."""
    columns = folder / "other_columns.csv"
    columns.write_text(dialogues.read_text().replace("Patient,Doctor", "frage,antwort", 1))
    mine = columns if "patient=frage" in command else dialogues
    command = command.replace("=slurm", "=submitit_local")  # the same executor without a cluster
    command = command.replace("n_trials=20", "n_trials=2")
    words = shlex.split(command.replace("my_dialogues.csv", str(mine)))[1:]
    script, arguments = words[0], words[1:]
    if script.startswith("scripts/"):
        return [str(ROOT / script), *arguments, "model=tiny_random"]
    short = {
        "model": "model=tiny_random",
        "trainer": "trainer=cpu",
        "data": "data=dialogues_bundled",
        "quantization": "quantization=none",
    }
    given = {argument.partition("=")[0] for argument in arguments}
    own = [override for group, override in short.items() if group not in given]
    places = [f"hydra.run.dir={folder}/run", f"hydra.sweep.dir={folder}/sweep"]
    store = [f"tracking.tracking_uri=sqlite:///{folder}/mlflow.db"]
    steps = ["trainer.max_steps=1", "generation.max_new_tokens=2", "data.max_length=1024", "trainer.bf16=false"]
    return [str(ROOT / script), *overrides_first([*arguments, *own, *places, *store, *steps, "trainer.use_cpu=true"])]


def test_there_are_commands() -> None:
    """An empty list would prove nothing."""
    assert len(commands()) >= 10


@pytest.mark.parametrize("command", commands())
def test_command_of_the_readme(command: str, dialogues: Path, tmp_path: Path) -> None:
    """Exit code 0."""
    arguments = shortened(command, dialogues, tmp_path)
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=800)
    assert done.returncode == 0, done.stderr
