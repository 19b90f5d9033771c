"""How far raters agree beyond chance.

Cohen's kappa for two raters who rated the same units (Educ Psychol Meas 1960;20:37). Krippendorff's alpha for any number of
raters and for gaps (Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011), nominal and ordinal, with a percentile
interval over resampled units. 1 is perfect agreement, 0 what chance gives.

Shapes: U units, K categories, R resamples.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medllm.config.review import Scale
from medllm.intervals import RESAMPLING_SEED, Interval, percentiles

RESAMPLES = 2000

# What each rater said of each unit.
Said = Mapping[str, Mapping[Hashable, str]]


@dataclass(frozen=True)
class Agreement:
    """On one question.

    Attributes:
        scale: Nominal or ordinal: the kind of alpha.
        num_units: Rated by two raters or more.
        alpha: Krippendorff's; None where it is not defined: no unit was rated twice, or all ratings are the same.
        interval: 95 %, of alpha; None where too few resamples define one.
        kappa: Cohen's, unweighted; None unless exactly two raters share units, or where it is not defined.
        share: Of pairs of ratings of one unit, how many are equal.
    """

    scale: Scale
    num_units: int
    alpha: float | None
    interval: Interval | None
    kappa: float | None
    share: float | None


def agreement(said: Said, options: Sequence[str], scale: Scale) -> Agreement:
    """Agreement of all raters on one question.

    Args:
        said: By rater and unit.
        options: In their order.
        scale: Nominal or ordinal.
    """
    counts = value_counts(said, options)
    paired = counts[counts.sum(1) >= 2]
    raters = [r for r in said if said[r]]
    kappa = cohens_kappa(*(said[r] for r in raters)) if len(raters) == 2 else None
    if not len(paired):
        return Agreement(scale, 0, None, None, kappa, None)
    alpha = krippendorffs_alpha(paired[None], scale)[0]
    random = np.random.default_rng(RESAMPLING_SEED)
    drawn = random.integers(len(paired), size=(RESAMPLES, len(paired)))
    resampled = krippendorffs_alpha(paired[drawn], scale)
    known = resampled[np.isfinite(resampled)]
    interval = percentiles(known) if np.isfinite(alpha) and len(known) >= RESAMPLES / 2 and len(paired) > 1 else None
    same, pairs = (paired * (paired - 1)).sum(), (paired.sum(1) * (paired.sum(1) - 1)).sum()
    return Agreement(
        scale, len(paired), float(alpha) if np.isfinite(alpha) else None, interval, kappa, float(same / pairs)
    )


def value_counts(said: Said, options: Sequence[str]) -> NDArray[np.float64]:
    """How many raters gave each unit each option, (U, K)."""
    units = sorted({unit for values in said.values() for unit in values}, key=repr)
    row, at = {unit: i for i, unit in enumerate(units)}, {option: i for i, option in enumerate(options)}
    counts = np.zeros((len(units), len(options)))
    for values in said.values():
        for unit, value in values.items():
            counts[row[unit], at[value]] += 1
    return counts


def krippendorffs_alpha(counts: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
    """1 - observed / expected disagreement of each set of units, (R,); NaN where no disagreement is to be expected.

    Args:
        counts: Raters by unit and category, (R, U, K), each unit with two or more.
        scale: Nominal: two categories differ or not. Ordinal: by how many ratings lie between them.
    """
    ratings = counts.sum(-1)
    weights = 1 / (ratings - 1)
    # Coincidences of categories within units, (R, K, K).
    coincidences = np.einsum("ruk,rul,ru->rkl", counts, counts, weights)
    diagonal = np.arange(counts.shape[-1])
    coincidences[:, diagonal, diagonal] -= np.einsum("ruk,ru->rk", counts, weights)
    totals = coincidences.sum(-1)
    distances = _distances(totals, scale)
    observed = (coincidences * distances).sum((1, 2))
    expected = (totals[:, :, None] * totals[:, None, :] * distances).sum((1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        alpha: NDArray[np.float64] = 1 - (totals.sum(1) - 1) * observed / expected
    alpha[expected == 0] = np.nan
    return alpha


def _distances(totals: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
    """Squared distance of each two categories, (R, K, K)."""
    if scale is Scale.nominal:
        return np.broadcast_to(1.0 - np.eye(totals.shape[1]), (len(totals), totals.shape[1], totals.shape[1]))
    # Ratings from category c to k, the two ends counted by half: differences of mid-ranks.
    middle = np.cumsum(totals, 1) - totals / 2
    squared: NDArray[np.float64] = (middle[:, :, None] - middle[:, None, :]) ** 2
    return squared


def cohens_kappa(first: Mapping[Hashable, str], second: Mapping[Hashable, str]) -> float | None:
    """Of the units that both rated; None where they rated none, or chance alone would make them agree always."""
    shared = [unit for unit in first if unit in second]
    if not shared:
        return None
    count = len(shared)
    observed = sum(first[unit] == second[unit] for unit in shared) / count
    of_first, of_second = Counter(first[unit] for unit in shared), Counter(second[unit] for unit in shared)
    chance = sum(of_first[value] * of_second[value] for value in of_first) / count**2
    return None if chance == 1 else (observed - chance) / (1 - chance)
