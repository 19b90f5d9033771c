"""Conversations on disk: written as a stream, read lazily, so that a data set need not fit into memory."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from medllm.conversation import Conversation, Message
from medllm.data.messages import Entry

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "source": pa.string(),
        "digest": pa.binary(16),
        "roles": pa.list_(pa.string()),
        "contents": pa.list_(pa.string()),
    }
)


def record_batch(entries: Sequence[Entry]) -> Any:
    """Conversations as an Arrow record batch of `SCHEMA`."""
    conversations = [entry.conversation for entry in entries]
    messages = [message for conversation in conversations for message in conversation.messages]
    offsets = pa.array(np.cumsum([0, *(len(conversation.messages) for conversation in conversations)]), pa.int32())
    lists = (
        pa.ListArray.from_arrays(offsets, pa.array(texts, pa.string()))
        for texts in ([message.role for message in messages], [message.content for message in messages])
    )
    names = pa.array([conversation.id for conversation in conversations], pa.string())
    sources = pa.array([entry.source for entry in entries], pa.string())
    digests = pa.array([_digest(conversation) for conversation in conversations], pa.binary(16))
    return pa.record_batch([names, sources, digests, *lists], schema=SCHEMA)


def _digest(conversation: Conversation) -> bytes:
    texts = (part for message in conversation.messages for part in (message.role, message.content))
    return hashlib.blake2b("\x1f".join(texts).encode(), digest_size=16).digest()


class Conversations(Sequence[Conversation]):
    """A lazy sequence of conversations: rows of an Arrow table in the order of `rows`.

    Attributes:
        table: Of `SCHEMA`, usually a memory-mapped file.
        rows: Which rows of the table, and in which order.
        path: The file, if there is one: another process is sent its path instead of the text.
    """

    def __init__(self, table: Any, rows: NDArray[np.int64], path: Path | None = None):
        self.table = table
        self.rows = rows
        self.path = path

    @classmethod
    def open(cls, path: Path, rows: NDArray[np.int64]) -> "Conversations":
        """Rows of a file written by an Arrow stream writer."""
        return cls(_open_table(path), rows, path)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.path is None:
            return Conversations, (self.table, self.rows)
        return Conversations.open, (self.path, self.rows)

    @classmethod
    def of(cls, conversations: Sequence[Conversation]) -> "Conversations":
        """The same sequence in memory, to hand single conversations to what expects a prepared set."""
        table = pa.Table.from_batches([record_batch([Entry(conversation) for conversation in conversations])])
        return cls(table, np.arange(len(conversations)))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all roles and texts in order: two runs with the same one saw the same data."""
        return hashlib.sha256(b"".join(self.column("digest"))).hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Conversation: ...
    @overload
    def __getitem__(self, index: slice) -> "Conversations": ...
    def __getitem__(self, index: int | slice) -> "Conversation | Conversations":
        """One conversation, or a part of the sequence that stays lazy."""
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return next(_conversations(self._read(self.rows[[index]])))

    def __iter__(self) -> Iterator[Conversation]:
        for start in range(0, len(self), 1000):
            yield from _conversations(self._read(self.rows[start : start + 1000]))

    @cached_property
    def _batches(self) -> tuple[list[Any], NDArray[np.int64]]:
        """The batches of the table, and the row at which each begins."""
        batches = self.table.to_batches()
        return batches, np.cumsum([0, *map(len, batches)])

    def _read(self, rows: NDArray[np.int64]) -> Any:
        """Some rows of the table; `Table.take` would join all its batches first, which takes long and ends at 2 GiB."""
        batches, starts = self._batches
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        holders = np.searchsorted(starts, ordered, side="right") - 1
        parts = [batches[i].take(pa.array(ordered[holders == i] - starts[i])) for i in np.unique(holders)]
        return pa.Table.from_batches(parts, schema=self.table.schema).take(np.argsort(order))

    def take(self, places: NDArray[np.int64]) -> "Conversations":
        """Those at these places of this sequence."""
        return Conversations(self.table, self.rows[places], self.path)

    def column(self, name: str) -> list[Any]:
        """One column of the table, for these rows."""
        return list(self.table.column(name).take(pa.array(self.rows)).to_pylist())


def _conversations(table: Any) -> Iterator[Conversation]:
    columns = (table.column(name).to_pylist() for name in ("id", "roles", "contents"))
    for name, roles, contents in zip(*columns, strict=True):
        yield Conversation(tuple(map(Message, roles, contents)), name)


@lru_cache(maxsize=4)
def _open_table(path: Path) -> Any:
    return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
