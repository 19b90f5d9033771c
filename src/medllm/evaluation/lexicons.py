"""Lexicons: what is found in a text by regular expressions, and how far that can be trusted.

Each lexicon comes with sentences labelled by hand, half of which played no part in writing its expressions. Its precision and
recall on that half stand beside the figures that were made with it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files

from medllm.config.evaluation.lexicon import LexiconConf
from medllm.intervals import Interval, wilson


@dataclass(frozen=True)
class Lexicon:
    """Compiled expressions.

    Attributes:
        name: Of its file.
        conf: Its expressions.
    """

    name: str
    conf: LexiconConf

    @cached_property
    def _expressions(self) -> tuple[re.Pattern[str], re.Pattern[str] | None]:
        find, unless = (
            re.compile("|".join(f"(?:{p})" for p in patterns), re.IGNORECASE) if patterns else None
            for patterns in (self.conf.patterns, self.conf.unless)
        )
        assert find is not None  # the schema refuses a lexicon without patterns
        return find, unless

    def matches(self, text: str) -> list[str]:
        """What is found, in order; typographic apostrophes count as plain ones."""
        text = text.replace("\u2019", "'")
        find, unless = self._expressions
        barred = [match.span() for match in unless.finditer(text)] if unless else []
        return [
            match[0]
            for match in find.finditer(text)
            if not any(match.start() < end and start < match.end() for start, end in barred)
        ]


@dataclass(frozen=True)
class Share:
    """A share with its 95 % interval (Wilson).

    Attributes:
        hits: Of `count`.
        count: May be 0, then value and interval are not known.
    """

    hits: int
    count: int

    @property
    def value(self) -> float:
        """In [0, 1]; NaN of nothing."""
        return self.hits / self.count if self.count else float("nan")

    @property
    def interval(self) -> Interval:
        """95 %."""
        return wilson(self.hits, self.count) if self.count else Interval(0.0, 1.0)


@dataclass(frozen=True)
class Validity:
    """How a lexicon does on its labelled examples.

    Attributes:
        version: Of the lexicon.
        precision: Of the examples where it finds something, those where it should.
        recall: Of the examples where it should, those where it does.
        n: Examples.
        wrong: Ids of the others.
    """

    version: int
    precision: Share
    recall: Share
    n: int
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class Example:
    """A labelled text.

    Attributes:
        id: In its file.
        text: One or a few sentences of an answer.
        label: Whether the lexicon should find something.
        held_out: Whether it played no part in writing the expressions.
    """

    id: str
    text: str
    label: bool
    held_out: bool


def load_examples(name: str) -> list[Example]:
    """The labelled examples of a lexicon that ship with medllm; none of one that users added."""
    place = files("medllm").joinpath("items", "lexicon", f"{name}.jsonl")
    if not place.is_file():
        return []
    return [Example(**json.loads(line)) for line in place.read_text(encoding="utf-8").splitlines()]


def validate(lexicon: Lexicon, examples: list[Example]) -> Validity:
    """Precision and recall on these examples."""
    found = {example.id: bool(lexicon.matches(example.text)) for example in examples}
    right = [example for example in examples if example.label and found[example.id]]
    precision = Share(len(right), sum(found.values()))
    recall = Share(len(right), sum(example.label for example in examples))
    wrong = tuple(example.id for example in examples if found[example.id] != example.label)
    return Validity(lexicon.conf.version, precision, recall, len(examples), wrong)


def build_lexicons(confs: Mapping[str, LexiconConf]) -> dict[str, Lexicon]:
    """By name."""
    return {name: Lexicon(name, conf) for name, conf in confs.items()}


def validities(lexicons: Mapping[str, Lexicon]) -> dict[str, Validity]:
    """Of each lexicon with examples, on the half that was held out."""
    examples = {name: [e for e in load_examples(name) if e.held_out] for name in lexicons}
    return {name: validate(lexicons[name], held_out) for name, held_out in examples.items() if held_out}
