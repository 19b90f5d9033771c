"""What is counted in an answer, by hand."""

import pytest

from medllm.evaluation.texts import chrf, distinct, reading_grade, repeated, rouge_l, sentences, syllables, words


def test_words_and_sentences() -> None:
    """A point inside a number ends no sentence; a line's end does."""
    assert words("Don't take 2.5 mg (half-dose)!") == ["don't", "take", "2", "5", "mg", "half-dose"]
    assert sentences("Take 2.5 mg. Rest!\nWhy?\n\n...") == ["Take 2.5 mg.", "Rest!", "Why?"]


def test_syllables() -> None:
    """As they are spoken."""
    of = {"headache": 2, "the": 1, "doctor": 2, "table": 2, "pain": 1, "emergency": 4, "hmm": 1, "able": 2}
    assert {word: syllables(word) for word in of} == of


def test_reading_grade() -> None:
    """Six words in two sentences, seven syllables: 0.39 * 3 + 11.8 * 7 / 6 - 15.59."""
    assert reading_grade("Rest and drink. Call your doctor.") == pytest.approx(0.39 * 3 + 11.8 * 7 / 6 - 15.59)
    assert reading_grade("...") is None


def test_repetition() -> None:
    """`a b c d a b c d`: five 4-grams, the last of which is the first; two of eight words' seven pairs come back thrice."""
    assert repeated("a b c d a b c d") == (1, 5)
    assert repeated("one two three") == (0, 0)
    assert distinct("a b a b a") == (2, 4)


def test_rouge_l() -> None:
    """Longest common subsequence 3 of 4 and 5 words: precision 3/4, recall 3/5, F 2/3; stems count as equal."""
    assert rouge_l("rest drink walk water", "rest and drink more water") == pytest.approx(2 / 3)
    assert rouge_l("resting", "rests") == 1.0
    assert rouge_l("", "rest") == 0.0


def test_chrf() -> None:
    """One for equals, zero for nothing in common."""
    assert chrf("rest and drink", "rest and drink") == pytest.approx(1.0)
    assert chrf("xyz", "rest and drink") == 0.0
    assert 0 < chrf("resting and drinks", "rest and drink") < 1
