"""Schemas of the `data` group: where dialogues come from, how they are split, rendered and batched."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from medllm.config.conf import Conf, ranged


class OverLength(Enum):
    """What happens to a conversation longer than `max_length` tokens."""

    drop = "drop"
    truncate = "truncate"
    error = "error"


class Batching(Enum):
    """How conversations share a micro-batch.

    packed: rows of up to `max_length` tokens, filled best-fit, nothing split, nothing padded, none sees another.
    length_grouped: padded to the longest, neighbours of similar length.
    padded: padded to the longest, in random order.
    max_length: every conversation padded to `max_length`, as the guide's notebook does.
    auto: packed where model and adapter keep conversations apart, else length_grouped.
    """

    auto = "auto"
    packed = "packed"
    length_grouped = "length_grouped"
    padded = "padded"
    max_length = "max_length"


@dataclass
class ColumnsConf(Conf):
    """Names of the source's columns.

    Attributes:
        patient: The patient's message.
        doctor: The doctor's answer.
        messages: A whole conversation as a list of {role, content}; where a row has one, it wins. Null: none.
    """

    patient: str = "Patient"
    doctor: str = "Doctor"
    messages: str | None = None


@dataclass
class DataConf(Conf):
    """What every data source has.

    Attributes:
        columns: The source's column names.
        num_conversations: Draw this many at random; null takes all.
        shuffle_seed: Seed of that draw.
        eval_fraction: Share held out for evaluation, in [0, 1); copies of one question stay on one side.
        split_seed: Seed of the split, apart from the run's seed, so that a sweep over seeds keeps its test set.
        system_prompt: Put in front of every conversation in training; null leaves it to the chat template.
        max_length: Longest conversation and longest packed row, in tokens.
        over_length: Policy for longer conversations.
        batching: Layout of a micro-batch.
    """

    columns: ColumnsConf = field(default_factory=ColumnsConf)
    num_conversations: int | None = ranged(None, ge=2)
    shuffle_seed: int = ranged(65, ge=0)
    eval_fraction: float = ranged(0.1, ge=0, lt=1)
    split_seed: int = ranged(65, ge=0)
    system_prompt: str | None = None
    max_length: int = ranged(512, ge=16)
    over_length: OverLength = OverLength.drop
    batching: Batching = Batching.auto


@dataclass
class LocalDataConf(DataConf):
    """A file on this machine: .jsonl, .json, .csv, .tsv or .parquet; a relative path starts at the project's root."""

    path: str = MISSING


@dataclass
class HubDataConf(DataConf):
    """A data set on the Hugging Face hub.

    Attributes:
        dataset: Its id.
        revision: Commit, branch or tag; pin a commit for a result that can be reproduced.
        split: As `datasets.load_dataset` takes it.
    """

    dataset: str = MISSING
    revision: str | None = None
    split: str = "all"
