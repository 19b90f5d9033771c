"""The same line makes the same model: twice in one process, in a process of joblib's, and after a change to the code.

`MEDLLM_GOLDEN=write` writes the losses of this version of torch anew, after a change that is meant to move them.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from joblib import Parallel, delayed

from medllm.artifact import sha256
from medllm.config.run import RunConf
from medllm.experiment import run_training
from tests.training.runs import tiny_run

FOLDER = Path(__file__).with_name("golden")
LINE = (
    "trainer.engine=plain",
    "trainer.max_steps=100",
    "trainer.learning_rate=1e-3",
    "trainer.gradient_accumulation_steps=2",
    "trainer.eval_strategy=no",
    "data.max_length=96",
    "lora.lora_dropout=0.1",
    "generation.sample_prompts=[]",
)


def weights_of(conf: RunConf, folder: Path) -> str:
    """SHA-256 of the adapter that a run leaves."""
    return sha256(run_training(conf, folder).artifact / "adapter_model.safetensors")


@pytest.mark.slow
def test_a_line_makes_one_model(dialogues: Path, tmp_path: Path) -> None:
    """The adapter's file is the same byte for byte, in this process and in another; its losses are those that were stored.

    Bytes are of one machine: processors add in other orders, so what is stored holds to a thousandth, which another order of the
    data, another seed of dropout or another schedule does not.
    """
    conf = tiny_run(dialogues, *LINE)
    first = weights_of(conf, tmp_path / "first")
    assert weights_of(conf, tmp_path / "second") == first
    elsewhere = Parallel(n_jobs=2)([delayed(weights_of)(conf, tmp_path / name) for name in ("third", "fourth")])
    assert elsewhere == [first, first]
    found = [loss for _, loss in json.loads((tmp_path / "first" / "history.json").read_text())["train"]]
    assert len(found) == 100
    version = torch.__version__.partition("+")[0]
    path = FOLDER / f"losses-torch-{version}.json"
    if os.environ.get("MEDLLM_GOLDEN") == "write":
        path.write_text(json.dumps([round(loss, 6) for loss in found], indent=0) + "\n")
    if not path.is_file():
        pytest.skip(f"no losses are stored for torch {version}; MEDLLM_GOLDEN=write stores them")
    assert found == pytest.approx(json.loads(path.read_text()), rel=1e-3)
