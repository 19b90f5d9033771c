"""Finds copies and near copies of texts.

    text -> words -> set of three-word runs -> MinHash signature -> bands -> candidates -> Jaccard similarity of the sets

Two texts of similarity s agree in one entry of a signature with probability s (Broder 1997). A signature is cut into b bands
of r entries; texts that agree in a whole band are candidates, which happens with probability 1 - (1 - s^r)^b (Leskovec,
Rajaraman, Ullman: Mining of Massive Datasets, chapter 3). Candidates are compared exactly, so no pair is a false one.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from medllm.config.preparation import DuplicateKey
from medllm.conversation import Conversation

SIGNATURE = 128
NO_LETTERS = bytes(code for code in range(128) if not chr(code).isalnum())
RUN = 3
# A text is compared with this many different ones of its band; copies of one text count as one.
MOST_COMPARISONS = 50

Shingles = frozenset[str]


def compared_text(conversation: Conversation, by: DuplicateKey) -> str:
    """The words that are compared: the patient's, or everybody's but the system prompt's."""
    roles = ("user",) if by is DuplicateKey.question else ("user", "assistant")
    return " ".join(message.content for message in conversation.messages if message.role in roles)


def words(text: str) -> list[str]:
    """Lower-case words; punctuation, spaces and underscores count for nothing."""
    return re.findall(r"[^\W_]+", text.lower())


def exact_key(text: str) -> bytes:
    """Equal for texts that have the same letters and digits in a row, whatever their case (16 bytes)."""
    lowered = text.lower()
    letters = lowered.encode().translate(None, NO_LETTERS) if lowered.isascii() else "".join(words(text)).encode()
    return hashlib.blake2b(letters, digest_size=16).digest()


def shingles(text: str) -> Shingles:
    """The set of three-word runs; a shorter text is its own only one."""
    found = words(text)
    if len(found) < RUN:
        return frozenset([" ".join(found)])
    return frozenset(map(" ".join, zip(found, found[1:], found[2:], strict=False)))


def jaccard(a: Shingles, b: Shingles) -> float:
    """Shared elements over all elements, in [0, 1]."""
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


def signatures(texts: Sequence[str]) -> NDArray[np.uint32]:
    """MinHash signatures, (number of texts, 128)."""
    if not texts:
        return np.empty((0, SIGNATURE), dtype=np.uint32)
    sets = [list(shingles(text)) for text in texts]
    return np.array(RMinHash.digests_from_token_sets(sets, SIGNATURE, 65), dtype=np.uint32)


def rows_per_band(threshold: float) -> int:
    """The most selective of the cuts whose steepest similarity, (1/b)^(1/r), lies well below the threshold."""
    return next((r for r in (8, 4) if (r / SIGNATURE) ** (1 / r) <= 0.75 * threshold), 2)


def similar_pairs(
    signature: NDArray[np.uint32], text_of: Callable[[int], str], threshold: float
) -> Iterator[tuple[int, int, float]]:
    """Pairs (earlier, later, similarity) of at least `threshold`, enough of them to connect all that are similar.

    Args:
        signature: One row per text, of `signatures`.
        text_of: The text of a row; asked for candidates only.
        threshold: Smallest similarity, in (0, 1].
    """
    known: dict[tuple[int, int], float] = {}
    cached = lru_cache(maxsize=20_000)(lambda row: shingles(text_of(row)))
    for bucket in _buckets(signature, rows_per_band(threshold)):
        different: list[int] = []
        for row in bucket:
            for other in different[:MOST_COMPARISONS]:
                pair = (other, row)
                if pair not in known:
                    known[pair] = jaccard(cached(other), cached(row))
                    if known[pair] >= threshold:
                        yield other, row, known[pair]
                if known[pair] >= threshold:
                    break
            else:
                different.append(row)


def _buckets(signature: NDArray[np.uint32], rows: int) -> Iterator[list[int]]:
    """Groups of rows that agree in a band, each in ascending order."""
    for start in range(0, SIGNATURE, rows):
        band = np.ascontiguousarray(signature[:, start : start + rows])
        # Two entries make a number that sorts fast; a clash of the mix of four only adds a candidate.
        halves = band.view(np.uint64)
        keys = halves[:, 0]
        for column in halves.T[1:]:
            keys = keys * np.uint64(0x9E3779B97F4A7C15) + column
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        borders = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
        starts, ends = np.concatenate([[0], borders]), np.concatenate([borders, [len(order)]])
        for i in np.flatnonzero(ends - starts > 1):
            yield order[starts[i] : ends[i]].tolist()


class Clusters:
    """Which rows belong together (union-find with path halving); a cluster is known by its first row."""

    def __init__(self, size: int):
        self._parent = list(range(size))

    def join(self, a: int, b: int) -> None:
        """Makes the clusters of two rows one."""
        a, b = self.first(a), self.first(b)
        self._parent[max(a, b)] = min(a, b)

    def first(self, row: int) -> int:
        """The first row of the row's cluster."""
        parent = self._parent
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    def labels(self) -> NDArray[np.int64]:
        """The cluster of every row."""
        return np.fromiter((self.first(row) for row in range(len(self._parent))), dtype=np.int64)
