"""Adapters: what is trained, what is not, and what is saved."""

from pathlib import Path
from typing import Any

import pytest
import torch

from medllm.config.compose import load_run_conf
from medllm.config.run import RunConf
from medllm.errors import ModelError
from medllm.models.adapter import attach_adapter, build_peft_config, load_adapter, save_initial, save_model
from medllm.models.base import Tokenizer, build_base_model, build_tokenizer
from medllm.models.tiny import build_tiny_tokenizer
from tests.conf.groups import options
from tests.models.steps import train_steps

STARTS_AS_BASE = [name for name in options("lora") if name not in ("prefix", "none")]

# Every adapter on every base, but for the pairs that the configuration refuses (tests/conf/test_experiment.py).
ALLOWED = [
    (option, quantization)
    for option in options("lora")
    for quantization in ("none", "nf4_double", "int8")
    if option != "none"
    and not (option == "pissa" and quantization != "none")
    and (option, quantization) != ("dora", "int8")
]


def conf(*overrides: str) -> RunConf:
    """A tiny run."""
    return load_run_conf(["model=tiny_random", *overrides])


def base_of(run: RunConf) -> Any:
    """Its base model."""
    return build_base_model(run.model, run.quantization, build_tokenizer(run.model))


def batch(length: int = 24) -> dict[str, torch.Tensor]:
    """Token ids with labels."""
    ids = torch.randint(4, 500, (1, length), generator=torch.Generator().manual_seed(3))
    return {"input_ids": ids, "labels": ids.clone()}


def logits(model: Any) -> torch.Tensor:
    """In eval mode, without a cache."""
    model.eval()
    with torch.no_grad():
        return model(input_ids=batch()["input_ids"], use_cache=False).logits.float()


@pytest.mark.parametrize("option", STARTS_AS_BASE)
def test_an_untrained_adapter_is_the_base(option: str) -> None:
    """B = 0 (or a closed gate, or a scale of one): output equals the base's."""
    run = conf(f"lora={option}", "quantization=none")
    expected = logits(base_of(run))
    torch.manual_seed(0)
    difference = (logits(attach_adapter(base_of(run), run.lora)) - expected).abs().max()
    assert difference < 1e-5


@pytest.mark.parametrize(("option", "quantization"), ALLOWED)
def test_the_base_stays_bit_identical_and_every_adapter_weight_moves(option: str, quantization: str) -> None:
    """Every frozen tensor, wrapped layers included, is the same after training; every trained one is not.

    The model is evaluated first: on some processors that used to cut 4-bit layers off from the gradient.
    """
    run = conf(f"lora={option}", f"quantization={quantization}")
    torch.manual_seed(0)
    model = attach_adapter(base_of(run), run.lora)
    logits(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train_steps(model, batch(), 3)
    for name, parameter in model.named_parameters():
        same = torch.equal(parameter, before[name])
        assert same != parameter.requires_grad, name


@pytest.mark.parametrize("quantization", ["nf4", "nf4_double"])
def test_gradients_through_a_4_bit_base_survive_an_evaluation(quantization: str) -> None:
    """Gradients after an evaluation equal those before it, and reach the first layer through frozen 4-bit layers."""
    run = conf("lora=attention_only", f"quantization={quantization}", "lora.lora_dropout=0")
    torch.manual_seed(0)
    model = attach_adapter(base_of(run), run.lora)

    def gradients() -> list[torch.Tensor]:
        model.train()
        model.zero_grad()
        model(**batch(), use_cache=False).loss.backward()
        return [p.grad.clone() for p in model.parameters() if p.requires_grad]

    before = gradients()
    logits(model)
    after = gradients()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(g.abs().max() > 0 for name, g in zip(range(len(after)), after, strict=True) if name % 2)


@pytest.mark.parametrize(("option", "quantization"), ALLOWED)
def test_every_method_answers_in_bfloat16(option: str, quantization: str) -> None:
    """Forward, backward and generation with a cache, without autocast."""
    run = conf(f"lora={option}", f"quantization={quantization}", "model.dtype=bfloat16")
    model = attach_adapter(base_of(run), run.lora)
    train_steps(model, batch())
    ids = batch()["input_ids"]
    answer = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, use_cache=True)
    assert answer.shape[1] > ids.shape[1]


