"""MedTrainer: one loss whatever the layout, reproducible, resumable, and never past a NaN."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from medllm.errors import NonFiniteError
from medllm.training import metrics
from medllm.training.metrics import evaluate, token_losses, token_sums
from tests.training.runs import datasets_of, model_of, tiny_run, trainer_of, weights


def rows_of(dialogues: Path) -> list[dict]:
    """All training samples."""
    return datasets_of(tiny_run(dialogues)).train.samples.rows.to_list()


def gradients(model, micro_batches) -> list[torch.Tensor]:  # type: ignore[no-untyped-def]
    """Of the summed loss over the supervised tokens of all micro-batches."""
    model.zero_grad()
    count = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in micro_batches)
    for batch in micro_batches:
        (token_sums(model, batch).loss / count).backward()
    return [p.grad.clone() for p in model.parameters() if p.requires_grad]


def test_loss_and_gradients_do_not_depend_on_the_layout(dialogues: Path) -> None:
    """Packed in one row, packed in several, padded, one by one: the same loss and the same gradients."""
    from medllm.data.collate import PackCollator, PadCollator

    samples = rows_of(dialogues)[:6]
    flatten, pad = PackCollator(), PadCollator(3)
    layouts = {
        "one row": [flatten([samples])],
        "two rows": [flatten([samples[:2]]), flatten([samples[2:]])],
        "several rows in a batch": [flatten([samples[:3], samples[3:]])],
        "padded": [pad(samples)],
        "padded in parts": [pad(samples[:1]), pad(samples[1:])],
        "one by one": [flatten([[sample]]) for sample in samples],
    }
    model = model_of(tiny_run(dialogues))
    with torch.no_grad():  # B = 0 would leave the gradient of A zero everywhere
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.02)
    expected = gradients(model, layouts.pop("one by one"))
    for name, micro_batches in layouts.items():
        for got, want in zip(gradients(model, micro_batches), expected, strict=True):
            assert torch.allclose(got, want, atol=1e-6, rtol=1e-4), name


def test_sums_are_those_of_the_whole_logits(dialogues: Path) -> None:
    """Computing logits only where supervised changes neither loss, nor accuracy, nor count."""
    from medllm.data.collate import PadCollator

    batch = PadCollator(3)(rows_of(dialogues)[:4])
    model = model_of(tiny_run(dialogues)).eval()
    sums = token_sums(model, batch)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    logits, labels = model(**inputs, use_cache=False).logits[:, :-1], batch["labels"][:, 1:]
    kept = labels != -100
    assert torch.allclose(sums.loss, F.cross_entropy(logits[kept], labels[kept], reduction="sum"), rtol=1e-5)
    assert int(sums.correct) == int((logits.argmax(-1)[kept] == labels[kept]).sum())
    assert int(sums.count) == int(kept.sum())


@pytest.mark.parametrize("batching", ["packed", "length_grouped", "padded", "max_length"])
def test_held_out_metrics_are_sums_over_counts(dialogues: Path, batching: str) -> None:
    """Loss and accuracy are token means over the whole set, in every layout and batch size; the model's mode stays."""
    conf = tiny_run(dialogues, "data.eval_fraction=0.4")
    reference_rows = datasets_of(conf).eval.samples.rows.to_list()  # type: ignore[union-attr]
    model = model_of(conf)
    from medllm.data.collate import PackCollator

    alone = [token_sums(model.eval(), PackCollator()([[row]])) for row in reference_rows]
    count = sum(int(s.count) for s in alone)
    expected = sum(float(s.loss.detach()) for s in alone) / count
    other = tiny_run(dialogues, "data.eval_fraction=0.4", f"data.batching={batching}")
    datasets = datasets_of(other)
    loader = torch.utils.data.DataLoader(datasets.eval.dataset, batch_size=3, collate_fn=datasets.collate)  # type: ignore[union-attr]
    model.train()
    found = evaluate(model, loader)
    assert model.training
    assert found.num_tokens == count
    assert found.loss == pytest.approx(expected, rel=1e-5)
    assert found.token_accuracy == pytest.approx(sum(int(s.correct) for s in alone) / count)


