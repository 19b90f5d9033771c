"""Sums over sums, paired by item."""

import math

import numpy as np
import pytest

from medllm.evaluation.figures import measure
from medllm.evaluation.suite import Better, Metric, Side
from medllm.intervals import Interval
from tests.evaluation.made import COST, RATE, hits, measured, outcomes


def test_a_ratio_is_a_sum_over_a_sum() -> None:
    """(1 + 30) / (1 + 10), not the mean of 1 and 3; the difference is that of the figures beside it."""
    found = measured(COST, [(1, 1), (30, 10)], [(2, 1), (20, 10)])
    assert found.figures[Side.base].value == pytest.approx(31 / 11)
    assert found.differences[Side.tuned].value == pytest.approx(22 / 11 - 31 / 11)
    assert found.n == 2


def test_a_proportion() -> None:
    """30 of 40, then 36 of them and none lost: Wilson, Bonett and Price, and McNemar's exact p of 6 against 0."""
    found = measured(RATE, hits(30, 40), hits(36, 40))
    assert (found.figures[Side.base].value, found.differences[Side.tuned].value) == (0.75, pytest.approx(0.15))
    assert found.differences[Side.tuned].p == 2 / 2**6
    assert found.differences[Side.tuned].discordant == 6 / 40
    assert found.verdict(Side.tuned) == "better"


def test_pairing_is_by_item_and_not_by_place() -> None:
    """The order of items changes nothing; items that one side lacks are left out of both."""
    base, tuned = outcomes(COST, [(1, 1), (9, 1), (5, 1)]), outcomes(COST, [(2, 1), (8, 1), (5, 1)])
    (straight,) = measure([COST], {Side.base: base, Side.tuned: tuned})
    (turned,) = measure([COST], {Side.base: base, Side.tuned: dict(reversed(tuned.items()))})
    assert straight == turned
    del tuned["item 1"]
    (fewer,) = measure([COST], {Side.base: base, Side.tuned: tuned})
    assert (fewer.n, fewer.figures[Side.base].value) == (2, 3.0)


def test_noise_is_no_verdict_and_a_shift_is_one() -> None:
    """The same shift of every item is beyond noise however much items differ among each other; equal sides are not."""
    base = [(float(i * i % 17), 1.0) for i in range(30)]
    assert measured(COST, base, base).verdict(Side.tuned) == ""
    assert measured(COST, base, [(a + 0.5, b) for a, b in base]).verdict(Side.tuned) == "worse"
    swapped = Metric(COST.name, "", Better.higher)
    assert measured(swapped, base, [(a + 0.5, b) for a, b in base]).verdict(Side.tuned) == "better"
    neither = Metric(COST.name, "", Better.neither)
    assert measured(neither, base, [(a + 0.5, b) for a, b in base]).verdict(Side.tuned) == ""


def test_few_items_never_speak() -> None:
    """Nine that all got worse are not called so, ten are; the p of three is no smaller than chance allows."""
    base = [(float(i * i % 17), 1.0) for i in range(10)]
    tuned = [(a + 0.5, b) for a, b in base]
    assert measured(COST, base[:9], tuned[:9]).verdict(Side.tuned) == ""
    assert measured(COST, base, tuned).verdict(Side.tuned) == "worse"
    assert measured(COST, base[:3], tuned[:3]).differences[Side.tuned].p == 2 / 2**3


def test_chance_is_seldom_called_a_difference() -> None:
    """Two sides that are alike: of 24 items, in at most 7 % of 400 samples."""
    random = np.random.default_rng(5)
    called = 0
    for _ in range(400):
        base, tuned = random.normal(2.0, 0.5, (2, 24)).tolist()
        called += measured(COST, [(a, 1.0) for a in base], [(a, 1.0) for a in tuned]).verdict(Side.tuned) != ""
    assert called / 400 <= 0.07


def test_scores_may_be_clipped() -> None:
    """A mean below zero is shown as zero, its interval and difference with it."""
    score = Metric("made/score", "", Better.higher, clipped=True)
    found = measured(score, [(-0.5, 1), (-0.1, 1)], [(0.5, 1), (0.1, 1)])
    assert (found.figures[Side.base].value, found.figures[Side.base].interval) == (0.0, Interval(0.0, 0.0))
    assert found.differences[Side.tuned].value == pytest.approx(0.3)


def test_a_perplexity_is_shown_as_one() -> None:
    """E to the power of the ratio, its interval too."""
    loss = Metric("made/loss", "", Better.lower)
    perplexity = Metric("made/loss", "", Better.lower, exponential=True)
    pairs = ([(2.0, 1), (3.0, 1), (2.5, 1)], [(1.0, 1), (2.0, 1), (1.5, 1)])
    plain, shown = measured(loss, *pairs), measured(perplexity, *pairs)
    assert shown.figures[Side.base].value == pytest.approx(math.exp(2.5))
    assert shown.figures[Side.base].interval.low == pytest.approx(math.exp(plain.figures[Side.base].interval.low))
    assert shown.differences[Side.tuned].value == pytest.approx(math.exp(1.5) - math.exp(2.5))


def test_a_metric_that_no_item_speaks_of_is_left_out() -> None:
    """Nothing is shown of it, and nothing is divided by zero."""
    sides = {side: outcomes(COST, [(0, 0), (0, 0)]) for side in (Side.base, Side.tuned)}
    assert measure([RATE, COST], sides) == []
