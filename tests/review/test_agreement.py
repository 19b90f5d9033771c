"""Coefficients of agreement against published and hand-worked examples."""

import math

import numpy as np
import pytest

from medllm.config.review import Scale
from medllm.review.agreement import agreement, cohens_kappa, krippendorffs_alpha, value_counts

# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), example C: four observers, twelve units, gaps.
FOUR = {
    "A": "1 2 3 3 2 1 4 1 2 . . .",
    "B": "1 2 3 3 2 2 4 1 2 5 . 3",
    "C": ". 3 3 3 2 3 4 2 2 5 1 .",
    "D": "1 2 3 3 2 4 4 1 2 5 1 .",
}
# The same paper, example A: two observers, two categories, ten units; alpha 0.095.
TWO = {"A": "0 1 0 0 0 0 0 0 1 0", "B": "1 1 1 0 0 1 0 0 0 0"}


def said(rows: dict[str, str]) -> dict[str, dict[object, str]]:
    """Rows of ratings by rater and unit; a dot is a gap."""
    return {rater: {i: v for i, v in enumerate(row.split()) if v != "."} for rater, row in rows.items()}


@pytest.mark.parametrize(("scale", "alpha"), [(Scale.nominal, 0.743), (Scale.ordinal, 0.815)])
def test_alpha_of_the_published_example(scale: Scale, alpha: float) -> None:
    """The paper's figures; the twelfth unit, rated once, is left out."""
    found = agreement(said(FOUR), list("12345"), scale)  # type: ignore[arg-type]
    assert found.alpha == pytest.approx(alpha, abs=5e-4)
    assert found.num_units == 11
    assert found.interval is not None and found.alpha in found.interval


def test_alpha_of_two_observers() -> None:
    """The paper's first example, and kappa of the same by hand: 6 of 10 agree, chance .8 * .6 + .2 * .4 = .56."""
    found = agreement(said(TWO), ["0", "1"], Scale.nominal)  # type: ignore[arg-type]
    assert found.alpha == pytest.approx(0.095, abs=5e-4)
    assert found.kappa == pytest.approx((0.6 - 0.56) / (1 - 0.56))
    assert found.share == pytest.approx(0.6)


def test_alpha_agrees_with_the_package() -> None:
    """Random ratings with gaps, where the package is installed."""
    package = pytest.importorskip("krippendorff")
    random = np.random.default_rng(0)
    counts = random.integers(0, 3, size=(1, 30, 4)).astype(float)
    counts = counts[:, counts[0].sum(1) >= 2]
    for scale in (Scale.nominal, Scale.ordinal):
        expected = package.alpha(value_counts=counts[0], level_of_measurement=scale.value)
        assert krippendorffs_alpha(counts, scale)[0] == pytest.approx(expected)


def test_kappa_of_the_published_example() -> None:
    """Cohen 1960, table 1: proportions .44 .07 .09 / .05 .20 .05 / .01 .03 .06 of 200, kappa .492."""
    table = [[88, 14, 18], [10, 40, 10], [2, 6, 12]]
    first, second, unit = {}, {}, 0
    for i, row in enumerate(table):
        for j, count in enumerate(row):
            for _ in range(count):
                first[unit], second[unit] = str(i), str(j)
                unit += 1
    assert cohens_kappa(first, second) == pytest.approx(0.492, abs=5e-4)  # type: ignore[arg-type]


def test_what_is_not_defined_is_none() -> None:
    """One value only, or nothing rated twice: agreement beyond chance means nothing there."""
    same = agreement(said({"A": "1 1 1", "B": "1 1 1"}), ["1", "2"], Scale.nominal)  # type: ignore[arg-type]
    assert (same.alpha, same.kappa, same.share) == (None, None, 1.0)
    alone = agreement(said({"A": "1 2 .", "B": ". . 1"}), ["1", "2"], Scale.ordinal)  # type: ignore[arg-type]
    assert (alone.alpha, alone.kappa, alone.num_units) == (None, None, 0)


def test_perfect_and_reversed() -> None:
    """1 where all agree; of two who always differ, alpha is 1 - (n - 1) * 8 / 32 = -0.75 with n = 8 ratings."""
    counts = value_counts(said({"A": "1 2 1 2", "B": "1 2 1 2"}), ["1", "2"])  # type: ignore[arg-type]
    assert krippendorffs_alpha(counts[None], Scale.nominal)[0] == 1
    counts = value_counts(said({"A": "1 2 1 2", "B": "2 1 2 1"}), ["1", "2"])  # type: ignore[arg-type]
    assert krippendorffs_alpha(counts[None], Scale.nominal)[0] == pytest.approx(-0.75)
    assert math.isnan(krippendorffs_alpha(np.array([[[2.0, 0.0]]]), Scale.nominal)[0])
