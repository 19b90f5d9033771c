"""Samples become tensors.

Shapes: B conversations or rows, T tokens. Labels are unshifted, -100 where not supervised.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch

Batch = dict[str, torch.Tensor]


class FlattenCollator:
    """Lays the samples of all rows end to end in one row, without padding.

    Position ids restart at each sample; transformers derives from that restart, and only in the absence of an attention
    mask and a cache, that no sample sees another. So this collator must never emit a mask.
    """

    def __call__(self, rows: Iterable[list[dict[str, Any]]]) -> Batch:
        """`input_ids`, `position_ids`, `labels`, each (1, T) int64."""
        samples = list(chain.from_iterable(rows))
        position_ids = [range(len(sample["input_ids"])) for sample in samples]
        # The first token of a sample follows another sample's last: it must not be predicted from there.
        labels = [[-100, *sample["labels"][1:]] for sample in samples]
        return {
            "input_ids": torch.tensor([list(chain.from_iterable(s["input_ids"] for s in samples))]),
            "position_ids": torch.tensor([list(chain.from_iterable(position_ids))]),
            "labels": torch.tensor([list(chain.from_iterable(labels))]),
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
        """`input_ids`, `attention_mask`, `labels`, each (B, T) int64."""
        length = self.length or max(len(sample["input_ids"]) for sample in samples)

        def pad(values: list[int], fill: int) -> list[int]:
            return [*values, *[fill] * (length - len(values))]

        return {
            "input_ids": torch.tensor([pad(s["input_ids"], self.pad_token_id) for s in samples]),
            "attention_mask": torch.tensor([pad([1] * len(s["input_ids"]), 0) for s in samples]),
            "labels": torch.tensor([pad(s["labels"], -100) for s in samples]),
        }
