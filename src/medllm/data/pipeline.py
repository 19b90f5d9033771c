"""The data path from a source to batches, in one function."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medllm.config.data import Batching, DataConf, sources_of
from medllm.conversation import Renderer
from medllm.data.collate import PackCollator, PadCollator
from medllm.data.packing import PackedDataset
from medllm.data.preparation.prepare import prepare
from medllm.data.preparation.report import PreparationReport
from medllm.data.splitting import draw, mix, split
from medllm.data.store import Conversations
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

    conversations: Conversations
    samples: Samples
    dataset: Any

    @property
    def num_tokens(self) -> int:
        """Tokens of all samples."""
        return int(self.samples.lengths.sum())

    @property
    def rows(self) -> list[list[int]]:
        """Which samples each item of `dataset` holds, by index."""
        if isinstance(self.dataset, PackedDataset):
            return self.dataset.rows
        return [[i] for i in range(len(self.dataset))]

    def row_sums(self, of_samples: NDArray[np.int64]) -> list[int]:
        """A number of each sample, such as its length, summed over each item of `dataset`."""
        values = of_samples.tolist()
        return [sum(values[i] for i in row) for row in self.rows]


@dataclass(frozen=True)
class Datasets:
    """Everything training needs to know of the data.

    Attributes:
        train: Training side.
        eval: Held-out side; None if `data.eval_fraction` is 0.
        collate: Makes a batch of items of either side's `dataset`.
        batching: The layout in use, `auto` decided.
        fingerprint: SHA-256 of all conversations drawn, in order.
        report: What preparation did to the rows.
    """

    train: Side
    eval: Side | None
    collate: Callable[[list[Any]], dict[str, Any]]
    batching: Batching
    fingerprint: str
    report: PreparationReport

    @property
    def counts(self) -> dict[str, int]:
        """Conversations by fate, both sides together."""
        sides = [self.train] + ([self.eval] if self.eval else [])
        fates = {name: sum(side.samples.counts[name] for side in sides) for name in self.train.samples.counts}
        return {**fates, "rejected": sum(self.report.rejected.values()), "left out": self.report.left_out}


@dataclass(frozen=True)
class Drawn:
    """The conversations a run draws from what was prepared, before the split.

    Attributes:
        conversations: In the order drawn.
        clusters: Of each.
        report: What preparation did to the rows.
    """

    conversations: Conversations
    clusters: NDArray[np.int64]
    report: PreparationReport


def load_conversations(conf: DataConf) -> Drawn:
    """Prepares the sources, mixes them and draws.

    Raises:
        DataError: if a source cannot be read or holds none.
    """
    prepared = prepare(conf)
    weights = {name: source.weight for name, source in sources_of(conf).items() if source.weight is not None}
    if weights:
        sources = prepared.conversations.column("source")
        absent = [name for name in weights if name not in sources]
        if absent:
            raise DataError(f"data.sources.{absent[0]}: nothing of it is left to mix ({prepared.report.losses})")
        places = mix(sources, weights, conf.shuffle_seed)
    else:
        places = np.arange(len(prepared.conversations))
    places = places[draw(len(places), conf.num_conversations, conf.shuffle_seed)]
    return Drawn(prepared.conversations.take(places), prepared.clusters[places], prepared.report)


def held_out(conf: DataConf, fingerprint: str) -> Conversations:
    """The conversations that a run held out, prepared and split as it did.

    Args:
        conf: The run's `data` group.
        fingerprint: Of all that it drew.

    Raises:
        DataError: if it held out nothing, or its data cannot be read or have changed, so that some may have been trained on.
    """
    fix = "\n    fix: evaluation.conversation.path=FILE, with conversations that were not trained on"
    if not conf.eval_fraction:
        raise DataError(f"the run held out no conversations (data.eval_fraction=0){fix}")
    try:
        drawn = load_conversations(conf)
    except DataError as error:
        raise DataError(f"the run's data cannot be read again: {error}{fix}") from None
    if drawn.conversations.fingerprint != fingerprint:
        raise DataError(
            "the run's data, or how they are prepared, have changed since it was trained: what was held out then cannot be "
            f"told from what was trained on (fingerprint {drawn.conversations.fingerprint[:12]}, then {fingerprint[:12]}){fix}"
        )
    return drawn.conversations.take(split(drawn.clusters.tolist(), conf.eval_fraction, conf.split_seed)[1])


def build_datasets(conf: DataConf, renderer: Renderer, batching: Batching, seed: int) -> Datasets:
    """Reads, prepares, draws, splits, renders and lays out the data.

    Args:
        conf: The `data` group.
        renderer: Of the base model's tokenizer, with the training system prompt.
        batching: The layout, `auto` already decided.
        seed: Of the packing.

    Raises:
        DataError: if there is nothing to train on, or nothing held out although a share was asked for.
    """
    drawn = load_conversations(conf)
    train, held_out = split(drawn.clusters.tolist(), conf.eval_fraction, conf.split_seed)
    if conf.eval_fraction and not len(held_out):
        raise DataError(
            f"data.eval_fraction={conf.eval_fraction} of {len(drawn.conversations)} conversations, "
            f"{len(np.unique(drawn.clusters))} of them with different questions, leaves none to evaluate on "
            f"({drawn.report.losses})\n"
            "    fix: more data, raise data.eval_fraction, or data.eval_fraction=0 trainer.eval_strategy=no"
        )
    if not len(train):
        raise DataError(f"data.eval_fraction={conf.eval_fraction} leaves nothing to train on")
    collate: Callable[[list[Any]], dict[str, Any]] = PackCollator()
    if batching is not Batching.packed:
        tokenizer = renderer.tokenizer
        pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else renderer.end_of_turn_id
        collate = PadCollator(pad_token_id, conf.max_length if batching is Batching.max_length else None)

    samples = tokenize(drawn.conversations, renderer, conf)

    def side(places: NDArray[np.int64], name: str) -> Side:
        part = samples.take(places)
        if not len(part.rows):
            raise DataError(
                f"all {len(places)} conversations {name} are longer than data.max_length={conf.max_length}\n"
                "    fix: raise data.max_length, or data.over_length=truncate"
            )
        conversations = drawn.conversations.take(places)
        if batching is not Batching.packed:
            return Side(conversations, part, part.rows)
        return Side(conversations, part, PackedDataset(part.rows, part.lengths.tolist(), conf.max_length, seed))

    return Datasets(
        train=side(train, "to train on"),
        eval=side(held_out, "held out") if len(held_out) else None,
        collate=collate,
        batching=batching,
        fingerprint=drawn.conversations.fingerprint,
        report=drawn.report,
    )
