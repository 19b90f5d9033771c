"""How many items would show a difference of a given size, at 5 % two-sided, for paired measurements.

Proportions, by McNemar's test (Connor, Biometrics 1987;43:207):
`n = (z(.975) sqrt(d) + z(power) sqrt(d - m^2))^2 / m^2`, with `d`
the share of items that differ and `m` the difference. Other ratios, by the normal approximation for paired differences:
`n = (z(.975) + z(power))^2 s^2 / m^2`, with `s` the standard deviation of one item's difference.
"""

import math
from statistics import NormalDist

from medllm.evaluation.figures import Difference, Measured
from medllm.evaluation.suite import Side
from medllm.intervals import FEW, Z


def items_for_proportion(margin: float, discordant: float, power: float) -> int:
    """Items that show a difference of `margin` between paired proportions.

    Args:
        margin: In (0, 1].
        discordant: Share of items that count on one side only; at least `margin` in truth, and taken so.
        power: Chance to see it, in (0.5, 1).
    """
    discordant = max(discordant, margin)
    sure = Z * math.sqrt(discordant)
    seen = NormalDist().inv_cdf(power) * math.sqrt(discordant - margin**2)
    return math.ceil((sure + seen) ** 2 / margin**2)


def items_for_ratio(margin: float, deviation: float, power: float) -> int:
    """Items that show a difference of `margin` between paired ratios.

    Args:
        margin: Above 0.
        deviation: Standard deviation of one item's difference.
        power: Chance to see it, in (0.5, 1).
    """
    return math.ceil(((Z + NormalDist().inv_cdf(power)) * deviation / margin) ** 2)


def items_needed(measured: Measured, side: Side, margin: float, power: float) -> int | None:
    """Items of this metric that would show a difference of `margin`, judged by those there are.

    None of a margin of 0, and where there are too few items to judge by.
    """
    if margin <= 0 or measured.n < FEW:
        return None
    difference = measured.differences[side]
    if measured.metric.proportion:
        # One item more on each side, as in the interval: none that differed among few does not mean that none ever will.
        differing = difference.discordant * measured.n
        return items_for_proportion(margin, (differing + 2) / (measured.n + 2), power)
    return max(FEW, items_for_ratio(margin, _deviation(difference, measured.n), power))


def _deviation(difference: Difference, count: int) -> float:
    """Of one item's difference, from the width of the interval of all of them."""
    return (difference.interval.high - difference.interval.low) / (2 * Z) * math.sqrt(count)
