"""4-bit layers with their weights written out, as long as a model is asked."""

from typing import Any

import pytest
import torch

from medllm.config.compose import load_run_conf
from medllm.models.adapter import attach_adapter
from medllm.models.base import build_base_model, build_tokenizer
from medllm.models.fused.layer import Keep
from medllm.models.fused.step import FusedStep
from medllm.models.quantization import dequantized

FLOAT32 = ("model.dtype=float32", "quantization.bnb_4bit_compute_dtype=float32")


def adapted(*overrides: str) -> Any:
    """A tiny 4-bit model with an adapter that changes what it says, in evaluation mode."""
    run = load_run_conf(["model=tiny_random", "quantization=nf4_double", *overrides])
    torch.manual_seed(3)
    model = attach_adapter(build_base_model(run.model, run.quantization, build_tokenizer(run.model)), run.lora)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    """Of some tokens."""
    with torch.no_grad():
        out: torch.Tensor = model(torch.randint(4, 500, (2, 24), generator=torch.Generator().manual_seed(3))).logits
    return out


def layer_types(model: Any) -> set[str]:
    """What the adapted layers wrap."""
    return {type(layer).__name__ for name, layer in model.named_modules() if name.endswith("base_layer")}


@pytest.mark.parametrize("lora", ["default", "dora"])
def test_the_same_numbers_and_the_same_layers_afterwards(lora: str) -> None:
    """To the last bit, and every module is the very object that it was, also after a failure."""
    model = adapted(f"lora={lora}", *FLOAT32)
    before, layers = logits(model), dict(model.named_modules())
    with dequantized(model):
        assert layer_types(model) == {"Linear"}
        assert torch.equal(logits(model), before)
    with pytest.raises(KeyboardInterrupt), dequantized(model):
        raise KeyboardInterrupt
    assert layer_types(model) == {"Linear4bit"}
    assert dict(model.named_modules()) == layers
    assert torch.equal(logits(model), before)


def test_within_another_nothing_is_left_to_do() -> None:
    """The inner one ends without taking the outer one's layers away."""
    model = adapted(*FLOAT32)
    with dequantized(model):
        with dequantized(model):
            pass
        assert layer_types(model) == {"Linear"}
    assert layer_types(model) == {"Linear4bit"}


def test_layers_that_would_compute_otherwise_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of another precision than the model's, and all where memory is short."""
    mixed = adapted("model.dtype=float32", "quantization.bnb_4bit_compute_dtype=bfloat16")
    with dequantized(mixed):
        assert layer_types(mixed) == {"Linear4bit"}
    model = adapted(*FLOAT32)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    with dequantized(model):
        assert layer_types(model) == {"Linear4bit"}


def test_what_the_engine_holds_written_out_is_lent() -> None:
    """Its memory and no other, as long as it holds it; the same numbers come out."""
    model = adapted(*FLOAT32)
    before = logits(model)
    step = FusedStep(model, keep=Keep.everything, kept_layers=1, max_tokens=64, max_length=64)
    matrices = {projection.matrix.data_ptr() for projection in step.work.projections if projection.matrix is not None}
    with dequantized(model, anew=False):
        assert layer_types(model) == {"Linear", "Linear4bit"}  # it holds one layer of two
        lent = [m for name, m in model.named_modules() if name.endswith("base_layer") and type(m) is torch.nn.Linear]
        assert matrices <= {layer.weight.data_ptr() for layer in lent}
        assert torch.allclose(logits(model), before, atol=1e-5)
    step.release()
    with dequantized(model, anew=False):
        assert layer_types(model) == {"Linear4bit"}
    assert torch.equal(logits(model), before)
