"""Conversations become samples: ids and labels, with the over-length policy applied and counted, cached on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medllm.cache import cached, code_version, key_of
from medllm.config.data import DataConf, OverLength
from medllm.console import counting
from medllm.conversation import Conversation, Rendered, Renderer, Turn
from medllm.data.parallel import BATCH, map_batches
from medllm.data.store import Conversations
from medllm.errors import DataError

# Batches of conversations from which starting processes, which load the tokenizer's library each, saves time.
WORTH_PROCESSES = 60
ARRAYS = ("places", "lengths", "supervised", "given_lengths")


@dataclass(frozen=True)
class Samples:
    """Tokenized conversations.

    Attributes:
        rows: A `datasets.Dataset` with `input_ids` and `labels` (int32 lists), `length` and `conversation_id`.
        places: Of each row, the place of its conversation among those that were given.
        lengths: Tokens of each row.
        supervised: Of these, how many are learned.
        given_lengths: Tokens of each conversation before the over-length policy.
    """

    rows: Any
    places: NDArray[np.int64]
    lengths: NDArray[np.int64]
    supervised: NDArray[np.int64]
    given_lengths: NDArray[np.int64]

    @property
    def counts(self) -> dict[str, int]:
        """`kept`, `truncated`, `dropped`: what the over-length policy did."""
        truncated = int((self.lengths < self.given_lengths[self.places]).sum())
        return {"kept": len(self.rows), "truncated": truncated, "dropped": len(self.given_lengths) - len(self.rows)}

    def take(self, places: NDArray[np.int64]) -> "Samples":
        """The samples of the conversations at these places, which are in ascending order."""
        rows = np.flatnonzero(np.isin(self.places, places))
        return Samples(
            rows=self.rows.select(rows),
            places=np.searchsorted(places, self.places[rows]),
            lengths=self.lengths[rows],
            supervised=self.supervised[rows],
            given_lengths=self.given_lengths[places],
        )


def fit(rendered: Rendered, max_length: int, end_of_turn_id: int) -> Rendered | None:
    """A conversation cut to `max_length` tokens so that it still ends with an answer and its end of turn.

    Later turns go first; the last answer kept loses its own end. None if not even one token of an answer fits.
    """
    if len(rendered.input_ids) <= max_length:
        return rendered
    fitting = [turn for turn in rendered.turns if turn.start + 2 <= max_length]
    if not fitting:
        return None
    last = fitting[-1]
    end = min(last.end, max_length)
    ids = [*rendered.input_ids[: end - 1], end_of_turn_id]
    return Rendered(ids, [*fitting[:-1], Turn(last.start, end)])


def tokenize(conversations: Conversations, renderer: Renderer, conf: DataConf) -> Samples:
    """Samples of these conversations, from the cache if the same work was done before.

    Raises:
        DataError: if a conversation is too long under `over_length=error`, or if none is left.
    """
    from datasets import Dataset

    about = {"conversations": len(conversations), "max_length": conf.max_length}
    key = _key(conversations, renderer, conf)
    folder = cached("samples", key, lambda staging: _build(conversations, renderer, conf, staging), about)
    arrays = {name: np.load(folder / f"{name}.npy") for name in ARRAYS}
    return Samples(Dataset.from_file(str(folder / "samples.arrow")), **arrays)


def _key(conversations: Conversations, renderer: Renderer, conf: DataConf) -> str:
    package = Path(__file__).parent
    return key_of(
        code_version(
            [Path(__file__), *(package.parent / name for name in ("conversation.py", "encoding.py", "template.py"))],
            ["tokenizers"],
        ),
        conversations.fingerprint,
        conversations.column("id"),
        renderer.fingerprint,
        conf.max_length,
        conf.over_length.name,
    )


@dataclass
class _Batch:
    """Samples of some conversations, laid end to end."""

    ids: list[str]
    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    places: list[int]
    lengths: list[int]
    supervised: list[int]
    given_lengths: list[int]


class _Work:
    """Renders batches of conversations; lives in a process of its own."""

    def __init__(self, renderer: Renderer, max_length: int, over_length: OverLength):
        self.renderer = renderer
        self.max_length = max_length
        self.over_length = over_length

    def __call__(self, conversations: Sequence[Conversation]) -> _Batch:
        given: list[int] = []
        places: list[int] = []
        kept: list[tuple[str, Rendered]] = []
        for place, conversation in enumerate(conversations):
            rendered = self.renderer.render(conversation)
            given.append(len(rendered.input_ids))
            fitted = self._fit(rendered, conversation.id)
            if fitted is not None:
                places.append(place)
                kept.append((conversation.id, fitted))
        lengths = [len(rendered.input_ids) for _, rendered in kept]
        input_ids = np.fromiter(chain.from_iterable(rendered.input_ids for _, rendered in kept), np.int32, sum(lengths))
        labels = np.full(len(input_ids), -100, dtype=np.int32)
        start = 0
        for length, (_, rendered) in zip(lengths, kept, strict=True):
            for turn in rendered.turns:
                supervised = slice(start + turn.start, start + turn.end)
                labels[supervised] = input_ids[supervised]
            start += length
        learned = [sum(turn.end - turn.start for turn in rendered.turns) for _, rendered in kept]
        return _Batch([name for name, _ in kept], input_ids, labels, places, lengths, learned, given)

    def _fit(self, rendered: Rendered, name: str) -> Rendered | None:
        length = len(rendered.input_ids)
        if length <= self.max_length or self.over_length is OverLength.truncate:
            return fit(rendered, self.max_length, self.renderer.end_of_turn_id)
        if self.over_length is OverLength.drop:
            return None
        raise DataError(
            f"{name} has {length} tokens, data.max_length={self.max_length}\n"
            "    fix: data.over_length=drop or truncate, or a larger data.max_length"
        )


def _build(conversations: Conversations, renderer: Renderer, conf: DataConf, folder: Path) -> None:
    import pyarrow as pa

    ids = pa.list_(pa.int32())
    schema = pa.schema({"input_ids": ids, "labels": ids, "length": pa.int64(), "conversation_id": pa.string()})
    arrays: dict[str, list[int]] = {name: [] for name in ARRAYS}
    batches = (conversations[start : start + BATCH] for start in range(0, len(conversations), BATCH))
    make = partial(_Work, renderer, conf.max_length, conf.over_length)
    with counting("tokenizing") as advance, pa.ipc.new_stream(str(folder / "samples.arrow"), schema) as writer:
        for batch in map_batches(make, batches, WORTH_PROCESSES):
            offsets = np.concatenate([[0], np.cumsum(batch.lengths, dtype=np.int32)]).astype(np.int32)
            rows = (pa.ListArray.from_arrays(offsets, values) for values in (batch.input_ids, batch.labels))
            writer.write_batch(pa.record_batch([*rows, pa.array(batch.lengths, pa.int64()), batch.ids], schema=schema))
            done = len(arrays["given_lengths"])
            arrays["places"] += [done + place for place in batch.places]
            for name in ("lengths", "supervised", "given_lengths"):
                arrays[name] += getattr(batch, name)
            advance(len(batch.given_lengths))
    if not arrays["lengths"]:
        raise DataError(
            f"all {len(conversations)} conversations are longer than data.max_length={conf.max_length}\n"
            "    fix: raise data.max_length, or data.over_length=truncate"
        )
    for name, values in arrays.items():
        np.save(folder / name, np.array(values, dtype=np.int64))
