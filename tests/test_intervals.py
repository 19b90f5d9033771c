"""Intervals against worked values and against what they promise: to hold the truth 95 times of 100."""

import numpy as np
import pytest

from medllm.intervals import (
    Interval,
    expanded,
    mcnemar,
    paired_proportions,
    percentiles,
    resampled_p,
    resampled_ratios,
    wilson,
)


def test_wilson_by_hand() -> None:
    """Values of Newcombe (Stat Med 1998;17:857), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for (hits, count), (low, high) in {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }.items():
        found = wilson(hits, count)
        assert (round(found.low, 4), round(found.high, 4)) == (low, high)


def test_mcnemar_by_hand() -> None:
    """1 against 6: twice the chance of at most one head in seven tosses, 2 * (1 + 7) / 128."""
    assert mcnemar(1, 6) == mcnemar(6, 1) == 0.125
    assert mcnemar(0, 0) == mcnemar(3, 3) == 1.0
    assert mcnemar(0, 2000) == pytest.approx(0)


def test_paired_proportions_by_hand() -> None:
    """Of 98 items 11 gained and 3 lost: (12 - 4) / 100, and 1.96 sqrt((0.16 - 0.0064) / 100)."""
    found = paired_proportions(11, 3, 98)
    assert found.low == pytest.approx(0.08 - 1.959964 * (0.1536 / 100) ** 0.5)
    assert found.high == pytest.approx(0.08 + 1.959964 * (0.1536 / 100) ** 0.5)
    assert paired_proportions(0, 0, 20).high > 0.1, "no item differs among few: that says little"


def test_a_resample_is_the_same_for_all_columns() -> None:
    """Equal columns differ in no resample; a ratio of sums is not a mean of ratios."""
    both = np.array([[1.0, 1.0], [30.0, 30.0]]), np.array([[1.0, 1.0], [10.0, 10.0]])
    found = resampled_ratios(*both, resamples=200)
    assert (found[:, 0] == found[:, 1]).all()
    assert set(np.round(found[:, 0], 6)) == {1.0, 3.0, round(31 / 11, 6)}


def test_nothing_to_divide_by_in_a_resample_is_left_out() -> None:
    """Items that a metric says nothing of do not make the interval NaN."""
    found = percentiles(resampled_ratios(np.array([[1.0], [0.0]]), np.array([[2.0], [0.0]]), 500))
    assert found == Interval(0.5, 0.5)


def test_p_of_resamples() -> None:
    """All on one side: as small as resamples and items allow, never 0; spread around zero: 1."""
    assert resampled_p(np.full(999, 0.3), 60) == 2 / 1000
    assert resampled_p(np.full(999, 0.3), 3) == 2 / 2**3
    assert resampled_p(np.array([-1.0, 1.0, -1.0, 1.0]), 60) == 1.0


def test_the_bootstrap_covers() -> None:
    """The 95 % interval of a paired difference of ratios holds the true one in 90 to 99 % of 300 samples of 60 items."""
    random = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        size = random.integers(5, 40, 60).astype(float)
        base = size * (2.0 + random.normal(0, 0.5, 60))
        tuned = base - size * (0.3 + random.normal(0, 0.4, 60))
        by = resampled_ratios(np.stack([base, tuned], 1), np.stack([size, size], 1), 600)
        held += -0.3 in percentiles(by[:, 1] - by[:, 0])
    assert 0.90 <= held / 300 <= 0.99


def test_expanded_percentiles_cover_few_items_too() -> None:
    """Of 10 and of 24 items they hold the truth in 93 to 98 % of 400 samples; plain ones of 10 items in fewer than 93 %."""
    random = np.random.default_rng(4)
    assert expanded(1) == 1.0
    assert expanded(10**6) == pytest.approx(0.95, abs=1e-5)
    for count in (10, 24):
        held = plain = 0
        for _ in range(400):
            base, tuned = random.normal(2.0, 0.5, count), random.normal(2.3, 0.5, count)
            by = resampled_ratios(np.stack([base, tuned], 1), np.ones((count, 2)), 2000)
            difference = by[:, 1] - by[:, 0]
            held += 0.3 in percentiles(difference, expanded(count))
            plain += 0.3 in percentiles(difference)
        assert 0.93 <= held / 400 <= 0.98
        assert plain < held and (count > 10 or plain / 400 < 0.93)


def test_intervals_of_proportions_cover() -> None:
    """Wilson's and Bonett and Price's hold the truth in at least 92 % of 2,000 samples of 40 items, also of rare events."""
    random = np.random.default_rng(2)
    for rate, gain, loss in ((0.05, 0.10, 0.02), (0.5, 0.2, 0.2)):
        single = paired = 0
        for _ in range(2000):
            single += rate in wilson(int(random.binomial(40, rate)), 40)
            gained, lost, _ = random.multinomial(40, [gain, loss, 1 - gain - loss])
            paired += gain - loss in paired_proportions(int(gained), int(lost), 40)
        assert single / 2000 > 0.92
        assert paired / 2000 > 0.92
