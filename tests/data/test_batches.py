"""Tokenizing, packing and collating."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medllm.config.data import DataConf, OverLength
from medllm.conversation import Conversation, Message, Rendered, Renderer, Turn
from medllm.data.collate import PackCollator, PadCollator
from medllm.data.packing import best_fit
from medllm.data.store import Conversations
from medllm.data.tokenize import fit, tokenize
from medllm.errors import DataError
from medllm.models.tiny import build_tiny_tokenizer

SAMPLES = [
    {"input_ids": [1, 2, 3], "labels": [-100, 2, 3]},
    {"input_ids": [4, 5], "labels": [-100, 5]},
    {"input_ids": [6, 7, 8, 9], "labels": [6, -100, 8, 9]},
]


def test_packed_batch_is_exact() -> None:
    """Samples end to end, positions restart, no mask, and no sample's first token is predicted from its neighbour.

    A shorter row ends in a segment of its own, which counts for nothing.
    """
    batch = PackCollator()([[SAMPLES[0], SAMPLES[2]], [SAMPLES[1]]])
    assert batch.keys() == {"input_ids", "position_ids", "labels", "num_tokens"}
    assert batch["input_ids"].tolist() == [[1, 2, 3, 6, 7, 8, 9], [4, 5, 0, 0, 0, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2, 3], [0, 1, 0, 1, 2, 3, 4]]
    assert batch["labels"].tolist() == [[-100, 2, 3, -100, -100, 8, 9], [-100, 5, -100, -100, -100, -100, -100]]
    assert batch["num_tokens"].tolist() == [9]


def test_padded_batch_is_exact() -> None:
    """Padding is masked and never supervised, even where its token is also the end of a turn."""
    batch = PadCollator(pad_token_id=9)(SAMPLES)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 9], [4, 5, 9, 9], [6, 7, 8, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, 2, 3, -100], [-100, 5, -100, -100], [6, -100, 8, 9]]
    assert batch["num_tokens"].tolist() == [9]
    assert PadCollator(0, length=6)(SAMPLES[:1])["input_ids"].shape == (1, 6)
    assert batch["input_ids"].dtype == torch.int64


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 64), min_size=1, max_size=80), st.integers(0, 99))
def test_packing_splits_nothing_and_wastes_little(lengths: list[int], seed: int) -> None:
    """Each sample once, no row too long, and at most 11/9 of the optimum's lower bound plus one row."""
    rows = best_fit(lengths, 64, seed)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 64 for row in rows)
    half = sum(length > 32 for length in lengths)
    assert len(rows) <= 11 / 9 * max(-(-sum(lengths) // 64), half) * 1.5 + 1
    assert rows == best_fit(lengths, 64, seed)


def test_packing_fills_exactly_where_it_can() -> None:
    """7 + 3 and 6 + 4, not 7 + 4 and 6 + 3 and a rest."""
    rows = best_fit([7, 6, 4, 3], 10, seed=0)
    assert sorted(sorted(row) for row in rows) == [[0, 3], [1, 2]]


def rendered() -> Rendered:
    """Two turns: prompt 0-3, answer 3-6, prompt 6-8, answer 8-12, trailing newline."""
    return Rendered(list(range(100, 113)), [Turn(3, 6), Turn(8, 12)])


@pytest.mark.parametrize(
    ("max_length", "ids", "turns"),
    [
        (13, list(range(100, 113)), [Turn(3, 6), Turn(8, 12)]),
        (12, [*range(100, 111), 7], [Turn(3, 6), Turn(8, 12)]),
        (10, [*range(100, 109), 7], [Turn(3, 6), Turn(8, 10)]),
        (9, [*range(100, 105), 7], [Turn(3, 6)]),
        (5, [*range(100, 104), 7], [Turn(3, 5)]),
    ],
)
def test_truncation_keeps_the_end_of_turn(max_length: int, ids: list[int], turns: list[Turn]) -> None:
    """Later turns go first; the last answer kept still ends."""
    cut = fit(rendered(), max_length, end_of_turn_id=7)
    assert cut is not None
    assert (cut.input_ids, cut.turns) == (ids, turns)
    assert len(cut.input_ids) <= max_length


def test_a_prompt_that_fills_the_row_leaves_nothing() -> None:
    """Not even one token of an answer fits."""
    assert fit(rendered(), 4, end_of_turn_id=7) is None


def conversations(*lengths: int) -> Conversations:
    """Questions of so many words."""
    return Conversations.of(
        [
            Conversation((Message("user", "pain " * n), Message("assistant", "Rest and drink water.")), f"row {i}")
            for i, n in enumerate(lengths)
        ]
    )


@pytest.mark.parametrize(
    ("policy", "counts"),
    [
        (OverLength.drop, {"kept": 1, "truncated": 0, "dropped": 2}),
        (OverLength.truncate, {"kept": 2, "truncated": 1, "dropped": 1}),
    ],
)
def test_over_length_policy_is_counted(policy: OverLength, counts: dict[str, int]) -> None:
    """What was dropped and what was cut stands in the counts; what is kept fits."""
    renderer = Renderer(build_tiny_tokenizer())
    fits, slightly_long, far_too_long = 5, 17, 60
    conf = DataConf(max_length=36, over_length=policy)
    lengths = [len(renderer.render(c).input_ids) for c in conversations(fits, slightly_long, far_too_long)]
    assert lengths[0] < 36 < lengths[1] < lengths[2]
    samples = tokenize(conversations(fits, slightly_long, far_too_long), renderer, conf)
    assert samples.counts == counts
    assert max(samples.rows["length"]) <= 36
    for row in samples.rows.to_list():
        supervised = [label for label in row["labels"] if label != -100]
        assert supervised[-1] == renderer.end_of_turn_id


def test_over_length_error_names_the_conversation() -> None:
    """Under `error`, the first one that is too long stops the run."""
    renderer = Renderer(build_tiny_tokenizer())
    with pytest.raises(DataError, match=r"row 1 has \d+ tokens, data.max_length=36"):
        tokenize(conversations(5, 60), renderer, DataConf(max_length=36, over_length=OverLength.error))


def test_nothing_left_is_an_error() -> None:
    """Dropping everything is not a training set."""
    with pytest.raises(DataError, match="all 1 conversations are longer"):
        tokenize(conversations(60), Renderer(build_tiny_tokenizer()), DataConf(max_length=36))


def test_samples_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second request reads the cache; another length or prompt is another request."""
    renderer = Renderer(build_tiny_tokenizer())
    given = conversations(7, 8, 9)
    first = tokenize(given, renderer, DataConf(max_length=99))
    calls = []
    original = Renderer.render
    monkeypatch.setattr(Renderer, "render", lambda self, c: calls.append(c) or original(self, c))
    again = tokenize(given, renderer, DataConf(max_length=99))
    assert calls == []
    assert again.rows.to_list() == first.rows.to_list()
    tokenize(given, renderer, DataConf(max_length=98))
    tokenize(given, Renderer(renderer.tokenizer, "Be kind"), DataConf(max_length=99))
    assert len(calls) == 6
