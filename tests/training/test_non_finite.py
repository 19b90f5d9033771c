"""A number that is not finite ends a run before it does harm, and says where it came from."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from medllm.errors import NonFiniteError
from medllm.training import metrics
from medllm.training.checkpoint import newest_valid
from medllm.training.trainer import MedTrainer
from tests.training.runs import tiny_run, trainer_of, weights

STEPS = 5
LINE = (
    f"trainer.max_steps={STEPS}",
    "trainer.per_device_train_batch_size=2",
    "trainer.gradient_accumulation_steps=2",
    "trainer.eval_steps=1",
    "trainer.save_strategy=steps",
    "trainer.save_steps=1",
    "trainer.save_total_limit=null",
    "trainer.per_device_eval_batch_size=2",
    "data.max_length=96",
    "data.eval_fraction=0.2",
    "lora.lora_dropout=0.1",
)


def poison(trainer: MedTrainer, where: str, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the loss, or its gradient, of a step's second micro-batch NaN; or of a step's evaluation the second batch."""
    if where == "evaluation":
        compute, calls = metrics.token_losses, 0

        def faulty(model: Any, batch: Any) -> Any:
            nonlocal calls
            found = compute(model, batch)
            calls = calls + 1 if trainer.state.global_step == step else 0
            if calls == 2:
                found.loss[0] *= float("nan")
            return found

        monkeypatch.setattr(metrics, "token_losses", faulty)
        return
    original, number = trainer.compute_loss, iter(range(1, 99))

    def poisoned(*arguments: Any, **more: Any) -> torch.Tensor:
        loss: torch.Tensor = original(*arguments, **more)
        if next(number) == 2 * step:
            if where == "loss":
                return loss * float("nan")
            loss.register_hook(lambda gradient: gradient * float("nan"))
        return loss

    monkeypatch.setattr(trainer, "compute_loss", poisoned)


def recorded(trainer: MedTrainer) -> list[list[str]]:
    """Conversations of each training micro-batch, as its data loader makes it."""
    collate, seen = trainer.data_collator, []

    def recording(rows: Any) -> Any:
        seen.append([sample["conversation_id"] for row in rows for sample in (row if isinstance(row, list) else [row])])
        return collate(rows)

    trainer.data_collator = recording
    return seen


@pytest.fixture(scope="module")
def whole(dialogues: Path, tmp_path_factory: pytest.TempPathFactory) -> list[torch.Tensor]:
    """The weights of a run that nothing happens to."""
    trainer = trainer_of(tiny_run(dialogues, *LINE), tmp_path_factory.mktemp("whole"))
    trainer.train()
    return weights(trainer.model)


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(1, marks=pytest.mark.slow, id="first"),
        pytest.param(3, id="middle"),
        pytest.param(STEPS, marks=pytest.mark.slow, id="last"),
    ],
)
@pytest.mark.parametrize("where", ["loss", "gradient", "evaluation"])
def test_a_run_stops_where_a_number_is_not_finite(
    where: str, step: int, whole: Any, dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At that step, before its update or checkpoint; named by step, batch and ids; the checkpoint before leads to the end."""
    conf = tiny_run(dialogues, *LINE)
    trainer = trainer_of(conf, tmp_path)
    seen = recorded(trainer)
    with monkeypatch.context() as patched, pytest.raises(NonFiniteError) as raised:
        poison(trainer, where, step, patched)
        trainer.train()
    said = str(raised.value)
    ids = seen[2 * step - 2 : 2 * step]
    if where == "evaluation":
        assert trainer.datasets.eval is not None
        side = trainer.datasets.eval
        row = side.rows[2]  # the second batch begins there
        (named,) = [line for line in said.splitlines() if "where: " in line]
        assert said.startswith(f"step {step}: the held-out loss is nan")
        assert f"where: batch 2 of {-(-len(side.rows) // 2)}: conversations " in named
        assert named.endswith(", ".join(side.samples.rows[i]["conversation_id"] for i in row))
    else:
        assert said.startswith(f"step {step}: the {where}")
        assert f"micro-batch 2 of 2: conversations {', '.join(ids[1])}" in said
        assert ("micro-batch 1 of 2" in said) is (where == "gradient")  # which does not tell its micro-batch
    texts = [
        message.content for side in (trainer.datasets.train,) for c in side.conversations for message in c.messages
    ]
    assert not [text for text in texts if text in said]
    assert trainer.state.global_step == (step if where == "evaluation" else step - 1)
    checkpoint = newest_valid(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"checkpoint-{number}" for number in range(1, step)}
    for path in tmp_path.rglob("*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(path).values())
    for path in tmp_path.rglob("optimizer.pt"):
        states = torch.load(path, weights_only=True)["state"].values()
        assert all(tensor.isfinite().all() for state in states for tensor in state.values())
    again = trainer_of(conf, tmp_path)
    again.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    assert all(torch.equal(a, b) for a, b in zip(weights(again.model), whole, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("batching", ["packed", "length_grouped", "padded"])
def test_a_micro_batch_is_found_again(batching: str, dialogues: Path, tmp_path: Path) -> None:
    """In every layout, in a later epoch, and in the last step of an epoch, which is shorter: what was in it is told."""
    conf = tiny_run(dialogues, *LINE, f"data.batching={batching}", "data.eval_fraction=0.1")
    trainer = trainer_of(conf, tmp_path)
    seen = recorded(trainer)
    batches = len(trainer.get_train_dataloader())
    loader = trainer.get_train_dataloader()
    for epoch in range(3):
        loader.set_epoch(epoch)
        assert len(list(loader)) == batches
    place = 0
    for step in range(1, 3 * -(-batches // 2) + 1):
        count = min(2, batches - place % batches)
        told = trainer.where(step, [torch.tensor(1.0)] * count)
        wanted = [", ".join(ids) for ids in seen[place : place + count]]
        assert [part.partition("conversations ")[2] for part in told.split("; ")] == wanted
        place += count
    assert place == 3 * batches
