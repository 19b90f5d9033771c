"""Which rows each rank takes.

    training     order:  a b c d e .    rank 0: a c e    the rows of an optimizer step are those of one process with
                                        rank 1: b d .    as large a batch; `.` is a row that trains nothing
    evaluation   order:  a b c          rank 0: a c      a batch taken twice counts once
                                        rank 1: b a

Every rank has as many batches as the others, because they wait for each other at each.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Sampler

from medllm import ranks
from medllm.data.pipeline import Datasets

Sums = TypeVar("Sums")


class WithBlank:
    """Rows of a data set, and behind the last one a row of one token that trains nothing."""

    def __init__(self, rows: Any):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        if index < len(self.rows):
            return self.rows[index]
        row = self.rows[0]
        sample = row[0] if isinstance(row, list) else row
        blank = {"input_ids": sample["input_ids"][:1], "labels": [-100]}
        return [blank] if isinstance(row, list) else blank


class EvenOrder(Sampler[int]):
    """An order of rows, filled with the blank one until all ranks have as many whole batches.

    Args:
        order: Of the rows; drawn anew for each epoch.
        size: Rows of a batch on one rank.
    """

    def __init__(self, order: Any, size: int):
        self.order = order
        self.round = size * ranks.world_size()

    def __len__(self) -> int:
        return math.ceil(len(self.order) / self.round) * self.round

    def __iter__(self) -> Iterator[int]:
        yield from self.order
        yield from [len(self.order)] * (len(self) - len(self.order))

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader at the start of each epoch."""
        self.order.set_epoch(epoch)


class Share:
    """A batch sampler: this rank's share of the batches of a data set in its own order.

    Args:
        num_rows: Of the data set.
        size: Rows of a batch.
    """

    def __init__(self, num_rows: int, size: int):
        self.batches = [list(range(num_rows)[start : start + size]) for start in range(0, num_rows, size)]

    def __len__(self) -> int:
        return math.ceil(len(self.batches) / ranks.world_size())

    def __iter__(self) -> Iterator[list[int]]:
        for turn in range(len(self)):
            yield self.batches[(turn * ranks.world_size() + ranks.rank()) % len(self.batches)]

    def gather(self, own: Iterable[Sums]) -> list[Sums]:
        """What all ranks made of their batches, one thing a batch, in the order of the data set."""
        turns = zip(*ranks.gather(list(own)), strict=True)
        return [thing for turn in turns for thing in turn][: len(self.batches)]


def held_out_batches(datasets: Datasets, size: int) -> Any:
    """A data loader of this rank's share of the held-out rows; the `gather` of its batch sampler puts shares together.

    Args:
        datasets: With a held-out side.
        size: Rows of a batch.
    """
    assert datasets.eval is not None
    rows = datasets.eval.dataset
    # The generator is for a number that a loader draws at every pass: from the global state, it would change training's dropout.
    return DataLoader(
        rows, batch_sampler=Share(len(rows), size), collate_fn=datasets.collate, generator=torch.Generator()
    )
