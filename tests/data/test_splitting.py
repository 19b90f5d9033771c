"""Drawing and splitting."""

from medllm.conversation import Conversation, Message
from medllm.data.splitting import draw, fingerprint, question_key, split


def made(*questions: str) -> list[Conversation]:
    """One conversation per question, answers all different."""
    return [
        Conversation((Message("user", q), Message("assistant", f"answer {i}")), f"row {i}")
        for i, q in enumerate(questions)
    ]


def test_copies_of_a_question_never_stand_on_both_sides() -> None:
    """Also copies that differ in case and punctuation, whatever the seed."""
    conversations = made(*[f"Question {i % 20}{'!' * (i // 20)}" for i in range(60)])
    for seed in range(10):
        train, held_out = split(conversations, 0.2, seed)
        assert not {question_key(c) for c in train} & {question_key(c) for c in held_out}
        assert len(train) + len(held_out) == 60
        assert 6 <= len(held_out) <= 12


def test_split_is_the_same_for_the_same_seed_and_keeps_order() -> None:
    """Reproducible, another seed is another split, order of the input stays."""
    conversations = made(*[f"Question {i}" for i in range(50)])
    assert split(conversations, 0.1, 65) == split(conversations, 0.1, 65)
    assert split(conversations, 0.1, 65) != split(conversations, 0.1, 66)
    train, held_out = split(conversations, 0.1, 65)
    assert len(held_out) == 5
    assert [c.id for c in train] == sorted((c.id for c in train), key=lambda name: int(name.split()[1]))


def test_nothing_held_out_for_a_fraction_of_zero() -> None:
    """All is for training."""
    conversations = made("a", "b")
    assert split(conversations, 0.0, 1) == (conversations, [])


def test_draw_takes_the_number_asked_for() -> None:
    """At random by seed; all of them, in order, if asked for none or more than there are."""
    conversations = made(*[f"Question {i}" for i in range(30)])
    assert len(draw(conversations, 10, 65)) == 10
    assert draw(conversations, 10, 65) == draw(conversations, 10, 65)
    assert draw(conversations, None, 65) == draw(conversations, 99, 65) == conversations


def test_fingerprint_sees_every_character_and_the_order() -> None:
    """Two runs with the same fingerprint saw the same data."""
    one = made("a", "b")
    assert fingerprint(one) == fingerprint(made("a", "b"))
    assert fingerprint(one) != fingerprint(one[::-1])
    assert fingerprint(one) != fingerprint(made("a", "b "))