@pytest.mark.parametrize("option", ["default", "dora", "rslora", "pissa", "ia3", "prefix", "adapter_layers"])
def test_a_saved_adapter_loads_onto_the_untouched_base(option: str, tmp_path: Path) -> None:
    """Logits after loading equal those of the trained model, also where the method had changed the base."""
    run = conf(
        f"lora={option}", "quantization=none", "lora.lora_dropout=0" if option in ("default", "dora") else "seed=1"
    )
    torch.manual_seed(0)
    model = attach_adapter(base_of(run), run.lora)
    initial = tmp_path / "initial" if option == "pissa" else None
    if initial:
        save_initial(model, initial)
    train_steps(model, batch())
    save_model(model, tmp_path / "saved", initial)
    assert {path.suffix for path in (tmp_path / "saved").iterdir()} == {".json", ".safetensors"}
    loaded = load_adapter(base_of(run), tmp_path / "saved")
    assert (logits(loaded) - logits(model)).abs().max() < 1e-4


@pytest.mark.parametrize("option", ["default", "dora", "rslora", "ia3"])
def test_merged_logits_equal_unmerged(option: str) -> None:
    """Folding the adapter into the base changes nothing."""
    run = conf(f"lora={option}", "quantization=none")
    torch.manual_seed(0)
    model = attach_adapter(base_of(run), run.lora)
    train_steps(model, batch())
    expected = logits(model)
    assert (logits(model.merge_and_unload()) - expected).abs().max() < 1e-4


def grown_tokenizer() -> Tokenizer:
    """The tiny tokenizer with two tokens that its base has never seen."""
    tokenizer = build_tiny_tokenizer()
    size = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|new|>", "<|newer|>"]})
    return Tokenizer(tokenizer, (size, size + 1))


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_get_trained_embeddings(tied: bool, tmp_path: Path) -> None:
    """Rows of the new tokens move, all other rows stay; saving and loading keeps them."""
    run = conf("quantization=none", f"model.tie_word_embeddings={str(tied).lower()}")
    made = grown_tokenizer()
    ids = list(made.new_token_ids)
    base = build_base_model(run.model, run.quantization, made)
    start = base.get_input_embeddings().weight.detach().clone()
    start_out = base.get_output_embeddings().weight.detach().clone()
    assert torch.allclose(start[ids[1]], start[: ids[0]].mean(dim=0), atol=1e-6)
    model = attach_adapter(base, run.lora, made.new_token_ids)
    given = torch.tensor([[5, *ids, 7, *ids, 9]])
    train_steps(model, {"input_ids": given, "labels": given})
    trained = model(input_ids=given, use_cache=False).logits.detach()
    save_model(model, tmp_path)
    fresh = build_base_model(run.model, run.quantization, made)
    loaded = load_adapter(fresh, tmp_path)
    assert (loaded(input_ids=given, use_cache=False).logits - trained).abs().max() < 1e-4
    merged = model.merge_and_unload()
    for weight, before in (
        (merged.get_input_embeddings().weight, start),
        (merged.get_output_embeddings().weight, start_out),
    ):
        moved = [i for i in range(len(before)) if not torch.equal(weight[i], before[i])]
        assert moved == ids


def test_new_tokens_under_an_adapter_that_cannot_train_them_are_refused() -> None:
    """With the remedies."""
    with pytest.raises(ModelError, match="2 new tokens, whose embeddings this adapter cannot train"):
        build_peft_config(conf("lora=ia3").lora, num_hidden_layers=2, new_token_ids=(7, 8))


def test_saving_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint, as the Trainer saves it, of a base that the hub may know: no request."""
    from peft.utils import save_and_load

    asked: list[str] = []
    monkeypatch.setattr(save_and_load, "check_file_exists_on_hf_hub", lambda name, *rest, **more: asked.append(name))
    run = conf()
    model = attach_adapter(base_of(run), run.lora, name="somebody/llama")
    model.save_pretrained(tmp_path, state_dict=model.state_dict(), is_main_process=True)
    assert (tmp_path / "adapter_model.safetensors").is_file()
    assert asked == []
