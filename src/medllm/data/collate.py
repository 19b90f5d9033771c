"""Samples become tensors.

Shapes: B conversations or rows, T tokens. Labels are unshifted, -100 where not supervised.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

import torch

Batch = dict[str, torch.Tensor]


# What a model takes of a batch; the rest of it is for the trainer.
MODEL_INPUTS = ("input_ids", "attention_mask", "position_ids")


class PackCollator:
    """Lays the samples of each row end to end.

    Position ids restart at each sample; transformers derives from that restart, and only in the absence of an attention
    mask and a cache, that no sample sees another. So this collator must never emit a mask. Rows shorter than the longest
    are filled at their end with a segment of its own, which is never supervised.
    """

    def __call__(self, rows: Iterable[list[dict[str, Any]]]) -> Batch:
        """`input_ids`, `position_ids`, `labels`, each (B, T) int64, and `num_tokens` (1,) without the filling."""
        rows = [list(row) for row in rows]
        lengths = [sum(len(sample["input_ids"]) for sample in row) for row in rows]
        longest = max(lengths)
        input_ids, position_ids, labels = [], [], []
        for row, length in zip(rows, lengths, strict=True):
            fill = longest - length
            input_ids.append([*chain.from_iterable(sample["input_ids"] for sample in row), *[0] * fill])
            restarts = chain.from_iterable(range(len(sample["input_ids"])) for sample in row)
            position_ids.append([*restarts, *range(fill)])
            # The first token of a sample follows another sample's last: it must not be predicted from there.
            own = chain.from_iterable([-100, *sample["labels"][1:]] for sample in row)
            labels.append([*own, *[-100] * fill])
        return {
            "input_ids": torch.tensor(input_ids),
            "position_ids": torch.tensor(position_ids),
            "labels": torch.tensor(labels),
            "num_tokens": torch.tensor([sum(lengths)]),
        }


@dataclass(frozen=True)
class PadCollator:
    """Pads samples on the right.

    Attributes:
        pad_token_id: Fills `input_ids`; it is masked and never supervised, so any token serves, eos too.
        length: Pad to this many tokens; None pads to the longest of the batch.
    """

    pad_token_id: int
    length: int | None = None

    def __call__(self, samples: list[dict[str, Any]]) -> Batch:
        """`input_ids`, `attention_mask`, `labels`, each (B, T) int64, and `num_tokens` (1,) without padding."""
        length = self.length or max(len(sample["input_ids"]) for sample in samples)

        def pad(values: list[int], fill: int) -> list[int]:
            return [*values, *[fill] * (length - len(values))]

        return {
            "input_ids": torch.tensor([pad(s["input_ids"], self.pad_token_id) for s in samples]),
            "attention_mask": torch.tensor([pad([1] * len(s["input_ids"]), 0) for s in samples]),
            "labels": torch.tensor([pad(s["labels"], -100) for s in samples]),
            "num_tokens": torch.tensor([sum(len(s["input_ids"]) for s in samples)]),
        }


@dataclass(frozen=True)
class FlatCollator:
    """Lays all samples of all rows end to end, with no row and next to no filling.

    Attributes:
        multiple: The number of tokens is filled up to a multiple of it, with segments that are never supervised.
        segments: Room for so many segments, those of the filling included.
        longest: No segment is longer, the filling's neither.
    """

    multiple: int
    segments: int
    longest: int

    def __call__(self, rows: Iterable[Any]) -> Batch:
        """Tensors by name.

        Args:
            rows: Samples, or lists of them.

        Returns:
            `input_ids` and `position_ids` (T) int64; `bounds` (segments + 1) int32, where segments begin, and T from the last
            one's end on; `positions` (K) int64, tokens in front of a supervised one; `targets` (K) int64, the supervised ones;
            `labels` (1, T) int64, for counting; `num_tokens` (1,) without the filling.
        """
        samples = [sample for row in rows for sample in (row if isinstance(row, list) else [row])]
        lengths = [len(sample["input_ids"]) for sample in samples]
        count = sum(lengths)
        fill = -count % self.multiple
        fills = [self.longest] * (fill // self.longest) + [fill % self.longest] * (fill % self.longest > 0)
        sizes = [*lengths, *fills]
        bounds = [*accumulate(sizes, initial=0), *[count + fill] * (self.segments - len(sizes))]
        input_ids = torch.tensor([*chain.from_iterable(sample["input_ids"] for sample in samples), *[0] * fill])
        # The first token of a sample follows another sample's last: it must not be predicted from there.
        own = chain.from_iterable([-100, *sample["labels"][1:]] for sample in samples)
        labels = torch.tensor([*own, *[-100] * fill])
        supervised = (labels != -100).nonzero().squeeze(1)
        return {
            "input_ids": input_ids,
            "position_ids": torch.tensor([*chain.from_iterable(range(size) for size in sizes)]),
            "bounds": torch.tensor(bounds, dtype=torch.int32),
            "positions": supervised - 1,
            "targets": labels[supervised],
            "labels": labels[None],
            "num_tokens": torch.tensor([count]),
        }
