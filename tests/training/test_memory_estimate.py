"""The estimate of a run's peak: counted exactly on what can be counted by hand, and alike by short stacks and whole ones."""

from pathlib import Path

import pytest
import torch

from medllm.config.compose import load_run_conf
from medllm.config.run import RunConf
from medllm.models.adapter import attach_adapter
from medllm.models.base import build_base_model, build_tokenizer
from medllm.sweep.outlook import prepare
from medllm.training import memory_estimate
from medllm.training.memory_estimate import LiveBytes, MemoryEstimate, estimate_memory

SHAPE = ["model=tiny_random", "model.num_hidden_layers=6", "data.max_length=256", "data.over_length=truncate"]


def conf(dialogues: Path, *overrides: str) -> RunConf:
    """A run of a six-layer model on short dialogues."""
    return load_run_conf(
        [*SHAPE, "quantization=none", "data=local", f"data.path={dialogues}", "trainer=cpu", *overrides]
    )


def estimate(run: RunConf) -> MemoryEstimate:
    """Of a run on the CPU."""
    found = estimate_memory(run, prepare(run), "cpu")
    assert found is not None
    return found


def test_live_bytes_are_those_of_the_storages() -> None:
    """Views cost nothing, the dead nothing, and the peak is the most there was at once."""
    with LiveBytes() as live:
        first = torch.zeros(1000)
        view = first[:10].view(2, 5)
        second = first + 1
        assert live.now == 8000
        del first, second
        assert live.now == 4000  # the view keeps its storage
        del view
    assert (live.now, live.peak) == (0, 8000)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["lora=none"],
        ["quantization=nf4_double", "trainer.gradient_checkpointing=true"],
        ["quantization=int8", "trainer.per_device_train_batch_size=3"],
    ],
)
def test_short_stacks_tell_of_the_whole(overrides: list[str], dialogues: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What three layers add to two, every further layer adds."""
    run = conf(dialogues, *overrides)
    short = estimate(run)
    monkeypatch.setattr(memory_estimate, "STACK", 100)
    assert short.activations == pytest.approx(estimate(run).activations, rel=0.02)


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4", "nf4_double"])
def test_weights_are_those_of_the_real_model(quantization: str, dialogues: Path) -> None:
    """Base and adapter by the byte, quantized weights within a few per cent."""
    run = conf(dialogues, f"quantization={quantization}", "trainer.optim=sgd", "model.hidden_size=256")
    tokenizer = build_tokenizer(run.model)
    model = attach_adapter(build_base_model(run.model, run.quantization, tokenizer), run.lora)
    real = sum(tensor.numel() * tensor.element_size() for tensor in [*model.parameters(), *model.buffers()])
    assert estimate(run).weights == pytest.approx(real, rel=0 if quantization == "none" else 0.06)


@pytest.mark.parametrize("lora", ["default", "dora", "pissa", "ia3", "prefix", "adapter_layers", "none"])
def test_every_method_has_an_estimate(lora: str, dialogues: Path) -> None:
    """None of them stops on a tensor without contents."""
    assert estimate(conf(dialogues, f"lora={lora}")).gib > 0


def test_what_makes_a_run_smaller_makes_its_estimate_smaller(dialogues: Path) -> None:
    """Recomputed layers, fewer rows, shorter rows."""
    rows = conf(dialogues, "trainer.per_device_train_batch_size=4")
    smaller = [
        conf(dialogues, "trainer.per_device_train_batch_size=4", "trainer.gradient_checkpointing=true"),
        conf(dialogues, "trainer.per_device_train_batch_size=2"),
        conf(dialogues, "trainer.per_device_train_batch_size=4", "data.max_length=96"),
    ]
    assert all(estimate(run).gib < estimate(rows).gib for run in smaller)
