"""From runs to a ranking that says how sure it is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medllm.comparison.intervals import pair, t_difference, t_interval
from medllm.comparison.runs import SEED, Run, RunSet
from medllm.intervals import CONFIDENCE, Interval, percentiles

TRAINABLE = "model/trainable_parameters"
COSTS = {"perf/peak_memory_gib": "peak memory (GiB)", "perf/seconds": "time (s)", TRAINABLE: "trainable parameters"}
FEW_CONVERSATIONS = 30


@dataclass(frozen=True)
class Candidate:
    """Runs that differ in nothing but their seed.

    Attributes:
        label: What distinguishes it from the others.
        values: Axis to value; without the seed.
        runs: Its finished runs.
        loss: Per supervised token on the conversations shared by all candidates; the mean objective without such.
        interval: 95 %, by resampling conversations; None without losses of conversations.
        seed_interval: 95 %, of the mean objective over seeds; None for a single seed.
        difference: Its loss less the best one's.
        difference_interval: Of that, by resampling; 95 % for all comparisons with the best together.
        seed_difference_interval: The same by seeds.
        tied: Whether it cannot be told from the best; None if there is nothing to decide that with.
        metrics: Means over its runs.
    """

    label: str
    values: dict[str, str]
    runs: list[Run]
    loss: float
    interval: Interval | None
    seed_interval: Interval | None
    difference: float
    difference_interval: Interval | None
    seed_difference_interval: Interval | None
    tied: bool | None
    metrics: dict[str, float]


@dataclass(frozen=True)
class Level:
    """One value of an axis: mean loss over the other axes, with its interval."""

    value: str
    loss: float
    interval: Interval | None
    count: int


@dataclass(frozen=True)
class Effect:
    """What an axis does.

    Attributes:
        axis: Its key.
        levels: Its values, numbers ascending.
        balanced: Whether each value was met with the same values of the other axes.
    """

    axis: str
    levels: list[Level]
    balanced: bool

    @property
    def range(self) -> float:
        """From the best value's loss to the worst's."""
        losses = [level.loss for level in self.levels]
        return max(losses) - min(losses)


@dataclass(frozen=True)
class Comparison:
    """All that is known.

    Attributes:
        runs: What was compared.
        candidates: Best first.
        unranked: Runs that did not finish, with their reasons.
        num_conversations: Held-out conversations that all candidates share.
        warnings: What a reader must know before believing it.
        effects: Of each axis with several values.
        fronts: Metric of a cost to the positions of candidates that no other beats in both loss and cost.
        winner: The smallest of those that cannot be told from the best; None without a finished run.
    """

    runs: RunSet
    candidates: list[Candidate]
    unranked: list[Run]
    num_conversations: int
    warnings: list[str]
    effects: list[Effect]
    fronts: dict[str, list[int]]
    winner: Candidate | None


def compare(runs: RunSet) -> Comparison:
    """Ranks finished runs; never fails for lack of any."""
    groups = _grouped(runs)
    unranked = [run for run in runs.runs if not run.ranked]
    warnings = _warnings([run for group in groups for run in group])
    measured = [i for i, group in enumerate(groups) if all(run.losses for run in group)]
    paired = pair([[run.losses for run in groups[i] if run.losses] for i in measured])
    count = len(paired.loss)
    samples: dict[int, NDArray[np.float64]] = {}
    losses = [float(np.mean([run.objective for run in group if run.objective is not None])) for group in groups]
    if count >= 2:
        samples = dict(zip(measured, paired.resampled().T, strict=True))
        losses = [
            dict(zip(measured, paired.means().tolist(), strict=True)).get(i, loss) for i, loss in enumerate(losses)
        ]
        if not np.allclose(paired.num_tokens, paired.num_tokens[:, :1]):
            warnings.append("The runs count different tokens in the same conversations: losses per token of different "
                            "tokenizers, templates or length limits are not on one scale.")  # fmt: skip
        if count < FEW_CONVERSATIONS:
            warnings.append(f"Only {count} held-out conversations are shared: intervals by resampling are too narrow.")
    if groups and len(measured) < len(groups):
        what = f"Only {len(measured)} of {len(groups)} candidates" if measured else "No run"
        warnings.append(
            f"{what} left losses of single conversations; without them there is no interval by conversations."
        )
    order = sorted(range(len(groups)), key=lambda i: losses[i])
    groups, losses = [groups[i] for i in order], [losses[i] for i in order]
    samples = {order.index(i): values for i, values in samples.items()}
    candidates = [_candidate(i, groups, losses, samples) for i in range(len(groups))]
    return Comparison(
        runs=runs,
        candidates=candidates,
        unranked=unranked,
        num_conversations=count,
        warnings=warnings,
        effects=[e for axis in runs.axes if axis != SEED and (e := _effect(axis, runs.axes, candidates, samples))],
        fronts={metric: _front(candidates, metric) for metric in COSTS},
        winner=choose(candidates),
    )


def choose(candidates: Sequence[Candidate]) -> Candidate | None:
    """The one with the fewest trained parameters among those not told from the best; of equal ones the better."""
    if not candidates:
        return None
    among = [candidates[0], *(candidate for candidate in candidates[1:] if candidate.tied)]
    return min(among, key=lambda candidate: (candidate.metrics.get(TRAINABLE, math.inf), candidate.loss))


def _grouped(runs: RunSet) -> list[list[Run]]:
    """Finished runs by everything but the seed; runs without any axis differ in nothing that we know."""
    groups: dict[object, list[Run]] = {}
    for run in runs.runs:
        if run.ranked:
            key = tuple((axis, value) for axis, value in run.values.items() if axis != SEED)
            groups.setdefault(key, []).append(run)
    return list(groups.values())


def _warnings(runs: list[Run]) -> list[str]:
    found = []
    codes = sorted({run.code for run in runs if run.code})
    if len(codes) > 1:
        found.append(f"The runs were made by different code: {'; '.join(codes)}.")
    sets = [frozenset(run.losses.conversation.tolist()) for run in runs if run.losses]
    if len(set(sets)) > 1:
        shared = len(frozenset.intersection(*sets))
        found.append(
            f"The runs were evaluated on different conversations ({min(map(len, sets))} to {max(map(len, sets))} each): "
            + (
                f"only the {shared} shared ones are compared."
                if shared > 1
                else "they share none, so nothing is paired."
            )
        )
    return found


def _candidate(
    i: int, groups: list[list[Run]], losses: list[float], samples: dict[int, NDArray[np.float64]]
) -> Candidate:
    runs = groups[i]
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(groups) - 1)  # Bonferroni
    by_seed = [
        {n if r.seed is None else r.seed: r.objective or 0.0 for n, r in enumerate(g)} for g in (runs, groups[0])
    ]
    by_conversation = percentiles(samples[i] - samples[0], confidence) if i in samples and 0 in samples else None
    by_seeds = t_difference(by_seed[0], by_seed[1], confidence)
    known = [interval for interval in (by_conversation, by_seeds) if interval is not None]
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    shown = [f"{axis}={value}" for axis, value in runs[0].values.items() if axis != SEED]
    return Candidate(
        label=", ".join(shown) or (runs[0].label if len(runs) == 1 else "all runs"),
        values={axis: value for axis, value in runs[0].values.items() if axis != SEED},
        runs=runs,
        loss=losses[i],
        interval=percentiles(samples[i]) if i in samples else None,
        seed_interval=t_interval([run.objective for run in runs if run.objective is not None]),
        difference=losses[i] - losses[0],
        difference_interval=by_conversation,
        seed_difference_interval=by_seeds,
        tied=True if i == 0 else any(0 in interval for interval in known) if known else None,
        metrics={name: float(np.mean([r.metrics[name] for r in runs if name in r.metrics])) for name in names},
    )


def sort_key(value: str) -> tuple[int, float, str]:
    """Numbers by size, then texts."""
    try:
        return 0, float(value), value
    except ValueError:
        return 1, 0.0, value


def _effect(
    axis: str, axes: list[str], candidates: list[Candidate], samples: dict[int, NDArray[np.float64]]
) -> Effect | None:
    """Means over the same settings of the other axes where there are such; None for an axis of one value."""
    met: dict[str, dict[tuple[str, ...], int]] = {}
    for i, candidate in enumerate(candidates):
        others = tuple(candidate.values.get(other, "") for other in axes if other not in (axis, SEED))
        met.setdefault(candidate.values.get(axis, ""), {})[others] = i
    if len(met) < 2:
        return None
    shared = set.intersection(*(set(settings) for settings in met.values()))
    levels = []
    for value in sorted(met, key=sort_key):
        used = [i for others, i in met[value].items() if others in shared or not shared]
        known = all(i in samples for i in used)
        interval = percentiles(np.mean([samples[i] for i in used], axis=0)) if known else None
        levels.append(Level(value, float(np.mean([candidates[i].loss for i in used])), interval, len(used)))
    return Effect(axis, levels, bool(shared))


def _front(candidates: list[Candidate], metric: str) -> list[int]:
    """Candidates come best first, so one is on the front if it costs less than all before it."""
    front, least = [], math.inf
    for i, candidate in enumerate(candidates):
        cost = candidate.metrics.get(metric, math.nan)
        if cost < least:
            front.append(i)
            least = cost
    return front
