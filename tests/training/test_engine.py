"""The fused engine in the Trainer: the same steps as the plain path, planned, resumable, and refused where it cannot be."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from medllm.config.plan import Point
from medllm.config.trainer import Engine
from medllm.errors import ConfigError, DeviceMemoryError, NonFiniteError
from medllm.experiment import check
from medllm.models.fused.layer import Keep
from medllm.models.fused.plan import GIB, Sizes, activation_bytes, buffer_bytes, evaluation_bytes, lasting_bytes, plans
from medllm.training.arguments import build_arguments
from medllm.training.callbacks import StopOnRequest
from medllm.training.engine import build_engine, engine_faults, engine_obstacle
from medllm.training.order import conversation_ids, rows_of_step
from medllm.training.trainer import MedTrainer
from tests.training.runs import datasets_of, model_of, tiny_run, trainer_of, weights


def fused_trainer(conf: Any, folder: Path) -> MedTrainer:
    """As a run builds it."""
    datasets, model = datasets_of(conf), model_of(conf)
    engine = build_engine(conf, model, datasets, "cpu")
    assert engine is not None
    arguments = build_arguments(conf.trainer, folder, conf.seed, engine.plan)
    return MedTrainer(conf=conf.trainer, datasets=datasets, model=model, args=arguments, engine=engine)


def losses(trainer: MedTrainer) -> list[float]:
    """Logged at every step."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("batching", ["packed", "length_grouped", "padded", "max_length"])
def test_it_takes_the_plain_paths_steps(dialogues: Path, tmp_path: Path, batching: str) -> None:
    """Losses, gradient norms and weights, in every layout, with accumulation, clipping and weight decay."""
    conf = tiny_run(
        dialogues,
        f"data.batching={batching}",
        "data.max_length=128",
        "trainer.per_device_train_batch_size=2",
        "trainer.gradient_accumulation_steps=2",
        "trainer.max_grad_norm=0.1",
        "trainer.weight_decay=0.1",
        "trainer.max_steps=5",
        "trainer.eval_steps=2",
    )
    plain = trainer_of(conf, tmp_path / "plain")
    plain.train()
    trainer = fused_trainer(conf, tmp_path / "fused")
    trainer.train()
    assert losses(trainer) == pytest.approx(losses(plain), rel=1e-4)
    norms = [[entry["grad_norm"] for entry in t.state.log_history if "grad_norm" in entry] for t in (trainer, plain)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    for got, wanted in zip(weights(trainer.model), weights(plain.model), strict=True):
        assert torch.allclose(got, wanted, atol=2e-4)
    assert int(trainer.num_tokens) == int(plain.num_tokens)
    assert int(trainer.num_supervised_tokens) == int(plain.num_supervised_tokens)


@pytest.mark.parametrize("overrides", [[], ["lora.lora_dropout=0.2"], ["quantization=nf4_double"]], ids=str)
def test_a_resumed_run_is_an_uninterrupted_one(dialogues: Path, tmp_path: Path, overrides: list[str]) -> None:
    """Bit for bit: losses and weights, dropout included."""
    more = ["trainer.max_steps=6", "trainer.save_strategy=steps", "trainer.save_steps=2", "trainer.eval_strategy=no"]
    conf = tiny_run(dialogues, *more, "trainer.save_total_limit=null", *overrides)
    whole = fused_trainer(conf, tmp_path / "run")
    whole.train()
    resumed = fused_trainer(conf, tmp_path / "again")
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert losses(resumed) == losses(whole)
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed.model), weights(whole.model), strict=True))


def test_a_checkpoint_of_the_other_engine_is_refused(dialogues: Path, tmp_path: Path) -> None:
    """Their optimizers keep different shapes; the message names both and the way out."""
    conf = tiny_run(dialogues, "trainer.save_strategy=steps", "trainer.save_steps=2", "trainer.eval_strategy=no")
    fused_trainer(conf, tmp_path / "run").train()
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    with pytest.raises(ConfigError, match=r"trainer\.engine=plain: differs from the fused one that wrote"):
        trainer_of(conf, tmp_path / "other").train(resume_from_checkpoint=checkpoint)


