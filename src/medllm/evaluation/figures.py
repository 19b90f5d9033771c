"""From outcomes of items to figures: sums over sums, 95 % intervals, and differences between sides, paired by item.

    figure of a proportion     Wilson              difference    Bonett and Price, p by McNemar's exact test
    figure of any other ratio  bootstrap (items)   difference    paired bootstrap, p by the same resamples

Percentiles of resamples are expanded for few items, and of fewer than `FEW` no difference is called beyond noise.

Sides are compared on the items that both have answered. A figure too is taken from the items that all sides share, so that a
difference is the difference of the figures beside it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medllm.evaluation.items import Outcomes
from medllm.evaluation.suite import Better, Metric, Side
from medllm.intervals import (
    FEW,
    Interval,
    expanded,
    mcnemar,
    paired_proportions,
    percentiles,
    resampled_p,
    resampled_ratios,
    wilson,
)


@dataclass(frozen=True)
class Figure:
    """A value with its 95 % interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Difference:
    """A side's value less the base's.

    Attributes:
        value: In the metric's unit.
        interval: 95 %.
        p: Two-sided, against no difference.
        discordant: Of a proportion, the share of items that count on one side only; NaN otherwise.
    """

    value: float
    interval: Interval
    p: float
    discordant: float = math.nan


@dataclass(frozen=True)
class Measured:
    """One metric on all sides.

    Attributes:
        metric: What is measured.
        n: Items it is about, answered by all sides.
        figures: By side.
        differences: To the base, by side.
    """

    metric: Metric
    n: int
    figures: dict[Side, Figure]
    differences: dict[Side, Difference]

    def verdict(self, side: Side) -> str:
        """`better` or `worse` if the whole interval of the difference says so, and items are not few; else an empty text."""
        difference = self.differences.get(side)
        if difference is None or self.metric.better is Better.neither or self.n < FEW or 0 in difference.interval:
            return ""
        return "better" if (difference.value > 0) == (self.metric.better is Better.higher) else "worse"


def measure(metrics: Sequence[Metric], outcomes: Mapping[Side, Outcomes]) -> list[Measured]:
    """Figures of all metrics that any item speaks of.

    Args:
        metrics: Of a suite.
        outcomes: Of each side that was asked.
    """
    found = []
    for metric in metrics:
        shared = [
            name
            for name, outcome in next(iter(outcomes.values()), {}).items()
            if all(metric.name in side.get(name, outcome).values and name in side for side in outcomes.values())
        ]
        if shared:
            pairs = {side: [o[name].values[metric.name] for name in shared] for side, o in outcomes.items()}
            measured = _measured(metric, {side: np.array(of, dtype=np.float64) for side, of in pairs.items()})
            if measured:
                found.append(measured)
    return found


def _measured(metric: Metric, pairs: dict[Side, NDArray[np.float64]]) -> Measured | None:
    """A metric from its parts, (N, 2) of each side; None if there is nothing to divide by."""
    sides = list(pairs)
    numerators = np.stack([pairs[side][:, 0] for side in sides], 1)
    denominators = np.stack([pairs[side][:, 1] for side in sides], 1)
    if not (denominators.sum(0) > 0).all():
        return None
    count = len(numerators)
    confidence = expanded(count)
    values = _shown(metric, numerators.sum(0) / denominators.sum(0))
    resamples = None if metric.proportion else _shown(metric, resampled_ratios(numerators, denominators))
    figures: dict[Side, Figure] = {}
    differences: dict[Side, Difference] = {}
    for i, side in enumerate(sides):
        hits = float(numerators[:, i].sum())
        interval = (
            wilson(hits, denominators[:, i].sum()) if resamples is None else percentiles(resamples[:, i], confidence)
        )
        figures[side] = Figure(float(values[i]), interval)
        if Side.base not in pairs or side is Side.base:
            continue
        base = sides.index(Side.base)
        change = float(values[i] - values[base])
        if resamples is None:
            gained = int(((numerators[:, i] > 0) & (numerators[:, base] == 0)).sum())
            lost = int(((numerators[:, i] == 0) & (numerators[:, base] > 0)).sum())
            interval = paired_proportions(gained, lost, count)
            differences[side] = Difference(change, interval, mcnemar(gained, lost), (gained + lost) / count)
        else:
            by = resamples[:, i] - resamples[:, base]
            differences[side] = Difference(change, percentiles(by, confidence), resampled_p(by, count))
    return Measured(metric, count, figures, differences)


def _shown(metric: Metric, ratios: NDArray[np.float64]) -> NDArray[np.float64]:
    if metric.exponential:
        return np.exp(np.minimum(ratios, 700.0))
    return np.clip(ratios, 0, 1) if metric.clipped else ratios
