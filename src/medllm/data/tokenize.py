"""Conversations become samples: ids and labels, with the over-length policy applied and counted, cached on disk."""

import hashlib
import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from medllm.cache import cache_dir
from medllm.config.data import DataConf, OverLength
from medllm.conversation import Conversation, Rendered, Renderer, Turn
from medllm.data.splitting import fingerprint
from medllm.errors import DataError

# Part of the cache's key: raise it when rendering changes, so that no stale sample survives an update.
FORMAT = 1


@dataclass(frozen=True)
class Samples:
    """Tokenized conversations.

    Attributes:
        rows: A `datasets.Dataset` with `input_ids` and `labels` (int32 lists), `length` and `conversation_id`.
        counts: `kept`, `truncated`, `dropped`: what the over-length policy did.
    """

    rows: Any
    counts: dict[str, int]


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


def tokenize(conversations: list[Conversation], renderer: Renderer, conf: DataConf) -> Samples:
    """Samples of these conversations, from the cache if the same work was done before.

    Raises:
        DataError: if a conversation is too long under `over_length=error`, or if none is left.
    """
    from datasets import Dataset

    folder = cache_dir() / "samples" / _key(conversations, renderer, conf)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # points of a sweep may start together; one of them does the work
        if not folder.is_dir():
            rows, counts = _render_all(conversations, renderer, conf)
            _write(Dataset.from_list(rows), counts, folder)
    dataset = Dataset.load_from_disk(str(folder))
    return Samples(dataset, _read_counts(folder))


def _render_all(
    conversations: list[Conversation], renderer: Renderer, conf: DataConf
) -> tuple[list[dict[str, Any]], Counter[str]]:
    rows: list[dict[str, Any]] = []
    counts = Counter(kept=0, truncated=0, dropped=0)
    for conversation in conversations:
        rendered = renderer.render(conversation)
        length = len(rendered.input_ids)
        if length > conf.max_length:
            if conf.over_length is OverLength.error:
                raise DataError(
                    f"{conversation.id} has {length} tokens, data.max_length={conf.max_length}\n"
                    "    fix: data.over_length=drop or truncate, or a larger data.max_length"
                )
            fitted = fit(rendered, conf.max_length, renderer.end_of_turn_id)
            if conf.over_length is OverLength.drop or fitted is None:
                counts["dropped"] += 1
                continue
            counts["truncated"] += 1
            rendered = fitted
        counts["kept"] += 1
        ids = rendered.input_ids
        row = {"input_ids": ids, "labels": rendered.labels, "length": len(ids), "conversation_id": conversation.id}
        rows.append(row)
    if not rows:
        raise DataError(
            f"all {len(conversations)} conversations are longer than data.max_length={conf.max_length}\n"
            "    fix: raise data.max_length, or data.over_length=truncate"
        )
    return rows, counts


def _key(conversations: list[Conversation], renderer: Renderer, conf: DataConf) -> str:
    tokenizer = renderer.tokenizer
    parts = (
        FORMAT,
        fingerprint(conversations),
        [c.id for c in conversations],
        tokenizer.backend_tokenizer.to_str(),
        tokenizer.chat_template,
        renderer.system_prompt,
        conf.max_length,
        conf.over_length.name,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _write(dataset: Any, counts: Counter[str], folder: Path) -> None:
    """Written beside its place and moved there at once, so that a reader never meets half a folder."""
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=folder.parent))
    dataset.save_to_disk(str(staging))
    (staging / "counts.json").write_text(json.dumps(counts))
    staging.rename(folder)


def _read_counts(folder: Path) -> dict[str, int]:
    return dict(json.loads((folder / "counts.json").read_text()))
