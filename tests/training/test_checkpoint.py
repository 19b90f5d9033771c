"""Checkpoints are whole or do not count, and going on from one is as if nothing had happened."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medllm.training import checkpoint
from medllm.training.callbacks import StopOnRequest
from medllm.training.checkpoint import (
    MANIFEST,
    STAGING,
    checkpoints,
    commit,
    empty_staging,
    fault,
    newest_valid,
    recover,
    rotate,
    seal,
)
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


def test_going_on_after_the_last_step(dialogues: Path, tmp_path: Path) -> None:
    """Stopped after its last step, a run is saved; going on trains no step more, in the middle of an epoch too, and evaluates."""
    conf = tiny_run(dialogues, "trainer.max_steps=2", "data.eval_fraction=0.4", "trainer.save_total_limit=1")
    first = trainer_of(conf, tmp_path)
    first.add_callback(StopOnRequest(lambda: first.state.global_step == 2))
    first.train()
    (checkpoint,) = checkpoints(tmp_path)
    assert checkpoint.name == "checkpoint-2"
    assert first.state.epoch % 1 > 0
    assert "eval_loss" not in first.state.log_history[-1]
    second = trainer_of(conf, tmp_path)
    second.train(resume_from_checkpoint=str(checkpoint))
    assert second.state.global_step == 2
    assert [entry["step"] for entry in second.state.log_history if "eval_loss" in entry] == [1, 2]
    expected = weights(first)
    assert all(torch.equal(p, expected[name]) for name, p in weights(second).items())
    assert checkpoints(tmp_path) == [checkpoint]


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
    "text", ["", "{", "[" * 100_000, "[]", "null", "7", "{}", '{"files": ["a"]}', '{"files": "a"}', '{"files": null}']
)
def test_a_manifest_of_another_shape_is_damaged(text: str, tmp_path: Path) -> None:
    """Whatever is in it, there is a reason to tell and no exception."""
    (tmp_path / MANIFEST).write_text(text)
    assert fault(tmp_path) == f"has a damaged {MANIFEST}"


@pytest.mark.parametrize(
    "what", ["checkpoint is a file", "manifest is a folder", "a name of 300 letters", "a name outside"]
)
def test_what_lies_in_the_place_of_another_thing_is_passed_over(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Told, and the checkpoint before is taken; what stands in the way of the next one goes."""
    for step in (1, 2):
        empty_staging(tmp_path)
        (tmp_path / STAGING / f"checkpoint-{step}").mkdir()
        (tmp_path / STAGING / f"checkpoint-{step}" / "weights").write_text("x")
        commit(tmp_path / STAGING / f"checkpoint-{step}")
    newest = tmp_path / "checkpoint-2"
    if "file" in what:
        shutil.rmtree(newest)
        newest.touch()
    elif "stranger" in what:
        (newest / "pytorch_model.bin").touch()
    elif "folder" in what:
        (newest / MANIFEST).unlink()
        (newest / MANIFEST).mkdir()
    else:
        name = "a" * 300 if "300" in what else "../checkpoint-1/weights"
        files = json.loads((newest / MANIFEST).read_text())["files"] | {name: hashlib.sha256(b"x").hexdigest()}
        (newest / MANIFEST).write_text(json.dumps({"files": files, "sha256": checkpoint._digest(files)}))
    assert newest_valid(tmp_path) == tmp_path / "checkpoint-1"
    assert "going back to an earlier one" in capsys.readouterr().err
    shutil.rmtree(tmp_path / STAGING)
    (tmp_path / STAGING).touch()
    recover(tmp_path)
    empty_staging(tmp_path)
    (tmp_path / STAGING / "checkpoint-2").mkdir()
    assert fault(commit(tmp_path / STAGING / "checkpoint-2")) == ""
    rotate(tmp_path, 1)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2"]


def test_a_checkpoint_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files, their folders and the rename are synchronised in this order; a file system that cannot do folders is no failure."""
    synced: list[str] = []
    place = tmp_path / "checkpoint-3"

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append(f"{path.relative_to(tmp_path)}{' renamed' if place.exists() else ''}")
        if path.is_dir():
            raise OSError("not supported")

    monkeypatch.setattr(os, "fsync", fsync)
    empty_staging(tmp_path)
    staged = tmp_path / STAGING / "checkpoint-3"
    (staged / "shards").mkdir(parents=True)
    (staged / "shards" / "0").write_text("1")
    assert commit(staged) == place
    inside = f"{STAGING}/checkpoint-3"
    files = [f"{inside}/shards/0", f"{inside}/{MANIFEST}"]
    assert synced == [*files, f"{inside}/shards", inside, ". renamed"]
    assert fault(place) == ""


def test_what_was_sealed_is_not_lost(tmp_path: Path) -> None:
    """Killed between the seal and the rename, also in place of a damaged one; what was not sealed goes."""
    for step in (1, 2):
        empty_staging(tmp_path)
        staged = tmp_path / STAGING / f"checkpoint-{step}"
        staged.mkdir()
        (staged / "weights").write_text("old")
        commit(staged)
    (tmp_path / "checkpoint-2" / "weights").write_text("damaged")
    empty_staging(tmp_path)
    for step in (2, 3, 4):
        staged = tmp_path / STAGING / f"checkpoint-{step}"
        staged.mkdir()
        (staged / "weights").write_text("new")
        if step < 4:
            seal(staged)
    recover(tmp_path)
    assert not (tmp_path / STAGING).exists()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    assert [(path / "weights").read_text() for path in checkpoints(tmp_path)] == ["old", "new", "new"]


def test_a_checkpoint_that_will_not_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Is told, and costs neither the new one nor the run."""
    for step in (1, 2):
        empty_staging(tmp_path)
        (tmp_path / STAGING / f"checkpoint-{step}").mkdir()
        commit(tmp_path / STAGING / f"checkpoint-{step}")

    def refuse(path: Path) -> None:
        raise OSError("busy")

    monkeypatch.setattr(shutil, "rmtree", refuse)
    rotate(tmp_path, 1)
    assert "checkpoint-1 could not be removed: busy" in capsys.readouterr().err
    assert newest_valid(tmp_path) == tmp_path / "checkpoint-2"


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
