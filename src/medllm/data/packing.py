"""Packs samples into rows: best-fit decreasing, no sample split.

    max_length 10, samples of 7, 6, 4, 3 tokens ->  [7 3] [6 4]

Johnson (1973): the number of rows is at most 11/9 of the optimum plus one.
"""

import random
from collections.abc import Sequence
from typing import Any


def best_fit(lengths: Sequence[int], max_length: int, seed: int) -> list[list[int]]:
    """Groups sample indices so that each group's lengths sum to at most `max_length`.

    Args:
        lengths: Tokens per sample, each from 1 to `max_length`.
        max_length: Tokens per row.
        seed: Shuffles samples of equal length and the finished rows, which would otherwise come longest first.

    Returns:
        Rows of indices; each index occurs exactly once.
    """
    shuffled = list(range(len(lengths)))
    rng = random.Random(seed)
    rng.shuffle(shuffled)
    rows: list[list[int]] = []
    by_free: list[list[int]] = [[] for _ in range(max_length + 1)]  # rows by their free tokens
    free_sizes = 0  # bit f is set if a row with f free tokens is there, so the tightest fit is one shift away
    for i in sorted(shuffled, key=lambda i: -lengths[i]):
        fitting = free_sizes >> lengths[i]
        if fitting:
            free = lengths[i] + (fitting & -fitting).bit_length() - 1
            row = by_free[free].pop()
            if not by_free[free]:
                free_sizes ^= 1 << free
        else:
            free, row = max_length, len(rows)
            rows.append([])
        rows[row].append(i)
        left = free - lengths[i]
        by_free[left].append(row)
        free_sizes |= 1 << left
    rng.shuffle(rows)
    return rows


class PackedDataset:
    """A map-style dataset whose items are rows: lists of samples."""

    def __init__(self, samples: Any, lengths: Sequence[int], max_length: int, seed: int):
        self.samples = samples
        self.rows = best_fit(lengths, max_length, seed)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        return [self.samples[i] for i in self.rows[index]]