@pytest.mark.parametrize("lora", ["none", "default", "ia3", "adapter_layers", "prefix"])
def test_logits_in_parts_are_those_at_once(lora: str, dialogues: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation that holds few positions' logits at a time gives each token the same loss, whatever the adapter."""
    conf = tiny_run(dialogues, f"lora={lora}", "data.batching=padded")
    datasets, model = datasets_of(conf), model_of(conf).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)  # adapters begin as nothing
    batch = datasets.collate([datasets.train.dataset[i] for i in range(3)])
    shapes = []
    model.get_output_embeddings().register_forward_hook(lambda _module, _inputs, out: shapes.append(out.shape[1]))
    at_once = token_losses(model, batch)
    monkeypatch.setattr(metrics, "LOGITS_BYTES", 2**16)
    in_parts = token_losses(model, batch)
    assert shapes[0] == sum(shapes[1:]) == len(at_once.positions)
    assert (len(shapes) == 2) == (lora == "prefix")  # which sits in front of the whole model
    assert torch.allclose(in_parts.loss, at_once.loss, rtol=1e-5, atol=1e-6)
    assert torch.equal(in_parts.correct, at_once.correct)
    assert torch.equal(in_parts.supervised, batch["labels"][:, 1:][:, at_once.positions] != -100)
    whole = token_sums(model, batch)
    assert float(at_once.loss.detach().sum()) == pytest.approx(float(whole.loss.detach()), rel=1e-5)


@pytest.mark.parametrize("batching", ["packed", "length_grouped", "padded"])
def test_logged_loss_and_weights_do_not_depend_on_accumulation(dialogues: Path, tmp_path: Path, batching: str) -> None:
    """Batch 4, or 2 x 2, or 1 x 4: the Trainer takes the same steps."""
    results = []
    for size, accumulation in ((4, 1), (2, 2), (1, 4)):
        conf = tiny_run(
            dialogues,
            f"data.batching={batching}",
            "data.max_length=128",
            f"trainer.per_device_train_batch_size={size}",
            f"trainer.gradient_accumulation_steps={accumulation}",
            "trainer.eval_strategy=no",
            "trainer.optim=sgd",
        )
        trainer = trainer_of(conf, tmp_path / f"{size}")
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        results.append((losses, weights(trainer.model)))
    for losses, trained in results[1:]:
        assert losses == pytest.approx(results[0][0], rel=1e-4)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(trained, results[0][1], strict=True))