def poison(trainer: MedTrainer, step: int) -> None:
    """Makes a gradient NaN at an optimizer step of one micro-batch."""
    assert trainer.engine is not None
    engine, compute, calls = trainer.engine, trainer.engine.backward, iter(range(1, 100))

    def poisoned(*arguments: Any) -> torch.Tensor:
        loss = compute(*arguments)
        if next(calls) == step:
            engine.grad[7] = float("nan")
        return loss

    engine.backward = poisoned  # type: ignore[method-assign]


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
def test_a_step_that_is_not_finite_leaves_the_weights(dialogues: Path, tmp_path: Path, optim: str) -> None:
    """Where the optimizer leaves it out on the device, too: it is named a step later, and the weights are those before it."""
    overrides = ["trainer.lr_scheduler_type=constant", "trainer.logging_steps=50", "trainer.eval_strategy=no"]
    conf = tiny_run(dialogues, *overrides, f"trainer.optim={optim}", "trainer.max_steps=2")
    before = fused_trainer(conf, tmp_path / "before")
    before.train()
    conf.trainer.max_steps = 8
    trainer = fused_trainer(conf, tmp_path / "run")
    poison(trainer, 3)
    with pytest.raises(NonFiniteError, match="step 3: the gradient norm is nan") as raised:
        trainer.train()
    row = rows_of_step(trainer.get_train_dataloader(), 3, 1)[0]
    ids = ", ".join(conversation_ids(trainer.datasets.train, row))
    assert f"micro-batch 1 of 1: conversations {ids}" in str(raised.value)
    assert all(torch.equal(a, b) for a, b in zip(weights(trainer.model), weights(before.model), strict=True))


