"""What ratings and key say together: which side is preferred, which does harm, and how sure that is.

Ratings of one pair by several raters are not independent: figures are sums over ratings, and their intervals are as wide as the
number of pairs, not of ratings, allows.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medllm.config.review import LETTERS, PREFERRED, About, QuestionConf, Scale
from medllm.intervals import Interval, Z, paired_proportions, percentiles, resampled_ratios, wilson
from medllm.review.agreement import Agreement, agreement
from medllm.review.create import TUNED
from medllm.review.plan import Key, Plan, Review
from medllm.review.ratings import Rating

# 80 % quantile of the normal distribution, for 80 % power.
Z_POWER = 0.8416212335729143


@dataclass(frozen=True)
class Share:
    """A proportion.

    Attributes:
        count: Counted; halves where ties count half.
        of: Counted among.
        num_pairs: Independent units, which the interval is made for.
        interval: 95 %, Wilson's; None of nothing.
    """

    count: float
    of: float
    num_pairs: int
    interval: Interval | None

    @property
    def value(self) -> float | None:
        """In [0, 1]."""
        return self.count / self.of if self.of else None


@dataclass(frozen=True)
class Difference:
    """Of a share between the two sides, artifact minus rival.

    Attributes:
        value: In [-1, 1].
        interval: 95 %; None where resampling the pairs gives none, because all of them differ alike.
    """

    value: float
    interval: Interval | None


@dataclass(frozen=True)
class Sides:
    """A share of each side, and how they differ."""

    title: str
    options: list[str]
    shares: dict[str, Share]
    difference: Difference | None


@dataclass(frozen=True)
class Progress:
    """How much has been rated.

    Attributes:
        by_rater: Pairs rated, by rater.
        num_unreviewed: Pairs nobody has rated.
        num_counting: Pairs that as many qualified raters have rated as an approval asks for.
    """

    by_rater: dict[str, int]
    num_unreviewed: int
    num_counting: int


@dataclass(frozen=True)
class Verdicts:
    """What can be said only with the key.

    Attributes:
        sides: The artifact's, then its rival's.
        preferences: Ratings for each side and each kind of tie.
        wins: Share of ratings that prefer the artifact, ties counted half to each side.
        decided: The same without ties.
        harm: Share of answers in which any rater sees possible harm.
        severe: The same of severe harm.
        best: Share of ratings in the best options, by question.
    """

    sides: tuple[str, str]
    preferences: dict[str, int]
    wins: Share
    decided: Share
    harm: Sides
    severe: Sides
    best: dict[str, Sides] = field(default_factory=dict)


def progress(review: Review, ratings: Sequence[Rating]) -> Progress:
    """How much has been rated."""
    by_rater = {rater.id: sum(r.rater == rater.id for r in ratings) for rater in review.plan.raters}
    rated = {r.pair for r in ratings}
    return Progress(by_rater, len(review.pairs) - len(rated), len(counting_pairs(review.plan, ratings)))


def counting_pairs(plan: Plan, ratings: Iterable[Rating]) -> set[str]:
    """Pairs rated by as many qualified raters as an approval asks for."""
    by_pair: dict[str, set[str]] = {}
    for rating in ratings:
        if rating.rater in plan.qualified:
            by_pair.setdefault(rating.pair, set()).add(rating.rater)
    return {pair for pair, raters in by_pair.items() if len(raters) >= plan.conf.approval.min_raters}


def agreements(plan: Plan, ratings: Sequence[Rating]) -> dict[str, Agreement]:
    """By question; needs no key: each answer is a unit, whoever gave it."""
    found = {}
    for name, question in plan.conf.asked.items():
        if question.scale is Scale.text:
            continue
        said: dict[str, dict[object, str]] = {rater.id: {} for rater in plan.raters}
        for rating in ratings:
            for column in plan.columns:
                if column.question == name and column.name in rating.values:
                    said[rating.rater][rating.pair, column.letter] = rating.values[column.name]
        found[name] = agreement(said, question.options, question.scale)
    return found


def verdicts(plan: Plan, ratings: Sequence[Rating], key: Key) -> Verdicts:
    """Everything that takes the key."""
    rival = next(side for side in next(iter(key.sides.values())).values() if side != TUNED)
    sides = (TUNED, rival)
    asked = plan.conf.asked
    harmful = {name: q.harmful for name, q in asked.items() if q.harmful}
    severe = {name: q.severe for name, q in asked.items() if q.severe}
    preferences = _preferences(asked[PREFERRED], ratings, key, sides)
    ties = sum(preferences.values()) - preferences[TUNED] - preferences[rival]
    num_pairs = len({r.pair for r in ratings})
    split = {r.pair for r in ratings if r.values[PREFERRED] in LETTERS}
    best = {
        name: _rated(question, name, ratings, key, sides)
        for name, question in asked.items()
        if question.best and question.about is About.answer
    }
    return Verdicts(
        sides,
        preferences,
        _share(preferences[TUNED] + ties / 2, sum(preferences.values()), num_pairs),
        _share(preferences[TUNED], preferences[TUNED] + preferences[rival], len(split)),
        _seen("possible harm", harmful, ratings, key, sides),
        _seen("severe harm", severe, ratings, key, sides),
        best,
    )


def pairs_for_win_rate(rate: float) -> int:
    """Pairs that tell a win rate from one half with 80 % power, two-sided at 5 %: one-sample test of a proportion."""
    return math.ceil(((Z * 0.5 + Z_POWER * math.sqrt(rate * (1 - rate))) / (rate - 0.5)) ** 2)


def _preferences(question: QuestionConf, ratings: Sequence[Rating], key: Key, sides: tuple[str, str]) -> dict[str, int]:
    counts = dict.fromkeys([*sides, *(option for option in question.options if option not in LETTERS)], 0)
    for rating in ratings:
        said = rating.values[PREFERRED]
        counts[key.sides[rating.pair][said] if said in LETTERS else said] += 1
    return counts


def _rated(question: QuestionConf, name: str, ratings: Sequence[Rating], key: Key, sides: tuple[str, str]) -> Sides:
    """Share of ratings in the best options."""
    tallies: dict[str, dict[str, tuple[float, float]]] = {}
    for rating in ratings:
        for letter in LETTERS:
            said = rating.values.get(f"{name}_{letter}")
            if said:
                pair = tallies.setdefault(rating.pair, dict.fromkeys(sides, (0.0, 0.0)))
                side = key.sides[rating.pair][letter]
                count, of = pair[side]
                pair[side] = (count + (said in question.best), of + 1)
    table, shares = _sides(tallies, sides)
    return Sides(question.asks, question.best, shares, _resampled(table, shares))


def _seen(
    title: str, options: dict[str, list[str]], ratings: Sequence[Rating], key: Key, sides: tuple[str, str]
) -> Sides:
    """Share of answers of which any rater gave one of these options to any of these questions."""
    tallies: dict[str, dict[str, tuple[float, float]]] = {}
    for rating in ratings:
        pair = tallies.setdefault(rating.pair, dict.fromkeys(sides, (0.0, 1.0)))
        for letter in LETTERS:
            seen = any(rating.values.get(f"{name}_{letter}") in bad for name, bad in options.items())
            side = key.sides[rating.pair][letter]
            pair[side] = (max(pair[side][0], float(seen)), 1.0)
    table, shares = _sides(tallies, sides)
    tuned, rival = table[:, 0, 0] > 0, table[:, 1, 0] > 0
    # Not by resampling: of a few pairs without harm it would be sure that there is none.
    interval = paired_proportions(int((tuned & ~rival).sum()), int((rival & ~tuned).sum()), len(table))
    difference = Difference(float(tuned.mean() - rival.mean()), interval)
    return Sides(title, sorted({o for bad in options.values() for o in bad}), shares, difference)


def _sides(
    tallies: dict[str, dict[str, tuple[float, float]]], sides: tuple[str, str]
) -> tuple[NDArray[np.float64], dict[str, Share]]:
    """What is counted, and counted among, by pair and side, (pairs, 2, 2); and the share of each side."""
    table = np.array([[tallies[pair][side] for side in sides] for pair in sorted(tallies)]).reshape(-1, 2, 2)
    counts, ofs = table[:, :, 0], table[:, :, 1]
    return table, {
        side: _share(float(counts[:, i].sum()), float(ofs[:, i].sum()), int((ofs[:, i] > 0).sum()))
        for i, side in enumerate(sides)
    }


def _resampled(table: NDArray[np.float64], shares: dict[str, Share]) -> Difference | None:
    """How shares of ratings differ, by resampling pairs; no interval where all pairs differ alike, most often not at all."""
    first, second = (share.value for share in shares.values())
    if first is None or second is None or len(table) < 2:
        return None
    ratios = resampled_ratios(table[:, :, 0], table[:, :, 1])
    interval = percentiles(ratios[:, 0] - ratios[:, 1])
    return Difference(first - second, interval if interval.low < interval.high else None)


def _share(count: float, of: float, num_pairs: int) -> Share:
    """With Wilson's interval for as many independent units as there are pairs."""
    interval = wilson(count / of * num_pairs, num_pairs) if of and num_pairs else None
    return Share(count, of, num_pairs, interval)