def test_same_seed_same_weights_and_seed_zero_counts(dialogues: Path, tmp_path: Path) -> None:
    """Bitwise, dropout included; seed 0 is a seed like any other."""
    trained = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        conf = tiny_run(dialogues, f"seed={seed}", "lora.lora_dropout=0.1", "trainer.eval_strategy=no")
        trainer = trainer_of(conf, tmp_path / name)
        trainer.train()
        trained[name] = weights(trainer.model)
    assert all(torch.equal(x, y) for x, y in zip(trained["a"], trained["b"], strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(trained["a"], trained["c"], strict=True))


@pytest.mark.parametrize("overrides", [[], ["quantization=nf4_double"], ["lora=none", "trainer.learning_rate=1e-3"]])
def test_a_resumed_run_equals_an_uninterrupted_one(dialogues: Path, tmp_path: Path, overrides: list[str]) -> None:
    """Losses after the checkpoint and final weights are bitwise equal: LoRA, QLoRA, full."""
    dropout = [] if "lora=none" in overrides else ["lora.lora_dropout=0.1"]
    common = [
        "trainer.max_steps=6",
        "trainer.save_strategy=steps",
        "trainer.save_steps=2",
        "data.max_length=128",
        *dropout,
    ]

    def run(folder: str, *more: str):  # type: ignore[no-untyped-def]
        conf = tiny_run(dialogues, *overrides, *common, *more)
        trainer = trainer_of(conf, tmp_path / folder)
        trainer.train(resume_from_checkpoint=conf.trainer.resume_from_checkpoint)
        losses = {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}
        return losses, weights(trainer.model)

    whole_losses, whole = run("whole", "trainer.save_total_limit=null")
    checkpoint = tmp_path / "whole" / "checkpoint-4"
    resumed_losses, resumed = run("resumed", f"trainer.resume_from_checkpoint={checkpoint}")
    assert [resumed_losses[step] for step in (5, 6)] == [whole_losses[step] for step in (5, 6)]
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


@pytest.mark.parametrize("batching", ["packed", "length_grouped", "padded"])
def test_resuming_in_a_later_epoch_keeps_the_order(dialogues: Path, tmp_path: Path, batching: str) -> None:
    """The data order after a checkpoint in the second epoch is that of the uninterrupted run, in every layout."""
    common = [
        f"data.batching={batching}",
        "data.max_length=128",
        "lora.lora_dropout=0.1",
        "trainer.max_steps=-1",
        "trainer.num_train_epochs=3",
        "trainer.per_device_train_batch_size=2",
        "trainer.gradient_accumulation_steps=2",
        "trainer.eval_strategy=no",
        "trainer.save_strategy=steps",
        "trainer.save_steps=8",
    ]

    def run(folder: str, *more: str) -> tuple[list[float], list[torch.Tensor]]:
        conf = tiny_run(dialogues, *common, *more)
        trainer = trainer_of(conf, tmp_path / folder)
        trainer.train(resume_from_checkpoint=conf.trainer.resume_from_checkpoint)
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry and entry["step"] > 8]
        return losses, weights(trainer.model)

    whole = run("whole", "trainer.save_total_limit=null")
    resumed = run("resumed", f"trainer.resume_from_checkpoint={tmp_path}/whole/checkpoint-8")
    assert len(whole[0]) > 8
    assert resumed[0] == whole[0]
    assert all(torch.equal(a, b) for a, b in zip(whole[1], resumed[1], strict=True))


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_nothing_non_finite_reaches_the_weights(dialogues: Path, tmp_path: Path, step: int, where: str) -> None:
    """A NaN in loss or gradient stops before the optimizer step, and the message names the step."""
    trainer = trainer_of(tiny_run(dialogues, "trainer.eval_strategy=no"), tmp_path)
    seen: list[list[torch.Tensor]] = []
    original = trainer.compute_loss

    def poisoned(model, inputs, return_outputs=False, num_items_in_batch=None):  # type: ignore[no-untyped-def]
        loss = original(model, inputs, return_outputs, num_items_in_batch)
        seen.append(weights(model))
        if len(seen) == step:
            if where == "loss":
                return loss * float("nan")
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    trainer.compute_loss = poisoned  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match=f"step {step}: the {where}"):
        trainer.train()
    assert all(torch.equal(a, b) for a, b in zip(weights(trainer.model), seen[-1], strict=True))


def test_a_non_finite_held_out_loss_is_an_error(dialogues: Path) -> None:
    """It is not averaged away."""
    conf = tiny_run(dialogues)
    datasets, model = datasets_of(conf), model_of(conf)
    with torch.no_grad():
        model.get_output_embeddings().weight[5] = float("nan")
    loader = torch.utils.data.DataLoader(datasets.eval.dataset, collate_fn=datasets.collate)  # type: ignore[union-attr]
    with pytest.raises(NonFiniteError, match="held-out loss is nan"):
        evaluate(model, loader)


def test_tokens_are_counted_without_padding(dialogues: Path, tmp_path: Path) -> None:
    """One epoch counts each training token once, padded or packed."""
    for batching in ("packed", "padded", "max_length"):
        conf = tiny_run(dialogues, f"data.batching={batching}", "trainer.max_steps=-1", "trainer.eval_strategy=no")
        trainer = trainer_of(conf, tmp_path / batching)
        trainer.train()
        assert int(trainer.num_tokens) == trainer.datasets.train.num_tokens
        rows = trainer.datasets.train.samples.rows.to_list()
        assert int(trainer.num_supervised_tokens) == sum(label != -100 for row in rows for label in row["labels"])
