"""MLflow's form loads back bit for bit, answers, and tells nothing of the machine it was made on."""

import json
import socket
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml

from medllm.artifact import load_artifact
from medllm.conversation import Renderer
from medllm.inference.generate import ask, generate
from medllm.inference.load import open_artifact
from medllm.models.base import build_tokenizer, load_full_model
from medllm.tracking.saved_model import load_saved_model, save_model


def test_the_same_logits(forms: dict[str, Any]) -> None:
    """Those of the merged model, to the last bit, and its answer by the tokenizer that lies there."""
    model, tokenizer = load_saved_model(forms["mlflow"][0])
    conf = load_artifact(forms["merged"][0]).conf
    ids = torch.randint(5, 300, (2, 20), generator=torch.Generator().manual_seed(1))
    merged = open_artifact(forms["merged"][0], use_cpu=True)
    question = [ask("I have had a cough for a week.")]
    with torch.no_grad(), merged.model(tuned=True) as wanted:
        assert torch.equal(model(ids).logits, wanted(ids).logits)
        (answer,) = generate(wanted, merged.renderer, question, conf.generation)
    renderer = Renderer(tokenizer, conf.generation.system_prompt)
    assert generate(model, renderer, question, conf.generation) == [answer]
    assert forms["mlflow"][1] == forms["merged"][1]


def test_what_lies_there(forms: dict[str, Any], tiny_run: Path) -> None:
    """Safetensors and no pickle; a chat signature; the versions it needs; no path of this machine, no data of the run."""
    folder: Path = forms["mlflow"][0]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in (".pkl", ".bin", ".pt", ".py")]
    assert {"MLmodel", "export.json", "LICENSE.txt", "requirements.txt"} <= {path.name for path in files}
    for path in files:
        if path.suffix != ".safetensors":
            text = path.read_text(encoding="utf-8")
            assert str(tiny_run.parent) not in text and str(folder.parent) not in text and "/tmp" not in text, path
    said = yaml.safe_load((folder / "MLmodel").read_text())
    assert said["flavors"]["transformers"]["source_model_name"] == "tiny_random"
    assert said["metadata"] == {"task": "llm/v1/chat"} and "messages" in said["signature"]["inputs"]
    needed = (folder / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in needed] == ["mlflow", "transformers", "torch"]
    assert f"torch=={torch.__version__.partition('+')[0]}" in needed
    assert json.loads((folder / "export.json").read_text())["proof"]["kl_max"] == forms["mlflow"][1].kl_max


def test_nobody_is_asked(forms: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saving connects to no hub and no server, also where it might, and writes nothing but the folder."""
    asked: list[Any] = []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address))
    monkeypatch.chdir(tmp_path)
    conf = load_artifact(forms["merged"][0]).conf.model
    tokenizer = build_tokenizer(conf).tokenizer
    save_model(load_full_model(forms["merged"][0], conf), tokenizer, "OWNER/NAME", "none", tmp_path / "saved")
    assert asked == [] and [path.name for path in tmp_path.iterdir()] == ["saved"]


@pytest.mark.slow
def test_it_chats(forms: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `mlflow models serve` asks it, with messages; nothing is written where it is asked."""
    import mlflow.pyfunc

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    loaded = mlflow.pyfunc.load_model(str(forms["mlflow"][0]))
    (answer,) = loaded.predict({"messages": [{"role": "user", "content": "I cough."}], "max_tokens": 3})
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["usage"]["completion_tokens"] == 3
    assert not list(tmp_path.iterdir())
