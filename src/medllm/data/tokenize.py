"""Conversations become samples: ids and labels, with the over-length policy applied and counted, cached on disk."""

import json
from collections import Counter
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


@dataclass(frozen=True)
class Samples:
    """Tokenized conversations.

    Attributes:
        rows: A `datasets.Dataset` with `input_ids` and `labels` (int32 lists), `length` and `conversation_id`.
        counts: `kept`, `truncated`, `dropped`: what the over-length policy did.
        lengths: Tokens of each row.
        given_lengths: Tokens of each conversation before that policy.
        num_supervised: Tokens that are learned.
    """

    rows: Any
    counts: dict[str, int]
    lengths: NDArray[np.int64]
    given_lengths: NDArray[np.int64]
    num_supervised: int


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
    counts = json.loads((folder / "counts.json").read_text())
    return Samples(
        rows=Dataset.from_file(str(folder / "samples.arrow")),
        counts=counts["fates"],
        lengths=np.load(folder / "lengths.npy"),
        given_lengths=np.load(folder / "given_lengths.npy"),
        num_supervised=counts["supervised"],
    )


def _key(conversations: Conversations, renderer: Renderer, conf: DataConf) -> str:
    tokenizer = renderer.tokenizer
    package = Path(__file__).parent
    return key_of(
        code_version(
            [Path(__file__), *(package.parent / name for name in ("conversation.py", "encoding.py"))], ["tokenizers"]
        ),
        conversations.fingerprint,
        conversations.column("id"),
        tokenizer.backend_tokenizer.to_str(),
        tokenizer.chat_template,
        renderer.system_prompt,
        conf.max_length,
        conf.over_length.name,
    )


@dataclass
class _Batch:
    """Samples of some conversations, laid end to end."""

    ids: list[str]
    lengths: list[int]
    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    given_lengths: list[int]
    fates: Counter[str]


class _Work:
    """Renders batches of conversations; lives in a process of its own."""

    def __init__(self, renderer: Renderer, max_length: int, over_length: OverLength):
        self.renderer = renderer
        self.max_length = max_length
        self.over_length = over_length

    def __call__(self, conversations: Sequence[Conversation]) -> _Batch:
        given, fates = [], Counter(kept=0, truncated=0, dropped=0)
        kept: list[tuple[str, Rendered]] = []
        for conversation in conversations:
            rendered = self.renderer.render(conversation)
            given.append(len(rendered.input_ids))
            fitted = self._fit(rendered, conversation.id)
            if fitted is None:
                fates["dropped"] += 1
                continue
            fates["kept"] += 1
            fates["truncated"] += fitted is not rendered
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
        return _Batch([name for name, _ in kept], lengths, input_ids, labels, given, fates)

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
    fates, supervised = Counter[str](), 0
    lengths: list[int] = []
    given: list[int] = []
    batches = (conversations[start : start + BATCH] for start in range(0, len(conversations), BATCH))
    make = partial(_Work, renderer, conf.max_length, conf.over_length)
    with counting("tokenizing") as advance, pa.ipc.new_stream(str(folder / "samples.arrow"), schema) as writer:
        for batch in map_batches(make, batches, WORTH_PROCESSES):
            offsets = np.concatenate([[0], np.cumsum(batch.lengths, dtype=np.int32)]).astype(np.int32)
            rows = (pa.ListArray.from_arrays(offsets, values) for values in (batch.input_ids, batch.labels))
            writer.write_batch(pa.record_batch([*rows, pa.array(batch.lengths, pa.int64()), batch.ids], schema=schema))
            fates.update(batch.fates)
            supervised += int((batch.labels != -100).sum())
            lengths += batch.lengths
            given += batch.given_lengths
            advance(len(batch.given_lengths))
    if not lengths:
        raise DataError(
            f"all {len(conversations)} conversations are longer than data.max_length={conf.max_length}\n"
            "    fix: raise data.max_length, or data.over_length=truncate"
        )
    np.save(folder / "lengths.npy", np.array(lengths, dtype=np.int64))
    np.save(folder / "given_lengths.npy", np.array(given, dtype=np.int64))
    (folder / "counts.json").write_text(json.dumps({"fates": fates, "supervised": supervised}))
