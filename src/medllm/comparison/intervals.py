"""Intervals: by repeats with other seeds, and by resampling held-out conversations.

The two answer different questions. Seeds say how much the result moves if training is repeated; resampling says how much
it moves if other conversations of the same kind had been held out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medllm.conversation_losses import ConversationLosses
from medllm.intervals import CONFIDENCE, RESAMPLES, Interval, resampled_ratios, student_quantile


@dataclass(frozen=True)
class Paired:
    """Losses of several candidates on the conversations that all of them were evaluated on.

    Attributes:
        loss: Summed loss, (conversations, candidates); the mean over a candidate's seeds.
        num_tokens: Supervised tokens, of the same shape.
    """

    loss: NDArray[np.float64]
    num_tokens: NDArray[np.float64]

    def means(self) -> NDArray[np.float64]:
        """Loss per token of each candidate."""
        return self.loss.sum(0) / self.num_tokens.sum(0)

    def resampled(self, resamples: int = RESAMPLES) -> NDArray[np.float64]:
        """Loss per token, (resamples, candidates). A resample is the same one for all candidates."""
        return resampled_ratios(self.loss, self.num_tokens, resamples)


def pair(candidates: Sequence[Sequence[ConversationLosses]]) -> Paired:
    """Keeps the conversations found in every run, and takes the mean over each candidate's runs.

    A conversation that a run holds twice counts with both its losses.
    """
    merged = [[_merged(run) for run in runs] for runs in candidates]
    shared = None
    for ids, _, _ in (run for runs in merged for run in runs):
        shared = ids if shared is None else np.intersect1d(shared, ids, assume_unique=True)
    if shared is None:
        return Paired(np.empty((0, 0)), np.empty((0, 0)))
    loss, tokens = [], []
    for runs in merged:
        at = [np.searchsorted(ids, shared) for ids, _, _ in runs]
        loss.append(np.mean([run[1][i] for run, i in zip(runs, at, strict=True)], axis=0))
        tokens.append(np.mean([run[2][i] for run, i in zip(runs, at, strict=True)], axis=0))
    return Paired(np.stack(loss, 1), np.stack(tokens, 1))


def _merged(losses: ConversationLosses) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    used = losses.num_tokens > 0
    ids, where = np.unique(losses.conversation[used], return_inverse=True)
    loss = np.bincount(where, losses.loss[used], len(ids))
    return ids, loss.astype(np.float64), np.bincount(where, losses.num_tokens[used], len(ids)).astype(np.float64)


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """Of the mean of independent repeats; None for a single one."""
    if len(values) < 2:
        return None
    return _around(float(np.mean(values)), float(np.var(values, ddof=1)) / len(values), len(values) - 1, confidence)


def t_difference(a: dict[int, float], b: dict[int, float], confidence: float) -> Interval | None:
    """Of the difference of means of `a` and `b` by seed: paired where they share seeds, Welch's otherwise."""
    shared = sorted(set(a) & set(b))
    if len(shared) >= 2:
        return t_interval([a[seed] - b[seed] for seed in shared], confidence)
    if min(len(a), len(b)) < 2:
        return None
    left, right = (float(np.var(list(x.values()), ddof=1)) / len(x) for x in (a, b))
    parts = left**2 / (len(a) - 1) + right**2 / (len(b) - 1)
    degrees = (left + right) ** 2 / parts if parts else len(a) + len(b) - 2
    mean = float(np.mean(list(a.values())) - np.mean(list(b.values())))
    return _around(mean, left + right, degrees, confidence)


def _around(mean: float, variance: float, degrees: float, confidence: float) -> Interval:
    half = student_quantile(degrees, confidence) * math.sqrt(variance)
    return Interval(mean - half, mean + half)
