"""The cache of quantized bases: bit for bit what quantizing anew gives, and never anything else."""

import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medllm.cache import cache_entries, clear_cache
from medllm.config.compose import load_run_conf
from medllm.config.run import RunConf
from medllm.models.adapter import attach_adapter, load_adapter, save_model
from medllm.models.base import Tokenizer, build_base_model, build_tokenizer
from medllm.models.quantized import quantized_key
from medllm.models.tiny import build_tiny_tokenizer
from tests.models.steps import train_steps

QUANTIZED = ["nf4", "nf4_double", "int8"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty one."""
    monkeypatch.setenv("MEDLLM_CACHE", str(tmp_path / "cache"))


def write_model(folder: Path, *overrides: str) -> Path:
    """A tiny Llama of random weights in a folder, as people have theirs."""
    run = load_run_conf(["model=tiny_random", "quantization=none", *overrides])
    tokenizer = build_tokenizer(run.model)
    build_base_model(run.model, run.quantization, tokenizer).save_pretrained(folder)
    tokenizer.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One with tied embeddings."""
    return write_model(tmp_path / "model")


def conf(folder: Path, *overrides: str) -> RunConf:
    """A run on it."""
    return load_run_conf(["model=pretrained", f"model.pretrained_model_name_or_path={folder}", *overrides])


def base_of(run: RunConf, tokenizer: Tokenizer | None = None) -> Any:
    """Its base model."""
    return build_base_model(run.model, run.quantization, tokenizer or build_tokenizer(run.model))


def logits(model: Any) -> torch.Tensor:
    """In eval mode, without a cache."""
    model.eval()
    with torch.no_grad():
        ids = torch.randint(4, 500, (1, 24), generator=torch.Generator().manual_seed(3))
        return model(input_ids=ids, use_cache=False).logits


def entries() -> list[Path]:
    """What is kept."""
    return [entry.path for entry in cache_entries("quantized")]


def fresh_and_kept(run: RunConf, tokenizer: Tokenizer | None = None) -> tuple[Any, Any]:
    """The model as it is quantized, and as it is loaded from what was kept, by the process that kept it and by the next."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medllm.models.base.kept_quantized", lambda key, name, how, quantize, load: quantize())
        fresh = base_of(run, tokenizer)
    assert entries() == []
    assert base_of(run, tokenizer).hf_quantizer.pre_quantized
    (entry,) = entries()
    before = {path.name: path.stat().st_mtime_ns for path in entry.iterdir()}
    kept = base_of(run, tokenizer)
    assert {path.name: path.stat().st_mtime_ns for path in entry.iterdir()} == before
    assert {path.suffix for path in entry.iterdir()} == {".json", ".safetensors"}
    assert kept.hf_quantizer.pre_quantized
    assert not fresh.hf_quantizer.pre_quantized
    return fresh, kept


@pytest.mark.parametrize("tied", ["true", "false"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", QUANTIZED)
def test_a_kept_base_is_the_fresh_one_bit_for_bit(quantization: str, dtype: str, tied: str, tmp_path: Path) -> None:
    """Every tensor with its scales, every setting, and the logits."""
    folder = write_model(tmp_path / "model", f"model.tie_word_embeddings={tied}", "model.dtype=bfloat16")
    run = conf(folder, f"quantization={quantization}", f"model.dtype={dtype}")
    fresh, kept = fresh_and_kept(run)
    ours, theirs = kept.state_dict(), fresh.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor), name
    assert [(n, p.dtype, p.requires_grad, type(p)) for n, p in kept.named_parameters()] == [
        (n, p.dtype, p.requires_grad, type(p)) for n, p in fresh.named_parameters()
    ]
    assert torch.equal(logits(kept), logits(fresh))
    assert kept.config.to_dict() == fresh.config.to_dict()
    assert kept.generation_config.to_dict() == fresh.generation_config.to_dict()
    assert kept.name_or_path == fresh.name_or_path == str(folder)
    shared = kept.get_input_embeddings().weight.data_ptr() == kept.get_output_embeddings().weight.data_ptr()
    assert shared is (tied == "true")
    for layer, other in zip(kept.modules(), fresh.modules(), strict=True):
        assert type(layer) is type(other)
        for setting in ("support_avx512bf16_for_cpu", "compute_dtype", "quant_type", "training"):
            assert getattr(layer, setting, None) == getattr(other, setting, None)


@pytest.mark.parametrize("quantization", QUANTIZED)
def test_training_on_a_kept_base_is_training_on_a_fresh_one(quantization: str, folder: Path, tmp_path: Path) -> None:
    """The same adapter after two steps, bit for bit, saved and loaded; the base untouched; a shape of tokens added too."""
    run = conf(folder, f"quantization={quantization}", "lora.lora_dropout=0", "model.dtype=float32")
    tokenizer = build_tiny_tokenizer()
    size = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|new|>", "<|newer|>"]})
    made = Tokenizer(tokenizer, (size, size + 1))
    ids = torch.tensor([[5, size, 7, 8, size + 1, 9]])
    results = []
    for number, base in enumerate(fresh_and_kept(run, made)):
        assert base.get_input_embeddings().weight.shape[0] == size + 2
        torch.manual_seed(0)
        model = attach_adapter(base, run.lora, made.new_token_ids, str(folder))
        before = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
        train_steps(model, {"input_ids": ids, "labels": ids})
        assert all(torch.equal(p, before[name]) for name, p in model.named_parameters() if name in before)
        save_model(model, tmp_path / f"adapter{number}")
        loaded = load_adapter(base_of(run, made), tmp_path / f"adapter{number}")
        assert torch.equal(logits(loaded), logits(model))
        results.append({name: p.detach() for name, p in model.named_parameters() if p.requires_grad})
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(results[1][name], value) for name, value in results[0].items())
    first, second = (sorted((tmp_path / f"adapter{number}").iterdir()) for number in range(2))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def touched(folder: Path) -> None:
    """Other weights of the same shape."""
    write_model(folder, "model.init_seed=1")


def reconfigured(folder: Path) -> None:
    """The same weights, read with another epsilon."""
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))


CHANGES: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "weights": (touched, []),
    "config": (reconfigured, []),
    "dtype": (lambda folder: None, ["model.dtype=float32"]),
    "kind": (lambda folder: None, ["quantization=int8"]),
    "double": (lambda folder: None, ["quantization=nf4"]),
    "type": (lambda folder: None, ["quantization.bnb_4bit_quant_type=fp4"]),
    "compute": (lambda folder: None, ["quantization.bnb_4bit_compute_dtype=float32"]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_the_weights_is_another_entry(change: str, folder: Path) -> None:
    """And what does not, is the same one."""
    base_of(conf(folder, "quantization=nf4_double"))
    base_of(conf(folder, "quantization=nf4_double", "model.attn_implementation=eager", "seed=7"))
    (first,) = entries()
    happen, overrides = CHANGES[change]
    happen(folder)
    run = conf(folder, "quantization=nf4_double", *overrides)
    made = base_of(run)
    assert len(entries()) == 2
    assert first in entries()
    assert torch.equal(logits(made), logits(base_of(run)))


def truncated(entry: Path) -> None:
    """A disk that was full, or a copy that was cut off."""
    weights = entry / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1)


def scribbled(entry: Path) -> None:
    """The same length, another header."""
    with (entry / "model.safetensors").open("r+b") as file:
        file.seek(40)
        file.write(b"xx")


BREAKS: dict[str, Callable[[Path], None]] = {
    "truncated": truncated,
    "header": scribbled,
    "no weights": lambda entry: (entry / "model.safetensors").unlink(),
    "config": lambda entry: (entry / "config.json").write_text("{}"),
    "no sums": lambda entry: (entry / "sums.json").unlink(),
    "broken sums": lambda entry: (entry / "sums.json").write_text("{"),
    "one file more": lambda entry: (entry / "adapter_config.json").write_text("{}"),
    "empty": lambda entry: [path.unlink() for path in entry.iterdir()] and None,
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_entry_is_made_again(name: str, folder: Path) -> None:
    """And never loaded."""
    run = conf(folder, "quantization=nf4_double")
    expected = logits(base_of(run))
    (entry,) = entries()
    BREAKS[name](entry)
    assert torch.equal(logits(base_of(run)), expected)
    assert entries() == [entry]
    assert torch.equal(logits(base_of(run)), expected)


def test_a_full_disk_costs_a_line_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before writing, and in the middle of it: the model is quantized, nothing is left behind."""
    run = conf(folder, "quantization=nf4_double")
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patched:
        patched.setattr("medllm.models.quantized.shutil.disk_usage", lambda _: usage(1 << 40, 1 << 40, 1 << 29))
        expected = logits(base_of(run))
    said = " ".join((lambda c: c.out + c.err)(capsys.readouterr()).split())
    assert "will be quantized again at the next start: it takes 0.0 GiB, and" in said
    assert "has 0.5 GiB left" in said
    assert entries() == []

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("medllm.cache._sums", full)
        assert torch.equal(logits(base_of(run)), expected)
    captured = capsys.readouterr()
    assert "No space left on device" in captured.out + captured.err
    assert entries() == []


def test_what_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny random model, a base that is not quantized, one that runs code of its own."""
    base_of(load_run_conf(["model=tiny_random", "quantization=nf4"]))
    base_of(conf(folder, "quantization=none"))
    run = conf(folder, "quantization=nf4")
    run.model.trust_remote_code = True  # type: ignore[attr-defined]
    run.model.revision = "a" * 40  # type: ignore[attr-defined]
    monkeypatch.setenv("MEDLLM_TRUSTED_CODE", f"{folder}@{'a' * 40}")
    base_of(run)
    assert entries() == []


def test_a_model_of_the_hub_is_known_by_its_commit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A branch that moves on is another entry; two names of one commit are the same."""
    hub = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    repository = hub / "models--clinic--tiny"
    commits = ["a" * 40, "b" * 40]
    for commit in commits:
        shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()

    def use(revision: str) -> int:
        run = conf(Path("clinic/tiny"), "quantization=nf4", f"model.revision={revision}")
        assert base_of(run).name_or_path == "clinic/tiny"
        return len(entries())

    (repository / "refs" / "main").write_text(commits[0])
    assert [use("main"), use(commits[0])] == [1, 1]
    (repository / "refs" / "main").write_text(commits[1])
    assert [use("main"), use(commits[1]), use(commits[0])] == [2, 2, 2]


def test_processors_of_one_kind_share_an_entry(folder: Path) -> None:
    """Two cards do, a card and a processor do not."""
    run = conf(folder, "quantization=nf4")
    keys = [quantized_key("x", run.model, run.quantization, device) for device in ("cpu", "cuda:0", "cuda:1")]
    assert keys[0] != keys[1] == keys[2]


def test_what_to_do_where_it_is_missing_is_no_part_of_the_weights(folder: Path) -> None:
    """`on_missing` finds the entry that is there, another quantization does not."""
    runs = [conf(folder, "quantization=nf4", *more) for more in ([], ["quantization.on_missing=degrade"])]
    runs.append(conf(folder, "quantization=nf4_double"))
    keys = [quantized_key("x", run.model, run.quantization, "cpu") for run in runs]
    assert keys[0] == keys[1] != keys[2]


def test_a_copy_of_the_folder_and_a_cleared_cache(folder: Path, tmp_path: Path) -> None:
    """A folder that was only moved is the same model; a cleared entry is made again."""
    base_of(conf(folder, "quantization=nf4"))
    moved = Path(shutil.move(folder, tmp_path / "elsewhere"))
    run = conf(moved, "quantization=nf4")
    assert base_of(run).name_or_path == str(moved)
    (entry,) = cache_entries("quantized")
    assert entry.about == {"model": str(folder), "as": "nf4"}
    clear_cache("quantized")
    base_of(run)
    assert cache_entries("quantized")[0].about == {"model": str(moved), "as": "nf4"}


@pytest.mark.gpu
@pytest.mark.parametrize("quantization", QUANTIZED)
def test_a_kept_base_is_the_fresh_one_on_a_card(quantization: str, folder: Path) -> None:
    """As on a processor; and on the card, where it was asked for."""
    run = conf(folder, f"quantization={quantization}")
    fresh, kept = (build_base_model(run.model, run.quantization, build_tokenizer(run.model), "cuda:0") for _ in "ab")
    assert kept.hf_quantizer.pre_quantized
    ours, theirs = kept.state_dict(), fresh.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert {parameter.device.type for parameter in kept.parameters()} == {"cuda"}
    ids = torch.arange(4, 28, device="cuda:0")[None]
    with torch.no_grad():
        assert torch.equal(kept(input_ids=ids).logits, fresh(input_ids=ids).logits)
