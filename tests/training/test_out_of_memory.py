"""A device that runs out of memory costs time, and no result: the same step again, with less at once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import AdamW

from medllm.config.run import RunConf
from medllm.errors import DeviceMemoryError
from medllm.models.fused.engine import FusedEngine
from medllm.training import metrics
from medllm.training.arguments import build_arguments
from medllm.training.checkpoint import newest_valid
from medllm.training.engine import build_engine
from medllm.training.out_of_memory import Size
from medllm.training.retry import train
from medllm.training.trainer import MedTrainer
from tests.training.runs import datasets_of, model_of, tiny_run, weights

LINE = (
    "trainer.engine=plain",
    "trainer.max_steps=4",
    "trainer.eval_strategy=no",
    "data.max_length=96",
    "data.eval_fraction=0.1",
    "lora.lora_dropout=0.1",
)
SAVING = ("trainer.save_strategy=steps", "trainer.save_steps=1", "trainer.save_total_limit=null")
ERROR = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 3.95 GiB"


def sized(dialogues: Path, rows: int, accumulation: int, *more: str) -> RunConf:
    """A run with so many rows in a micro-batch."""
    size = (
        f"trainer.per_device_train_batch_size={rows}",
        f"trainer.gradient_accumulation_steps={accumulation}",
    )
    return tiny_run(dialogues, *LINE, *size, *more)


def trained(conf: RunConf, folder: Path, checkpoint: Path | None = None) -> MedTrainer:
    """As a run trains."""
    datasets, model = datasets_of(conf), model_of(conf)

    def build(conf: RunConf, below: int | None) -> MedTrainer:
        engine = build_engine(conf, model, datasets, "cpu", below)
        if conf.trainer.gradient_checkpointing and engine is None:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        arguments = build_arguments(conf.trainer, folder, conf.seed, engine.plan if engine else None)
        return MedTrainer(conf=conf.trainer, datasets=datasets, model=model, args=arguments, engine=engine)

    return train(build, conf, conf, datasets, str(checkpoint) if checkpoint else None)


def full(monkeypatch: pytest.MonkeyPatch, fits: Callable[[MedTrainer, int], bool], error: Exception) -> list[int]:
    """Makes a micro-batch fail in its forward pass where it does not fit; returns the steps at which that happens.

    Only the second of a step, or its only one, so that gradients and random numbers of the first are there already.
    """
    compute, failed = MedTrainer.compute_loss, []

    def faulty(self: MedTrainer, model: Any, inputs: Any, *arguments: Any, **more: Any) -> Any:
        loss = compute(self, model, inputs, *arguments, **more)
        begun = any(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
        if (begun or self.accelerator.sync_gradients) and not fits(self, len(inputs["labels"])):
            failed.append(self.state.global_step)
            raise error
        return loss

    monkeypatch.setattr(MedTrainer, "compute_loss", faulty)
    return failed


def losses(trainer: MedTrainer) -> list[float]:
    """Of each step."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def assert_same(found: MedTrainer, wanted: MedTrainer) -> None:
    """Weights and tokens, bit for bit."""
    assert all(torch.equal(a, b) for a, b in zip(weights(found.model), weights(wanted.model), strict=True))
    assert (int(found.num_tokens), int(found.num_supervised_tokens)) == (
        int(wanted.num_tokens),
        int(wanted.num_supervised_tokens),
    )


