"""Mixing, drawing and splitting."""

import pytest

from medllm.conversation import Conversation, Message
from medllm.data.splitting import draw, mix, split
from medllm.data.store import Conversations

CLUSTERS = [i % 20 for i in range(60)]


def test_a_cluster_never_stands_on_both_sides() -> None:
    """Whatever the seed; every conversation is on one side."""
    for seed in range(10):
        train, held_out = split(CLUSTERS, 0.2, seed)
        assert not {CLUSTERS[i] for i in train} & {CLUSTERS[i] for i in held_out}
        assert sorted([*train, *held_out]) == list(range(60))
        assert 6 <= len(held_out) <= 12


def test_split_is_the_same_for_the_same_seed_and_keeps_order() -> None:
    """Reproducible, another seed is another split, order of the input stays."""
    sides = [side.tolist() for side in split(range(50), 0.1, 65)]
    assert sides == [side.tolist() for side in split(range(50), 0.1, 65)]
    assert sides != [side.tolist() for side in split(range(50), 0.1, 66)]
    assert len(sides[1]) == 5
    assert [sorted(side) for side in sides] == sides


def test_nothing_held_out_for_a_fraction_of_zero() -> None:
    """All is for training."""
    train, held_out = split([0, 1], 0.0, 1)
    assert (train.tolist(), held_out.tolist()) == ([0, 1], [])


def test_draw_takes_the_number_asked_for() -> None:
    """At random by seed; all of them, in order, if asked for none or more than there are."""
    assert len(set(draw(30, 10, 65).tolist())) == 10
    assert draw(30, 10, 65).tolist() == draw(30, 10, 65).tolist()
    assert draw(30, None, 65).tolist() == draw(30, 99, 65).tolist() == list(range(30))


@pytest.mark.parametrize(
    ("weights", "drawn"),
    [
        ({"a": 1, "b": 1}, {"a": 10, "b": 10}),
        ({"a": 2, "b": 1}, {"a": 20, "b": 10}),
        ({"a": 1, "b": 0.1}, {"a": 90, "b": 9}),
    ],
)
def test_a_mix_has_its_proportions_and_repeats_nothing(weights: dict[str, float], drawn: dict[str, int]) -> None:
    """As large as the smaller source allows, the same for the same seed."""
    sources = ["a"] * 90 + ["b"] * 10
    places = mix(sources, weights, 65).tolist()
    assert {name: sum(sources[i] == name for i in places) for name in weights} == drawn
    assert len(set(places)) == len(places)
    assert places == mix(sources, weights, 65).tolist() != mix(sources, weights, 66).tolist()


def test_no_weights_take_everything() -> None:
    """In its order."""
    assert mix(["a", "b", "a"], {}, 65).tolist() == [0, 1, 2]


def made(*questions: str) -> Conversations:
    """One conversation per question."""
    pairs = [(Message("user", question), Message("assistant", "answer")) for question in questions]
    return Conversations.of([Conversation(pair, f"row {i}") for i, pair in enumerate(pairs)])


def test_fingerprint_sees_every_character_and_the_order() -> None:
    """Two runs with the same fingerprint saw the same data."""
    one = made("a", "b")
    assert one.fingerprint == made("a", "b").fingerprint
    assert one.fingerprint != one[::-1].fingerprint
    assert one.fingerprint != made("a", "b ").fingerprint


def test_a_lazy_sequence_is_a_sequence() -> None:
    """Places, slices and iteration give the conversations that went in."""
    whole = [f"question {i}" for i in range(2500)]
    lazy = made(*whole)
    assert [c.messages[0].content for c in lazy] == whole
    assert [c.messages[0].content for c in lazy[2400:10:-7]] == whole[2400:10:-7]
    assert (lazy[-1].id, lazy[7].messages[1]) == ("row 2499", Message("assistant", "answer"))
