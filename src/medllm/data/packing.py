"""Packs samples into rows: best-fit decreasing, no sample split.

    max_length 10, samples of 7, 6, 4, 3 tokens ->  [7 3] [6 4]

Johnson (1973): the number of rows is at most 11/9 of the optimum plus one.
"""

import bisect
import random
from collections.abc import Sequence
from typing import Any


def best_fit(lengths: Sequence[int], max_length: int, seed: int) -> list[list[int]]:
    """Groups sample indices so that each group's lengths sum to at most `max_length`.

    Args:
        lengths: Tokens per sample, each at most `max_length`.
        max_length: Tokens per row.
        seed: Shuffles samples of equal length and the finished rows, which would otherwise come longest first.

    Returns:
        Rows of indices; each index occurs exactly once.
    """
    shuffled = list(range(len(lengths)))
    rng = random.Random(seed)
    rng.shuffle(shuffled)
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # (free tokens, row), sorted: the first with enough room fits best
    for i in sorted(shuffled, key=lambda i: -lengths[i]):
        at = bisect.bisect_left(open_rows, (lengths[i], -1))
        if at == len(open_rows):
            rows.append([i])
            bisect.insort(open_rows, (max_length - lengths[i], len(rows) - 1))
        else:
            free, row = open_rows.pop(at)
            rows[row].append(i)
            bisect.insort(open_rows, (free - lengths[i], row))
    rng.shuffle(rows)
    return rows


class PackedDataset:
    """A map-style dataset whose items are rows: lists of samples."""

    def __init__(self, samples: Any, max_length: int, seed: int):
        self.samples = samples
        self.rows = best_fit(list(samples["length"]), max_length, seed)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        return [self.samples[i] for i in self.rows[index]]
