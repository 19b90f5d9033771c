"""Intervals by resampling and in closed form: what comparisons of runs and evaluations of models share.

Shapes: N items, C columns (candidates or sides), R resamples.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
RESAMPLES = 10_000
RESAMPLING_SEED = 65
CHUNK_NUMBERS = 4_000_000  # of a chunk of resamples: 32 MB
FEW = 10  # items below which a difference is not said to be beyond noise: with 3, resamples are wrong a quarter of the time
Z = 1.959963984540054  # 97.5 % quantile of the normal distribution, for 95 % intervals


@dataclass(frozen=True)
class Interval:
    """From `low` to `high`."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def resampled_ratios(
    numerators: NDArray[np.float64], denominators: NDArray[np.float64], resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """Ratios of sums over items drawn with replacement, (R, C). A resample is the same one for all columns.

    Args:
        numerators: (N, C).
        denominators: (N, C), none negative.
        resamples: How many.
    """
    count, columns = numerators.shape
    random = np.random.default_rng(RESAMPLING_SEED)
    both = np.hstack([numerators, denominators])
    rows = []
    chunk = max(1, CHUNK_NUMBERS // count)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = random.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        sums = times @ both
        with np.errstate(divide="ignore", invalid="ignore"):  # a resample may hold nothing to divide by
            rows.append(sums[:, :columns] / sums[:, columns:])
    return np.concatenate(rows)


def percentiles(values: NDArray[np.float64], confidence: float = CONFIDENCE) -> Interval:
    """The middle of resampled values; those that are no number are left out."""
    low, high = np.nanquantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def expanded(count: int, confidence: float = CONFIDENCE) -> float:
    """The confidence to take percentiles at where only `count` items were resampled, whose spread comes out too small.

    Hesterberg's expanded percentile interval (Am Stat 2015;69:371): Student's quantile times sqrt(n / (n - 1)) in place of the
    normal one.
    """
    if count < 2:
        return 1.0
    quantile = student_quantile(count - 1, confidence) * math.sqrt(count / (count - 1))
    return 1 - 2 * NormalDist().cdf(-quantile)


def student_quantile(degrees: float, confidence: float = CONFIDENCE) -> float:
    """Half the width, in standard errors, of a two-sided interval by Student's t with so many degrees of freedom."""
    from scipy.special import stdtrit  # takes a while, and few commands come here

    return float(stdtrit(degrees, (1 + confidence) / 2))


def wilson(successes: float, count: float) -> Interval:
    """95 % score interval of a proportion (Wilson, J Am Stat Assoc 1927;22:209)."""
    share, square = successes / count, Z * Z
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = Z * math.sqrt(share * (1 - share) / count + square / (4 * count * count)) / (1 + square / count)
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    return Interval(low, 1.0 if successes == count else min(1.0, middle + half))


def paired_proportions(gained: int, lost: int, count: int) -> Interval:
    """95 % interval of the difference of two proportions of the same items.

    The adjusted Wald interval of Bonett and Price (J Educ Behav Stat 2012;37:479): unlike the bootstrap's it has a width also
    where no item differs.

    Args:
        gained: Items counted on the second side only.
        lost: Items counted on the first side only.
        count: All items.
    """
    up, down = (gained + 1) / (count + 2), (lost + 1) / (count + 2)
    half = Z * math.sqrt((up + down - (up - down) ** 2) / (count + 2))
    return Interval(max(-1.0, up - down - half), min(1.0, up - down + half))


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p of McNemar's test: how likely items that differ fall to one side so unevenly by chance."""
    differing = gained + lost
    tail = sum(math.comb(differing, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**differing)


def resampled_p(differences: NDArray[np.float64], count: int) -> float:
    """Two-sided p of resampled differences: how often they fall on the other side of zero.

    Never below `2 / 2^count`, which is how often all items differ in one direction by chance.

    Args:
        differences: (R).
        count: Items that were resampled.
    """
    known = differences[np.isfinite(differences)]
    below, above = int((known <= 0).sum()), int((known >= 0).sum())
    return min(1.0, max(2 * (min(below, above) + 1) / (len(known) + 1), 2.0 ** (1 - count)))
