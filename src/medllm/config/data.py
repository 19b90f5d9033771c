"""Schemas of the `data` group: where dialogues come from, how they are split, rendered and batched."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from medllm.config.conf import Conf, ranged
from medllm.config.preparation import CleaningConf, ContaminationConf, DeduplicationConf, DeidentificationConf
from medllm.errors import Fault

# Who speaks, as chat templates know them.
ROLES = ("system", "user", "assistant")


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
    """Names of a source's columns; upper case and spaces around them don't matter.

    All names null: recognised by the usual ones (Patient and Doctor, question and answer, instruction, input and output,
    messages, conversations). Where a row has both, its messages win over its pair.

    Attributes:
        patient: The patient's message.
        context: Put below it: the `input` of the instruction format.
        doctor: The doctor's answer.
        messages: A whole conversation as a list of {role, content} or ShareGPT's {from, value}.
        system: A system prompt of the row's own.
        group: An id of the patient or the visit: rows with the same one stay on one side of the split.
        roles: Who speaks under other names: `{nurse: assistant, "other:*": user}`; `*` stands for any ending.
    """

    patient: str | None = None
    context: str | None = None
    doctor: str | None = None
    messages: str | None = None
    system: str | None = None
    group: str | None = None
    roles: dict[str, str] = field(default_factory=dict)

    def faults(self) -> list[Fault]:
        """Who speaks must be somebody a chat template knows."""
        return [
            Fault(f"roles.{name}", "is no role", role, allowed=", ".join(ROLES))
            for name, role in self.roles.items()
            if role not in ROLES
        ]


@dataclass
class DataConf(Conf):
    """What every data source has.

    Attributes:
        cleaning: Which steps clean the text and which conversations they leave out.
        deidentification: What happens to identifiers.
        deduplication: Which copies are left out.
        contamination: Which benchmark questions must not be trained on.
        num_conversations: Draw this many at random; null takes all.
        shuffle_seed: Seed of that draw, and of a mix's.
        eval_fraction: Share held out for evaluation, in [0, 1); near copies of one question, and conversations of one group,
            stay on one side.
        split_seed: Seed of the split, apart from the run's seed, so that a sweep over seeds keeps its test set.
        system_prompt: Put in front of every conversation in training; null leaves it to the chat template.
        max_length: Longest conversation and longest packed row, in tokens.
        over_length: Policy for longer conversations.
        batching: Layout of a micro-batch.
    """

    cleaning: CleaningConf = field(default_factory=CleaningConf)
    deidentification: DeidentificationConf = field(default_factory=DeidentificationConf)
    deduplication: DeduplicationConf = field(default_factory=DeduplicationConf)
    contamination: ContaminationConf = field(default_factory=ContaminationConf)
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
    """Files on this machine; a relative path starts at the project's root.

    Attributes:
        path: A .jsonl, .json, .csv, .tsv or .parquet file, or a folder of them.
        encoding: Of the text files; null detects UTF-8, UTF-16 and cp1252.
        columns: The source's column names.
    """

    path: str = MISSING
    encoding: str | None = None
    columns: ColumnsConf = field(default_factory=ColumnsConf)


@dataclass
class HubDataConf(DataConf):
    """A data set on the Hugging Face hub.

    Attributes:
        dataset: Its id.
        revision: Commit, branch or tag; pin a commit for a result that can be reproduced.
        split: As `datasets.load_dataset` takes it.
        columns: The source's column names.
    """

    dataset: str = MISSING
    revision: str | None = None
    split: str = "all"
    columns: ColumnsConf = field(default_factory=ColumnsConf)


@dataclass
class SourceConf(Conf):
    """One source of a mix: either a `path` or a `dataset`; the other fields as in `LocalDataConf` and `HubDataConf`.

    Attributes:
        weight: Share of the mix relative to the other weights; null for all of them: everything there is.
    """

    path: str | None = None
    encoding: str | None = None
    dataset: str | None = None
    revision: str | None = None
    split: str = "all"
    columns: ColumnsConf = field(default_factory=ColumnsConf)
    weight: float | None = ranged(None, gt=0)

    def faults(self) -> list[Fault]:
        """One place to read from, and only one."""
        if (self.path is None) != (self.dataset is None):
            return []
        value = "neither" if self.path is None else "both"
        return [Fault("path", "and dataset: a source needs one of them", value, fix="give one, leave the other null")]


@dataclass
class MixDataConf(DataConf):
    """Several sources in one data set.

    Attributes:
        sources: By name. With weights, the mix is the largest one of that composition that repeats no conversation.
    """

    sources: dict[str, SourceConf] = field(default_factory=dict)

    def faults(self) -> list[Fault]:
        """At least one source; weights for all or for none."""
        if not self.sources:
            return [Fault("sources", "holds nothing to mix", "{}", fix="data.sources.NAME.path=FILE")]
        without = [name for name, source in self.sources.items() if source.weight is None]
        if without and len(without) < len(self.sources):
            fix = f"data.sources.{without[0]}.weight=1, or no weight at all"
            return [Fault(f"sources.{without[0]}.weight", "is missing while others have one", "null", fix=fix)]
        return []


def sources_of(conf: DataConf) -> dict[str, SourceConf]:
    """Every data set as the sources it is made of; a single one has no name."""
    if isinstance(conf, MixDataConf):
        return conf.sources
    if isinstance(conf, HubDataConf):
        return {"": SourceConf(dataset=conf.dataset, revision=conf.revision, split=conf.split, columns=conf.columns)}
    if isinstance(conf, LocalDataConf):
        return {"": SourceConf(path=conf.path, encoding=conf.encoding, columns=conf.columns)}
    raise TypeError(type(conf).__name__)
