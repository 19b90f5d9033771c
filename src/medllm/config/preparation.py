"""Schemas of how conversations are prepared: cleaned, de-identified, de-duplicated, checked against benchmarks."""

from dataclasses import dataclass, field
from enum import Enum

from medllm.config.conf import Conf, ranged
from medllm.errors import Fault


class Action(Enum):
    """What happens to a conversation that a check finds: nothing, counted and listed in the report, or left out as well."""

    keep = "keep"
    flag = "flag"
    drop = "drop"


@dataclass
class CleaningConf(Conf):
    """Steps of cleaning; the report counts each one.

    The first group changes text, the second judges whole conversations, after the text is clean.

    Attributes:
        unicode: Repairs mojibake; removes control, zero-width, bidirectional and terminal characters; normalises line ends,
            spaces and composed letters.
        html: Removes tags, comments and scripts and resolves entities; comparisons such as `TSH<0.1` stay.
        boilerplate: Removes what forums put around an answer: welcomes, signatures, links to consultations, dangling `-->`.
        glued_sentences: Puts the missing space into `days.I have` and `doctor,I am`; numbers and abbreviations stay.
        special_tokens: Breaks the control tokens of every known chat template (`<|eot_id|>`, `[INST]`) by a space.
        empty: A message without text, or a side that says only a placeholder for it (`nan`, `N/A`, `null`).
        stub: A side that says fewer than `min_words` words in any of its turns, or an answer of courtesies alone.
        min_words: Runs of letters and digits; of scripts without spaces, each character.
        oversized: A conversation of more than `max_characters`.
        max_characters: Room for the longest real conversation.
        repetition: A message that repeats a few words, or holds one of more than 100 characters that is no link.
        echo: An answer that equals its question.
        cut_off: An answer that breaks off in the middle of a sentence.
        swapped_roles: A patient who writes like a doctor, answered by a doctor who writes like a patient.
        prompt_injection: A patient who gives a model orders ("ignore all previous instructions").
        unsafe_advice: A red flag answered without any urgency, or an advice known to harm.
        languages: Two-letter codes to keep; empty keeps all and detects nothing.
    """

    unicode: bool = True
    html: bool = True
    boilerplate: bool = True
    glued_sentences: bool = True
    special_tokens: bool = True
    empty: Action = Action.drop
    stub: Action = Action.drop
    min_words: int = ranged(2, ge=1)
    oversized: Action = Action.drop
    max_characters: int = ranged(40_000, ge=100)
    repetition: Action = Action.drop
    echo: Action = Action.drop
    cut_off: Action = Action.flag
    swapped_roles: Action = Action.flag
    prompt_injection: Action = Action.flag
    unsafe_advice: Action = Action.flag
    languages: list[str] = field(default_factory=list)


class Deidentification(Enum):
    """What happens to identifiers: nothing, counted, replaced by their type (`[PHONE]`), or by invented ones."""

    off = "off"
    count = "count"
    placeholder = "placeholder"
    surrogate = "surrogate"


@dataclass
class DeidentificationConf(Conf):
    """How identifiers in the text are treated.

    Attributes:
        mode: See `Deidentification`.
        seed: Of the surrogates: one name becomes the same other name throughout a data set.
    """

    mode: Deidentification = Deidentification.count
    seed: int = ranged(65, ge=0)


class DuplicateKey(Enum):
    """What makes two conversations copies: the patient's words, or all words."""

    question = "question"
    conversation = "conversation"


@dataclass
class DeduplicationConf(Conf):
    """Which copies are left out, and which conversations must stay on one side of the split.

    Attributes:
        exact: Leave out all but the first of equal conversations, upper case, spaces and punctuation apart.
        near: Leave out all but the first of nearly equal ones.
        by: What is compared; `conversation` keeps several answers to one question.
        threshold: Jaccard similarity of the sets of three-word runs from which two are nearly equal.
        split_threshold: Similarity of questions from which two stay on one side of the split; not above `threshold`. Null:
            only equal questions do, and near copies of the test set are trained on.
    """

    exact: bool = True
    near: bool = True
    by: DuplicateKey = DuplicateKey.question
    threshold: float = ranged(0.8, gt=0, le=1)
    split_threshold: float | None = ranged(0.6, gt=0, le=1)

    def faults(self) -> list[Fault]:
        """What is left out as a copy must not be looser than what stays together."""
        if self.split_threshold is None or self.split_threshold <= self.threshold:
            return []
        return [Fault("split_threshold", "is above the threshold", str(self.split_threshold), f"<= {self.threshold}")]

    @property
    def compares_questions(self) -> bool:
        """Whether anything looks for similar questions."""
        return self.split_threshold is not None or (self.near and self.by is DuplicateKey.question)


@dataclass
class ContaminationConf(Conf):
    """Which benchmark questions must not be in the training data.

    Attributes:
        benchmarks: Files of benchmark questions (.jsonl, .json, .csv, .parquet); empty checks nothing.
        column: Their column with the question.
        action: What happens to a conversation that holds one.
        threshold: Share of a question's eight-word runs found in a conversation from which it counts as held.
    """

    benchmarks: list[str] = field(default_factory=list)
    column: str = "question"
    action: Action = Action.flag
    threshold: float = ranged(0.5, gt=0, le=1)