def test_a_stop_saves_no_step_that_is_not_finite(dialogues: Path, tmp_path: Path) -> None:
    """Asked to stop at the very step whose check the fused optimizer leaves for later: the error, and no checkpoint of it."""
    overrides = ["trainer.logging_steps=50", "trainer.eval_strategy=no", "trainer.max_steps=8"]
    conf = tiny_run(dialogues, *overrides, "trainer.optim=adamw_torch_fused")
    trainer = fused_trainer(conf, tmp_path)
    trainer.add_callback(StopOnRequest(lambda: trainer.state.global_step == 3))
    poison(trainer, 3)
    with pytest.raises(NonFiniteError, match="step 3: the gradient norm is nan"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["lora=dora"], "lora.use_dora=true"),
        (["lora=ia3"], "what is trained is not LoRA"),
        (["lora=none"], "what is trained is not LoRA"),
        (["lora.bias=lora_only"], "lora.bias=lora_only"),
        (["quantization=int8"], "quantization=int8"),
        (["trainer.neftune_noise_alpha=5"], "trainer.neftune_noise_alpha is set"),
        (["trainer.optim=adafactor"], "trainer.optim=adafactor"),
        (["trainer.engine=plain"], "trainer.engine=plain"),
        (["model.dtype=float16"], "float16"),
    ],
)
def test_what_it_cannot_do_takes_the_plain_path(
    dialogues: Path, overrides: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one line that says why; asked for by name, it is refused instead."""
    conf = tiny_run(dialogues, *overrides)
    datasets, model = datasets_of(conf), model_of(conf)
    assert build_engine(conf, model, datasets, "cpu") is None
    assert f"engine    plain: {reason}" in capsys.readouterr().err
    if conf.trainer.engine is Engine.auto:
        conf.trainer.engine = Engine.fused
        with pytest.raises(ConfigError, match=r"trainer\.engine=fused: does not go with this run"):
            build_engine(conf, model, datasets, "cpu")


def test_an_impossible_wish_is_refused_before_anything_is_loaded(dialogues: Path) -> None:
    """With the other gates, as far as the configuration tells; the same configuration on `auto` passes."""
    for engine, refused in (("fused", True), ("auto", False)):
        conf = tiny_run(dialogues, "quantization=int8", f"trainer.engine={engine}")
        faults = [str(fault) for fault in engine_faults(conf)]
        assert bool(faults) is refused
    conf = tiny_run(dialogues, "lora.use_dora=true", "trainer.engine=fused")
    with pytest.raises(ConfigError, match=r"trainer\.engine=fused: does not go with this run: lora\.use_dora=true"):
        check([Point((), conf)])


def test_a_model_that_rotates_a_part_of_its_heads_takes_the_plain_path(dialogues: Path) -> None:
    """The step rotates whole heads."""
    conf = tiny_run(dialogues)
    model = model_of(conf)
    assert engine_obstacle(conf, model, "cpu") == ""
    model.get_base_model().model.layers[0].self_attn.head_dim *= 2
    assert engine_obstacle(conf, model, "cpu") == "rotary embeddings of a part of each head"


def test_too_little_memory_is_said_before_training(dialogues: Path) -> None:
    """With what it needs, what there is, and what to change."""
    conf = tiny_run(dialogues, "trainer.max_memory_gib=0.01")
    with pytest.raises(DeviceMemoryError, match=r"GiB beside the model at the least.*\n.*trainer\.max_memory_gib"):
        build_engine(conf, model_of(conf), datasets_of(conf), "cpu")


def llama3_8b() -> Sizes:
    """With LoRA of rank 16 on all projections, in 4 bit."""
    return Sizes(32, 4096, 4096, 32, 6144, 14336, 128256, 112, 48, 64, 232_783_872, 41_943_040, 2, True, False, False)


def ranked(lengths: list[int], rows: int, least: int) -> list[Any]:
    """Plans for a GPU, fastest first."""
    return plans(llama3_8b(), lengths, rows=rows, least_rows=least, state_bytes=8, on_gpu=True)


def test_plans_need_less_the_slower_they_are() -> None:
    """For every size of micro-batch: more recomputed is less memory; the first plan is the whole step, everything kept."""
    found = ranked([200, 300, 500] * 20, 2, 1)
    assert (found[0].keep, found[0].kept_layers, found[0].micro_batches) == (Keep.everything, 32, 1)
    assert found[0].graphs
    for rows in (1, 2):
        for kept_layers in (0, 8, 32):
            peaks = {p.keep: p.peak for p in found if (p.rows, p.kept_layers) == (rows, kept_layers)}
            assert (
                peaks[Keep.everything] > peaks[Keep.all_but_gate_up] > peaks[Keep.inputs] >= peaks[Keep.inputs_on_host]
            )
    assert all(plan.rows * plan.micro_batches == 2 for plan in found)
    alike = [plan for plan in found if (plan.rows, plan.keep) == (2, Keep.everything)]
    assert [plan.kept_layers for plan in alike] == list(range(32, -1, -4))
    assert all(more.peak > less.peak for more, less in pairwise(alike))


def test_no_batch_is_longer_than_planned(dialogues: Path, tmp_path: Path) -> None:
    """The plan holds for any draw: the rows that are longest, together, filled."""
    conf = tiny_run(dialogues, "data.batching=length_grouped", "trainer.per_device_train_batch_size=3")
    trainer = fused_trainer(conf, tmp_path)
    assert trainer.engine is not None
    plan = trainer.engine.plan
    lengths = sorted(trainer.datasets.train.samples.lengths.tolist())
    assert plan.max_tokens >= sum(lengths[-3:])
    for batch in trainer.get_train_dataloader():
        assert len(batch["input_ids"]) <= plan.max_tokens
        assert len(batch["input_ids"]) % plan.multiple == 0
        assert int(batch["bounds"][-1]) == len(batch["input_ids"])


def test_the_memory_of_the_reference_is_what_was_measured() -> None:
    """An H100's peaks, the 5.62 GiB of the 8B shape included (LOG.md), within 10 %."""
    base = 5.62
    measured = {  # GiB: what is kept, the weights of how many layers, tokens
        (Keep.everything, 0, 8192): 30.49,
        (Keep.everything, 0, 1024): 9.19,
        (Keep.everything, 32, 1024): 22.13,
        (Keep.inputs_on_host, 0, 4096): 7.11,
    }
    for (keep, kept_layers, tokens), peak in measured.items():
        sizes = llama3_8b()
        lasting = lasting_bytes(sizes, kept_layers, 8) + buffer_bytes(sizes, keep, tokens)
        assert base + (lasting + activation_bytes(sizes, keep, tokens)) / GIB == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize(("tokens", "added"), [(8192, 1.27), (4096, 0.656)])
def test_an_evaluation_adds_what_was_measured(tokens: int, added: float) -> None:
    """GiB on an H200 beside what training leaves between steps, 8B shape, one packed row in a batch; within 10 %."""
    assert evaluation_bytes(llama3_8b(), tokens) / GIB == pytest.approx(added, rel=0.1)


def test_memory_between_steps_is_what_was_measured() -> None:
    """GiB on an H200 after the steps of 8,192 tokens, less cuBLAS's workspace, layers recomputed, 8-bit states; within 10 %."""
    sizes = llama3_8b()
    lasting = lasting_bytes(sizes, 0, 2) + buffer_bytes(sizes, Keep.inputs_on_host, 8192)
    assert lasting / GIB == pytest.approx(1.072 - 0.0625, rel=0.1)
