"""The proof of the labels holds on good data and breaks on every known way to get them wrong."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medllm.conversation import Renderer
from medllm.errors import LabelError
from medllm.models.base import build_base_model, build_tokenizer
from medllm.training import label_proof
from medllm.training.label_proof import LabelProof, prove_labels
from tests.training.runs import datasets_of, tiny_run


def prove(dialogues: Path, *overrides: str, damage: Any = None, **changed: Any) -> LabelProof:
    """Proves a tiny run whose samples were damaged first."""
    conf = tiny_run(dialogues, *overrides)
    datasets = datasets_of(conf)
    tokenizer = build_tokenizer(conf.model)
    if damage:
        rows = datasets.train.samples.rows.map(lambda row: damage(dict(row)), load_from_cache_file=False)
        side = replace(datasets.train, samples=replace(datasets.train.samples, rows=rows), dataset=rows)
        datasets = replace(datasets, train=side)
    base = build_base_model(conf.model, conf.quantization, tokenizer)
    return prove_labels(datasets, Renderer(tokenizer.tokenizer, changed.get("system", conf.data.system_prompt)), base)


@pytest.mark.parametrize("batching", ["packed", "length_grouped", "padded", "max_length"])
def test_holds_on_good_data(dialogues: Path, batching: str) -> None:
    """All answers and their ends, nothing else, and the same loss alone as together."""
    proof = prove(dialogues, f"data.batching={batching}")
    assert proof.supervised_share["assistant"] == 1
    assert proof.supervised_share["user"] == 0
    assert (proof.end_of_turn_supervised, proof.renderings_equal, proof.samples_without_labels) == (1, 1, 0)
    assert proof.together_loss == pytest.approx(proof.alone_loss, rel=1e-4)
    assert proof.leak == (0 if batching == "packed" else None)


@pytest.mark.parametrize("quantization", ["nf4", "nf4_double", "int8"])
def test_holds_on_a_quantized_base(dialogues: Path, quantization: str) -> None:
    """Neither rounding in low precision is taken for a leak nor the outliers that 8 bit picks from all rows together."""
    proof = prove(dialogues, f"quantization={quantization}")
    assert proof.leak == 0 if quantization == "int8" else proof.leak < label_proof.LEAK_TOLERANCE  # type: ignore[operator]


def test_holds_on_truncated_data(dialogues: Path) -> None:
    """A cut answer still ends."""
    assert prove(dialogues, "data.over_length=truncate", "data.max_length=64").end_of_turn_supervised == 1


def test_breaks_where_nothing_can_be_read_back(dialogues: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proof on no sample is none."""
    monkeypatch.setattr(Renderer, "token_roles", lambda self, ids, conversation: None)
    with pytest.raises(LabelError, match="cannot be proven"):
        prove(dialogues)


def test_breaks_where_a_batch_supervises_padding(dialogues: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the collator makes is looked at, not only what it is given."""
    from medllm.data.collate import PadCollator

    original = PadCollator.__call__

    def supervised_padding(self: PadCollator, samples: Any) -> Any:
        batch = original(self, samples)
        return batch | {"labels": batch["labels"].masked_fill(batch["attention_mask"] == 0, self.pad_token_id)}

    monkeypatch.setattr(PadCollator, "__call__", supervised_padding)
    with pytest.raises(LabelError, match="does not supervise the tokens that its samples supervise"):
        prove(dialogues, "data.batching=max_length")


def all_masked(row: dict) -> dict:
    """Nothing is supervised."""
    return row | {"labels": [-100] * len(row["labels"])}


def end_masked(row: dict) -> dict:
    """The end of turn is not supervised: the model never learns to stop."""
    labels = list(row["labels"])
    last = max(i for i, label in enumerate(labels) if label != -100)
    labels[last] = -100
    return row | {"labels": labels}


def prompt_supervised(row: dict) -> dict:
    """The patient's words are supervised too."""
    return row | {"labels": list(row["input_ids"])}


def answer_half_masked(row: dict) -> dict:
    """Part of the answer is not supervised."""
    labels = list(row["labels"])
    first = min(i for i, label in enumerate(labels) if label != -100)
    labels[first : first + 3] = [-100] * 3
    return row | {"labels": labels}


def doubled_beginning(row: dict) -> dict:
    """A second beginning-of-sequence token in front."""
    ids = [row["input_ids"][0], *row["input_ids"]]
    return row | {"input_ids": ids, "labels": [-100, *row["labels"]], "length": len(ids)}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (all_masked, "have no supervised token"),
        (end_masked, "without a supervised end of turn"),
        (prompt_supervised, "supervised share by role"),
        (answer_half_masked, "supervised share by role"),
        (doubled_beginning, "beginning-of-sequence token twice"),
    ],
)
def test_breaks_on_damaged_labels(dialogues: Path, damage: Any, message: str) -> None:
    """Each fault stops the run with its name."""
    with pytest.raises(LabelError, match=message):
        prove(dialogues, "data.batching=padded", damage=damage)


def test_breaks_on_another_system_prompt_in_use(dialogues: Path) -> None:
    """Samples rendered with one prompt are not proven for another."""
    with pytest.raises(LabelError, match="differ between training and the chat template"):
        prove(dialogues, system="Another prompt")


def test_breaks_where_packed_conversations_see_each_other(dialogues: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the restart of position ids, conversations mix: the loss or the leak tells."""
    from medllm.data.collate import PackCollator

    original = PackCollator.__call__

    def without_restart(self: PackCollator, rows: Any) -> Any:
        batch = original(self, rows)
        if len(rows[0]) > 1:
            del batch["position_ids"]
        return batch

    monkeypatch.setattr(PackCollator, "__call__", without_restart)
    monkeypatch.setitem(label_proof.LOSS_TOLERANCE, __import__("torch").float32, 1.0)
    with pytest.raises(LabelError, match="changes the next one's logits"):
        prove(dialogues)
