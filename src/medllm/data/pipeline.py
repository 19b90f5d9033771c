"""The data path from a source to batches, in one function."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from medllm.config.data import Batching, DataConf
from medllm.conversation import Conversation, Renderer
from medllm.data.collate import PackCollator, PadCollator
from medllm.data.messages import build_conversations
from medllm.data.packing import PackedDataset
from medllm.data.sources import read_rows
from medllm.data.splitting import draw, fingerprint, question_key, split
from medllm.data.tokenize import Samples, tokenize
from medllm.errors import DataError


@dataclass(frozen=True)
class Side:
    """The training or the held-out side of the data.

    Attributes:
        conversations: What it was made of, before the over-length policy.
        samples: Tokenized.
        dataset: What a data loader draws from: rows of samples if packed, else samples.
    """

    conversations: list[Conversation]
    samples: Samples
    dataset: Any

    @property
    def num_tokens(self) -> int:
        """Tokens of all samples."""
        return int(sum(self.samples.rows["length"]))


@dataclass(frozen=True)
class Datasets:
    """Everything training needs to know of the data.

    Attributes:
        train: Training side.
        eval: Held-out side; None if `data.eval_fraction` is 0.
        collate: Makes a batch of items of either side's `dataset`.
        batching: The layout in use, `auto` decided.
        fingerprint: SHA-256 of all conversations drawn, in order.
        rejected: Rows that are no conversation, by reason.
    """

    train: Side
    eval: Side | None
    collate: Callable[[list[Any]], dict[str, Any]]
    batching: Batching
    fingerprint: str
    rejected: dict[str, int]

    @property
    def counts(self) -> dict[str, int]:
        """Conversations by fate, both sides together."""
        sides = [self.train] + ([self.eval] if self.eval else [])
        fates = {name: sum(side.samples.counts[name] for side in sides) for name in self.train.samples.counts}
        return {**fates, "rejected": sum(self.rejected.values())}


def load_conversations(conf: DataConf) -> tuple[list[Conversation], dict[str, int]]:
    """The conversations a run draws from its source, before the split, and the rows rejected by reason.

    Raises:
        DataError: if the source cannot be read or holds none.
    """
    conversations, rejected = build_conversations(read_rows(conf), conf.columns)
    return draw(conversations, conf.num_conversations, conf.shuffle_seed), dict(rejected)


def _reasons(rejected: dict[str, int]) -> str:
    if not rejected:
        return "no row was rejected"
    return "rows rejected: " + ", ".join(f"{count} {reason}" for reason, count in rejected.items())


def build_datasets(conf: DataConf, renderer: Renderer, batching: Batching, seed: int) -> Datasets:
    """Reads, draws, splits, renders and lays out the data.

    Args:
        conf: The `data` group.
        renderer: Of the base model's tokenizer, with the training system prompt.
        batching: The layout, `auto` already decided.
        seed: Of the packing.

    Raises:
        DataError: if there is nothing to train on, or nothing held out although a share was asked for.
    """
    conversations, rejected = load_conversations(conf)
    train, held_out = split(conversations, conf.eval_fraction, conf.split_seed)
    if conf.eval_fraction and not held_out:
        raise DataError(
            f"data.eval_fraction={conf.eval_fraction} of {len(conversations)} conversations, "
            f"{len({question_key(c) for c in conversations})} of them with different questions, leaves none to evaluate on "
            f"({_reasons(rejected)})\n"
            "    fix: more data, raise data.eval_fraction, or data.eval_fraction=0 trainer.eval_strategy=no"
        )
    if not train:
        raise DataError(f"data.eval_fraction={conf.eval_fraction} leaves nothing to train on")
    collate: Callable[[list[Any]], dict[str, Any]] = PackCollator()
    if batching is not Batching.packed:
        tokenizer = renderer.tokenizer
        pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else renderer.end_of_turn_id
        collate = PadCollator(pad_token_id, conf.max_length if batching is Batching.max_length else None)

    def side(part: list[Conversation]) -> Side:
        samples = tokenize(part, renderer, conf)
        packed = batching is Batching.packed
        return Side(part, samples, PackedDataset(samples.rows, conf.max_length, seed) if packed else samples.rows)

    return Datasets(
        train=side(train),
        eval=side(held_out) if held_out else None,
        collate=collate,
        batching=batching,
        fingerprint=fingerprint(conversations),
        rejected=rejected,
    )
