"""Checkpoints are whole or do not count, and going on from one is as if nothing had happened."""

import os
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medllm.training.callbacks import StopOnRequest
from medllm.training.checkpoint import MANIFEST, checkpoints, fault, newest_valid, seal
from tests.training.runs import tiny_run, trainer_of

SAVING = ("trainer.max_steps=6", "trainer.save_strategy=steps", "trainer.save_steps=1", "trainer.eval_strategy=no")


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    """Copies of what was trained."""
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


def losses(trainer: Any) -> list[tuple[int, float]]:
    """Every logged loss."""
    return [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("logging_steps", [1, 3])
@pytest.mark.parametrize("batching", ["packed", pytest.param("length_grouped", marks=pytest.mark.slow)])
def test_stopped_and_resumed_equals_uninterrupted(
    batching: str, logging_steps: int, dialogues: Path, tmp_path: Path
) -> None:
    """Weights, losses, tokens and the mean loss are bit for bit those of a run that nobody stopped.

    Stopped in the middle of the second epoch and resumed into the third; with several steps to a log, between two logs.
    """
    own = (
        "trainer.max_steps=14",
        "trainer.gradient_accumulation_steps=4",
        "trainer.per_device_train_batch_size=1",
        "trainer.eval_strategy=no",
        f"trainer.logging_steps={logging_steps}",
        "lora.lora_dropout=0.1",
        "data.max_length=128",
        f"data.batching={batching}",
    )
    conf = tiny_run(dialogues, *own)
    whole = trainer_of(conf, tmp_path / "whole")
    whole.train()
    first = trainer_of(conf, tmp_path / "parts")
    stopping = StopOnRequest(lambda: first.state.global_step >= 8)
    first.add_callback(stopping)
    first.train()
    assert stopping.stopped
    assert first.state.global_step == 8
    checkpoint = newest_valid(tmp_path / "parts")
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-8"
    second = trainer_of(conf, tmp_path / "parts")
    second.train(resume_from_checkpoint=str(checkpoint))
    assert 1 < first.state.epoch < 2 < second.state.epoch
    assert [step for step, _ in losses(whole)] == sorted({1, *range(logging_steps, 15, logging_steps)})
    assert losses(second) == losses(whole)
    assert second.mean_train_loss == whole.mean_train_loss
    assert int(second.num_tokens) == int(whole.num_tokens)
    expected = weights(whole)
    assert all(torch.equal(p, expected[name]) for name, p in weights(second).items())


def test_nothing_is_stopped_after_the_last_step(dialogues: Path, tmp_path: Path) -> None:
    """A request that comes with the last step finds the run finished."""
    trainer = trainer_of(tiny_run(dialogues, "trainer.max_steps=2", "trainer.eval_strategy=no"), tmp_path)
    stopping = StopOnRequest(lambda: trainer.state.global_step == 2)
    trainer.add_callback(stopping)
    trainer.train()
    assert not stopping.stopped


def test_rotation_keeps_the_newest_sealed(dialogues: Path, tmp_path: Path) -> None:
    """As many as asked for are left, all of them whole; what a dead process left is removed."""
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "half.bin").touch()
    trainer_of(tiny_run(dialogues, *SAVING, "trainer.save_total_limit=2"), tmp_path).train()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-5", "checkpoint-6"]
    assert [fault(path) for path in checkpoints(tmp_path)] == ["", ""]


def test_damaged_checkpoints_are_passed_over(
    dialogues: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each kind of damage is told and the next older checkpoint is taken; with none left there is none."""
    trainer_of(tiny_run(dialogues, *SAVING, "trainer.save_total_limit=null"), tmp_path).train()
    found = {path.name: path for path in checkpoints(tmp_path)}
    assert len(found) == 6
    (found["checkpoint-6"] / MANIFEST).unlink()
    (found["checkpoint-5"] / "optimizer.pt").unlink()
    state = bytearray((found["checkpoint-4"] / "optimizer.pt").read_bytes())
    state[len(state) // 2] ^= 1
    (found["checkpoint-4"] / "optimizer.pt").write_bytes(state)
    (found["checkpoint-3"] / MANIFEST).write_text("{")
    model = found["checkpoint-2"] / "adapter_model.safetensors"
    model.write_bytes(model.read_bytes()[:-8])
    assert newest_valid(tmp_path) == found["checkpoint-1"]
    said = capsys.readouterr().err
    for name, reason in (
        ("checkpoint-6", "is not complete"),
        ("checkpoint-5", "lacks optimizer.pt"),
        ("checkpoint-4", "has a damaged optimizer.pt"),
        ("checkpoint-3", f"has a damaged {MANIFEST}"),
        ("checkpoint-2", "has a damaged adapter_model.safetensors"),
    ):
        assert f"{name} {reason}" in said
    shutil.rmtree(found["checkpoint-1"])
    assert newest_valid(tmp_path) is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "7", "{}", '{"files": ["a"]}', '{"files": "a"}', '{"files": null}']
)
def test_a_manifest_of_another_shape_is_damaged(text: str, tmp_path: Path) -> None:
    """Whatever is in it, there is a reason to tell and no exception."""
    (tmp_path / MANIFEST).write_text(text)
    assert fault(tmp_path) == f"has a damaged {MANIFEST}"


def test_a_seal_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is synchronised after the rename; a file system that cannot do so is no reason to fail."""
    synced: list[tuple[bool, bool]] = []

    def fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        synced.append((is_folder, (tmp_path / MANIFEST).is_file()))
        if is_folder:
            raise OSError("not supported")

    monkeypatch.setattr(os, "fsync", fsync)
    (tmp_path / "weights").write_text("1")
    seal(tmp_path)
    assert synced == [(False, False), (False, False), (True, True)]
    assert fault(tmp_path) == ""


@pytest.mark.parametrize("batching", ["packed", "length_grouped"])
def test_losses_by_conversation(batching: str, dialogues: Path, tmp_path: Path) -> None:
    """They are those of each conversation evaluated alone, under its own name, and add up to the held-out loss."""
    own = ("data.eval_fraction=0.4", "trainer.per_device_eval_batch_size=3")
    together = trainer_of(tiny_run(dialogues, *own, f"data.batching={batching}"), tmp_path)
    metrics = together.evaluate()
    found = together.eval_losses
    assert found is not None
    assert len(found.conversation) == len(set(found.conversation)) == len(together.datasets.eval.samples.rows)
    assert found.loss.sum() / found.num_tokens.sum() == pytest.approx(metrics["eval_loss"], rel=1e-9)
    alone_conf = tiny_run(dialogues, *own, "trainer.per_device_eval_batch_size=1", "data.batching=length_grouped")
    alone = trainer_of(alone_conf, tmp_path)
    alone.evaluate()
    assert alone.eval_losses is not None
    order, other = np.argsort(found.conversation), np.argsort(alone.eval_losses.conversation)
    assert np.array_equal(found.conversation[order], alone.eval_losses.conversation[other])
    assert np.array_equal(found.num_tokens[order], alone.eval_losses.num_tokens[other])
    np.testing.assert_allclose(found.loss[order], alone.eval_losses.loss[other], rtol=1e-4)
