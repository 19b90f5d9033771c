"""In which order rows are trained on, and which conversations a micro-batch held.

The order follows from seed and epoch alone, so that nobody has to keep it: it is drawn again where it is asked for.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler

from medllm import ranks
from medllm.data.pipeline import Side

# Conversations that a message names, at most.
MOST_NAMED = 20


class SeededLengthGroupedSampler(LengthGroupedSampler):
    """Groups samples of similar length, in an order that follows from seed and epoch alone.

    transformers' own draws from the global random state, so that a resumed run would see another order.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader at the start of each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Any:
        self.generator.manual_seed(self.seed + self.epoch)
        return super().__iter__()


def rows_of_step(loader: Any, step: int, accumulation: int) -> list[list[int]]:
    """Rows of the data set in each micro-batch of an optimizer step, on this rank.

    Args:
        loader: The Trainer's; its epoch is changed.
        step: From 1.
        accumulation: Micro-batches of a step; the last one of an epoch may have fewer.
    """
    epoch, place = divmod(step - 1, -(-len(loader) // accumulation))
    loader.set_epoch(epoch)
    return list(islice(loader.batch_sampler, place * accumulation, (place + 1) * accumulation))


def conversation_ids(side: Side, rows: Iterable[int]) -> list[str]:
    """Of the conversations in some rows of a side's data set; a row that only fills up a batch has none."""
    members = side.rows
    return [side.samples.rows[i]["conversation_id"] for row in rows if row < len(members) for i in members[row]]


def named(ids: Sequence[str]) -> str:
    """Conversations, to show."""
    more = f" and {len(ids) - MOST_NAMED} more" if len(ids) > MOST_NAMED else ""
    return f"conversations {', '.join(ids[:MOST_NAMED])}{more}"


def faulty_micro_batches(side: Side, rows: Sequence[Sequence[int]], finite: Sequence[bool]) -> str:
    """The micro-batches of an optimizer step whose loss is not finite, or all where each is, and what was in them, to show.

    Every rank has to ask, and gets the same.

    Args:
        side: What is trained on.
        rows: Of each micro-batch of this rank.
        finite: Whether the loss of each is.
    """
    of_rank = f"rank {ranks.rank()}, " if ranks.world_size() > 1 else ""
    own = [
        (is_finite, f"{of_rank}micro-batch {number} of {len(rows)}: {named(conversation_ids(side, batch))}")
        for number, (batch, is_finite) in enumerate(zip(rows, finite, strict=True), start=1)
    ]
    found = [batch for of_one in ranks.gather(own) for batch in of_one]
    return "; ".join([text for is_finite, text in found if not is_finite] or [text for _, text in found])
