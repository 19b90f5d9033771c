"""A merged model is the artifact: its weights, its expectations, its words; and an artifact itself."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors import safe_open

from medllm.artifact import MANIFEST, load_artifact
from medllm.config.export import Onto
from medllm.errors import ConfigError, ExportError, ModelError
from medllm.export import merged as merged_module
from medllm.export import reference
from medllm.export.write import export
from medllm.inference.load import open_artifact
from medllm.models import merge as merge_module
from medllm.models.adapter import load_adapter
from medllm.models.base import build_base_model, build_tokenizer
from medllm.models.merge import INDEX, merge
from tests.evaluation.conftest import train_tiny
from tests.export.conftest import conf_of

FLOAT32 = ["model.dtype=float32"]
KINDS: dict[str, list[str]] = {
    "lora": [],
    "rslora": ["lora.use_rslora=true"],
    "dora": ["lora=dora"],
    "pissa": ["lora=pissa"],
    "ia3": ["lora=ia3"],
    "new tokens": ["model.chat_format=chatml"],
    "new tokens, untied": ["model.chat_format=chatml", "model.tie_word_embeddings=false"],
    "nf4": ["quantization=nf4_double", "quantization.bnb_4bit_compute_dtype=float32"],
}


USUAL = ("lora", "dora", "new tokens, untied", "nf4")


@pytest.mark.parametrize(
    "kind", [kind if kind in USUAL else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_logits_are_the_adapters(kind: str, dialogues: Path, tmp_path: Path) -> None:
    """In float32, to a few millionths, for every adapter that changes weights, and on a base of 4 bit."""
    run = train_tiny(dialogues, tmp_path / "run", *FLOAT32, *KINDS[kind])
    (place, proof) = export(conf_of(run), run / "artifact", tmp_path / "out")["merged"]
    assert proof is not None and proof.kl_max < 1e-6 and proof.same_answers == proof.prompts == 2
    ids = torch.randint(5, 300, (2, 20), generator=torch.Generator().manual_seed(1))
    found = []
    for folder in (run / "artifact", place):
        with torch.no_grad(), open_artifact(folder, use_cpu=True).model(tuned=True) as model:
            found.append(model(input_ids=ids).logits)
    torch.testing.assert_close(found[1], found[0], atol=2e-5, rtol=2e-5)
    merged = load_artifact(place)
    assert (merged.manifest["kind"], merged.is_adapter) == ("full", False)
    assert merged.manifest["merged"]["proof"]["kl_mean"] == proof.kl_mean
    assert {path.name for path in tmp_path.glob("out/*")} == {"merged"}


def test_several_files_keep_their_names(dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file of the base becomes one; the index says where what is, and transformers loads them."""
    from transformers import AutoModelForCausalLM

    run = train_tiny(dialogues, tmp_path / "run", *FLOAT32)
    conf = load_artifact(run / "artifact").conf
    ((_, names, read),) = merge_module._files(conf.model)
    files = [(f"model-{part}.safetensors", names[part::3], read) for part in range(3)]
    monkeypatch.setattr(merge_module, "_files", lambda conf: iter(files))
    done: list[tuple[int, int]] = []
    config = merge(conf, run / "artifact", tmp_path / "out", Onto.trained, lambda *told: done.append(told))
    config.save_pretrained(tmp_path / "out")
    assert done == [(1, 3), (2, 3), (3, 3)]
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert set(index["weight_map"]) == set(names)
    for file, part, _ in files:
        with safe_open(tmp_path / "out" / file, "pt") as opened:
            assert sorted(opened.keys()) == sorted(part)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    base = build_base_model(conf.model, conf.quantization, build_tokenizer(conf.model))
    tuned = load_adapter(base, run / "artifact")
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, tuned(ids).logits, atol=2e-5, rtol=2e-5)