@pytest.mark.parametrize(
    ("fits", "error"),
    [
        pytest.param(2, torch.OutOfMemoryError(ERROR), id="once", marks=pytest.mark.slow),
        pytest.param(1, RuntimeError("CUDA error: out of memory"), id="twice"),
    ],
)
def test_the_first_step_again_is_a_run_that_began_smaller(
    fits: int, error: Exception, dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, losses and tokens bit for bit, dropout included, although gradients were there when memory ran out."""
    wanted = trained(sized(dialogues, fits, 8 // fits), tmp_path / "small")
    failed = full(monkeypatch, lambda trainer, rows: rows <= fits, error)
    found = trained(sized(dialogues, 4, 2), tmp_path / "large")
    assert failed == [0] * (3 - fits)
    assert_same(found, wanted)
    assert losses(found) == losses(wanted)


@pytest.mark.parametrize("batching", ["packed", pytest.param("length_grouped", marks=pytest.mark.slow)])
@pytest.mark.parametrize("step", [2, pytest.param("epoch", marks=pytest.mark.slow)])
def test_a_later_step_again_is_a_run_resumed_smaller(
    step: Any, batching: str, dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within an epoch and at the beginning of one: bit for bit what that size makes of the checkpoint before that step.

    Losses are those of the run that had memory, but for rounding, and for the dropout of other micro-batches.
    """
    more = (f"data.batching={batching}", "trainer.max_steps=7" if step == "epoch" else "trainer.max_steps=4")
    more += (f"lora.lora_dropout={0.1 if step == 'epoch' else 0}",)
    large, small = sized(dialogues, 4, 1, *more), sized(dialogues, 2, 2, *more)
    undisturbed = trained(sized(dialogues, 4, 1, *more, *SAVING), tmp_path / "whole")
    if step == "epoch":
        step = len(undisturbed.get_train_dataloader())
    assert 0 < step < 7
    wanted = trained(small, tmp_path / "small", tmp_path / "whole" / f"checkpoint-{step}")
    fits = full(
        monkeypatch, lambda trainer, rows: rows <= 2 or trainer.state.global_step < step, torch.OutOfMemoryError(ERROR)
    )
    found = trained(large, tmp_path / "large")
    assert fits == [step]
    assert_same(found, wanted)
    assert losses(found) == losses(wanted)
    if step == 2:
        assert losses(found) == pytest.approx(losses(undisturbed), rel=1e-4)
    assert found.state.max_steps == undisturbed.state.max_steps


@pytest.mark.slow
def test_a_resumed_run_does_not_fail_again(dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints know the size; a run whose steps take other numbers of rows begins with its own."""
    conf = sized(dialogues, 4, 1, *SAVING)
    failed = full(
        monkeypatch, lambda trainer, rows: rows <= 2 or trainer.state.global_step < 2, torch.OutOfMemoryError(ERROR)
    )
    whole = trained(conf, tmp_path / "run")
    assert failed == [2]
    for checkpoint in ("checkpoint-2", "checkpoint-3"):
        again = trained(conf, tmp_path / "again", tmp_path / "run" / checkpoint)
        assert failed == [2]
        assert_same(again, whole)
    other = Size.of(sized(dialogues, 4, 2), again.size)
    assert (other.per_device_train_batch_size, other.gradient_accumulation_steps) == (4, 2)


@pytest.mark.slow
def test_at_one_row_layers_are_recomputed(dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is then that of `trainer.gradient_checkpointing=true`; where its user wrote `false`, it ends."""
    few = ("trainer.max_steps=3",)
    wanted = trained(sized(dialogues, 1, 3, *few, "trainer.gradient_checkpointing=true"), tmp_path / "true")
    failed = full(
        monkeypatch, lambda trainer, rows: bool(trainer.conf.gradient_checkpointing), torch.OutOfMemoryError(ERROR)
    )
    found = trained(sized(dialogues, 3, 1, *few), tmp_path / "null")
    assert failed == [0, 0]
    assert_same(found, wanted)
    with pytest.raises(DeviceMemoryError) as raised:
        trained(sized(dialogues, 1, 3, *few, "trainer.gradient_checkpointing=false"), tmp_path / "false")
    said = str(raised.value)
    assert said.startswith("step 1: CUDA out of memory; nothing smaller is left than 3 x 1 row")
    for part in ("estimate: ", " GiB at its peak, of the ", "trainer.gradient_checkpointing=true", "lora.r below 16"):
        assert part in said
    assert "data.max_length below 96" in said
    assert "a smaller model" in said


@pytest.mark.slow
def test_a_half_made_update_is_not_made_again(dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some weights may have changed: the run ends, with the checkpoint before; another error is nobody's business here."""

    def step(self: Any, *arguments: Any, **more: Any) -> None:
        raise error

    conf = sized(dialogues, 4, 1)
    error: Exception = torch.OutOfMemoryError(ERROR)
    monkeypatch.setattr(AdamW, "step", step)
    with pytest.raises(DeviceMemoryError, match="only what comes before an update"):
        trained(conf, tmp_path)
    assert newest_valid(tmp_path) is None
    error = RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError, match="shapes do not match"):
        trained(conf, tmp_path)


def test_several_ranks_say_that_they_do_not_retry(
    dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which rank it was, the estimate, and what makes the run smaller; the step is tried once, and nothing is saved of it."""

    def fits(trainer: MedTrainer, rows: int) -> bool:
        monkeypatch.setenv("WORLD_SIZE", "2")  # only now, so that nothing waits for a second process
        monkeypatch.setenv("RANK", "1")
        return False

    failed = full(monkeypatch, fits, torch.OutOfMemoryError(ERROR))
    with pytest.raises(DeviceMemoryError) as raised:
        trained(sized(dialogues, 4, 2), tmp_path)
    what, estimate, fix = str(raised.value).split("\n")
    assert what == (
        "step 1: CUDA out of memory on rank 1 of 2; a run in several processes takes no step again with less at once"
    )
    assert estimate.startswith("    estimate: ") and " GiB at its peak, of the " in estimate
    assert "fix: trainer.per_device_train_batch_size=1 trainer.gradient_accumulation_steps=8" in fix
    assert failed == [0]
    assert newest_valid(tmp_path) is None


def test_the_fused_engine_plans_again(dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With less memory, for as many rows a step: bit for bit what that plan makes of the checkpoint before.

    Gradients of half a step, in the engine's memory, are gone with it.
    """
    conf = sized(dialogues, 1, 4, "trainer.engine=fused", *SAVING)
    whole = trained(conf, tmp_path / "whole")
    assert whole.engine is not None
    first = whole.engine.plan
    compute, failed = FusedEngine.backward, []

    def faulty(self: FusedEngine, batch: Any, scale: Any) -> Any:
        loss = compute(self, batch, scale)
        if self.plan.peak >= first.peak and steps() == 2:
            assert self.grad.any()
            failed.append(self.plan)
            raise torch.OutOfMemoryError(ERROR)
        return loss

    def steps() -> int:
        return len(list((tmp_path / "run").glob("checkpoint-*")))

    with monkeypatch.context() as patched:
        patched.setattr(FusedEngine, "backward", faulty)
        found = trained(conf, tmp_path / "run")
    assert found.engine is not None
    plan = found.engine.plan
    assert failed == [first]
    assert plan.peak < first.peak
    assert plan.rows * plan.micro_batches == first.rows * first.micro_batches == 4
    known = Size.of(conf, found.size)
    assert known.below == first.peak
    wanted = trained(conf, tmp_path / "again", tmp_path / "run" / "checkpoint-2")
    assert wanted.engine is not None
    assert wanted.engine.plan == plan
    assert_same(found, wanted)
    assert losses(found) == pytest.approx(losses(whole), rel=1e-3)


def test_an_evaluation_takes_smaller_batches(dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The held-out loss is the same, each conversation counts once, and the next evaluation begins where this one ended."""
    more = ("trainer.per_device_eval_batch_size=4", "data.eval_fraction=0.4", "data.batching=padded")
    conf = sized(dialogues, 2, 1, *more)
    trainer = trained(replaced(conf, 1), tmp_path)
    wanted = trainer.evaluate()
    compute, failed = metrics.token_losses, []

    def faulty(model: Any, batch: Any) -> Any:
        if len(batch["labels"]) > 1:
            failed.append(len(batch["labels"]))
            raise torch.OutOfMemoryError(ERROR)
        return compute(model, batch)

    monkeypatch.setattr(metrics, "token_losses", faulty)
    found = trainer.evaluate()
    assert failed == [4, 2]
    assert found["eval_num_tokens"] == wanted["eval_num_tokens"]
    assert found["eval_loss"] == pytest.approx(wanted["eval_loss"], rel=1e-4)
    assert trainer.eval_losses is not None
    assert trainer.datasets.eval is not None
    assert len(trainer.eval_losses.loss) == len(trainer.datasets.eval.samples.rows)
    assert trainer.evaluate() == pytest.approx(found, rel=1)
    assert failed == [4, 2]


def replaced(conf: RunConf, steps: int) -> RunConf:
    """A run of so many steps."""
    conf.trainer.max_steps = steps
    return conf


@pytest.mark.parametrize(("rows", "ladder"), [(8, [8, 4, 2, 1]), (6, [6, 3, 1]), (7, [7, 1])])
def test_the_rows_of_a_step_stay(rows: int, ladder: list[int], dialogues: Path) -> None:
    """However a micro-batch is cut, an optimizer step takes as many rows."""
    conf = sized(dialogues, rows, 3)
    size: Size | None = Size.of(conf)
    found = []
    while size is not None and not size.gradient_checkpointing:
        assert size.rows == rows * 3
        found.append(size.per_device_train_batch_size)
        size = size.smaller(conf, None)
    assert found == ladder
