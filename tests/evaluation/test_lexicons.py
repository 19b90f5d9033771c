"""Lexicons find what they say, and their examples can tell."""

import re

import pytest

from medllm.config.compose import load_conf
from medllm.config.evaluation import EvaluateConf
from medllm.config.evaluation.lexicon import LexiconConf
from medllm.evaluation.lexicons import Example, Lexicon, build_lexicons, load_examples, validate, validities
from tests.conf.groups import options

LEXICONS = build_lexicons(load_conf(EvaluateConf, ["artifact=x"]).lexicon)


@pytest.mark.parametrize("name", options("lexicon"))
def test_every_lexicon_has_examples(name: str) -> None:
    """At least 40, a fair part of each half positive and negative, none twice; and they are what it is worth on them."""
    examples = load_examples(name)
    assert len(examples) >= 40
    assert len({example.id for example in examples}) == len({example.text for example in examples}) == len(examples)
    for held_out in (False, True):
        labels = [example.label for example in examples if example.held_out == held_out]
        assert len(labels) >= 20
        assert min(sum(labels), len(labels) - sum(labels)) >= 5
    found = validate(LEXICONS[name], examples)
    assert found.precision.value >= 0.85
    assert found.recall.value >= 0.6  # of medical terms: there is no end of them


def test_the_default_uses_every_lexicon() -> None:
    """A new file below conf/lexicon is in use, not forgotten."""
    assert sorted(LEXICONS) == options("lexicon")
    assert list(validities(LEXICONS)) == list(LEXICONS)


def test_precision_and_recall_by_hand() -> None:
    """Two found, one of them rightly, of three that should be: 1/2 and 1/3."""
    lexicon = Lexicon("x", LexiconConf(version=3, finds="x", patterns=["cat"]))
    texts = [("cat", True), ("catalogue", False), ("kitten", True), ("feline", True), ("dog", False)]
    found = validate(lexicon, [Example(str(i), text, label, True) for i, (text, label) in enumerate(texts)])
    assert (found.precision.value, found.recall.value, found.n, found.version) == (1 / 2, 1 / 3, 5, 3)
    assert found.wrong == ("1", "2", "3")


def test_case_apostrophes_and_exceptions() -> None:
    """Case and the kind of apostrophe do not matter; what overlaps an exception does not count."""
    lexicon = Lexicon("x", LexiconConf(version=1, finds="x", patterns=[r"don't"], unless=[r"don't worry"]))
    assert lexicon.matches("DON\u2019T run. Don't worry.") == ["DON'T"]


@pytest.mark.timeout(30)  # by the square of the length: minutes
@pytest.mark.parametrize("name", sorted(LEXICONS))
def test_no_expression_hangs(name: str) -> None:
    """A long text without an end is read to its end: expressions look a bounded way ahead."""
    assert LEXICONS[name].matches("please see the " * 3000) is not None


def test_a_greeting_is_found_and_a_phone_number_but_no_blood_pressure() -> None:
    """Examples that once went wrong elsewhere."""
    found = LEXICONS["forum_artefact"].matches
    assert found("Hi, welcome to HCM.")
    assert found("Reach me at 555-0142.") == ["555-0142"]
    assert not found("A blood pressure of 120/80, 500 mg every 6-8 hours, born 1990-2000.")
    assert re.fullmatch(r"\S+@\S+", found("Write to a.b@example.org")[0])