def test_what_differs_is_not_left_there(dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge gone wrong is refused, with its figure, and leaves nothing."""
    run = train_tiny(dialogues, tmp_path / "run", *FLOAT32)
    honest = merged_module.merge

    def wrong(conf: Any, adapter: Path, folder: Path, *rest: Any) -> Any:
        from safetensors.torch import load_file, save_file

        config = honest(conf, adapter, folder, *rest)
        weights = load_file(folder / "model.safetensors")
        weights["model.layers.0.mlp.down_proj.weight"] *= -3
        weights["model.layers.1.mlp.down_proj.weight"] *= -3
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return config

    monkeypatch.setattr(merged_module, "merge", wrong)
    with pytest.raises(ExportError, match="is not the artifact: mean divergence"):
        export(conf_of(run, "tolerance=1e-6"), run / "artifact", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_onto_the_original_is_another_model(dialogues: Path, tmp_path: Path) -> None:
    """Its weights differ from those of the base that was trained on; the proof compares on the same base."""
    run = train_tiny(dialogues, tmp_path / "run", *FLOAT32, *KINDS["nf4"])
    trained = export(conf_of(run), run / "artifact", tmp_path / "a")["merged"]
    original = export(conf_of(run, "onto=original"), run / "artifact", tmp_path / "b")["merged"]
    assert trained[1] is not None and original[1] is not None
    assert original[1].kl_max < 1e-6
    hashes = [load_artifact(place).manifest["weights_sha256"] for place, _ in (trained, original)]
    assert hashes[0] != hashes[1]


def test_the_adapter_alone(dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What peft needs, and the tokenizer, without asking for the base; loaded again it is the artifact's."""
    run = train_tiny(dialogues, tmp_path / "run", *FLOAT32)
    monkeypatch.setattr(reference, "build_tokenizer", lambda conf: pytest.fail("asks for the base"))
    place, proof = export(conf_of(run, "formats=[adapter]"), run / "artifact", tmp_path / "out")["adapter"]
    assert proof is None
    names = {path.name for path in place.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "chat_template.jinja"} <= names
    assert MANIFEST not in names
    conf = load_artifact(run / "artifact").conf
    base = build_base_model(conf.model, conf.quantization, build_tokenizer(conf.model))
    assert (place / "adapter_model.safetensors").read_bytes() == (
        run / "artifact" / "adapter_model.safetensors"
    ).read_bytes()
    assert load_adapter(base, place) is not None


@pytest.mark.slow
def test_what_cannot_be_exported(dialogues: Path, tmp_path: Path) -> None:
    """Refused before anything is loaded: a folder that exists, a whole model, an adapter that changes no weights."""
    run = train_tiny(dialogues, tmp_path / "run", *FLOAT32)
    (tmp_path / "out" / "merged").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"output=.*merged: exists"):
        export(conf_of(run), run / "artifact", tmp_path / "out")
    prefix = train_tiny(dialogues, tmp_path / "prefix", *FLOAT32, "lora=prefix")
    with pytest.raises(ModelError, match="changes no weights of the base"):
        export(conf_of(prefix), prefix / "artifact", tmp_path / "new")
    full = train_tiny(dialogues, tmp_path / "full", *FLOAT32, "lora=none")
    with pytest.raises(ConfigError, match="is a whole model already"):
        export(conf_of(full), full / "artifact", tmp_path / "new")
    with pytest.raises(ConfigError, match="formats"):
        conf_of(run, "formats=[]")
    assert not (tmp_path / "new").exists()


def test_what_a_killed_export_left_goes_and_two_do_not_meet(dialogues: Path, tmp_path: Path) -> None:
    """Half a form is never taken for one; a folder that another process writes to is left alone."""
    run = train_tiny(dialogues, tmp_path / "run", "trainer.max_steps=1")
    out = tmp_path / "out"
    for name in (".gguf_f16.partial", ".whole.partial", ".adapter.partial"):
        (out / name).mkdir(parents=True)
        (out / name / "half").touch()
    with FileLock(out / ".lock"), pytest.raises(ConfigError, match="is being written by another process"):
        export(conf_of(run, "formats=[adapter]"), run / "artifact", out)
    export(conf_of(run, "formats=[adapter]"), run / "artifact", out)
    assert {path.name for path in out.iterdir()} == {"adapter"}


@pytest.mark.parametrize("place", ["file/below", "/proc/nowhere"])
def test_where_nothing_can_be_written_is_told(place: str, dialogues: Path, tmp_path: Path) -> None:
    """As a fault of the key, and no traceback."""
    run = train_tiny(dialogues, tmp_path / "run", "trainer.max_steps=1")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written to"):
        export(conf_of(run, "formats=[adapter]"), run / "artifact", tmp_path / place)
