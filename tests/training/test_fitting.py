"""Layers are recomputed where a run would not fit otherwise, and nobody is asked."""

from pathlib import Path

import pytest

from medllm.training import fitting
from medllm.training.fitting import expected_peak_gib, fitted, memory_fault
from tests.training.runs import datasets_of, tiny_run


@pytest.fixture(autouse=True)
def nothing_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    """No estimate of another test; a process without weight, so that a run's own memory counts."""
    monkeypatch.setattr(fitting, "_estimates", {})
    monkeypatch.setattr(fitting, "process_gib", lambda: 0.0)


def test_layers_are_recomputed_where_memory_asks_for_it(dialogues: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a wish decides, or else what fits; a run that does not fit even so is told."""
    shape = ("trainer.engine=plain", "model.num_hidden_layers=6", "data.batching=padded")
    asked = {
        wish: tiny_run(dialogues, *shape, f"trainer.gradient_checkpointing={wish}")
        for wish in ("false", "true", "null")
    }
    datasets = datasets_of(asked["null"])
    kept, recomputed = (expected_peak_gib(asked[wish], datasets) for wish in ("false", "true"))
    assert recomputed < kept
    for limit, answer in ((kept * 1.01, False), ((kept + recomputed) / 2, True), (recomputed * 0.99, True)):
        monkeypatch.setattr(fitting, "device_memory_gib", lambda device, limit=limit: limit)
        decided, peak = fitted(asked["null"], datasets)
        assert decided.trainer.gradient_checkpointing is answer
        assert peak == (recomputed if answer else kept)
        assert bool(memory_fault(decided, peak, "trainer")) == (limit < recomputed)
        for wish in ("false", "true"):
            assert fitted(asked[wish], datasets)[0] == asked[wish]


def test_a_prefix_is_never_recomputed(dialogues: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recomputed layers would not see it."""
    monkeypatch.setattr(fitting, "device_memory_gib", lambda device: 1e-6)
    run = tiny_run(dialogues, "lora=prefix")
    decided, peak = fitted(run, datasets_of(run))
    assert decided.trainer.gradient_checkpointing is False
    (fault,) = memory_fault(decided, peak, "trainer")
    assert "gradient_checkpointing" not in str(fault)
