"""What a suite is: items, and what each of them shows of a model.

A figure is a sum over items divided by another one, never a mean of means: `values` of an item hold both parts. Items that say
nothing of a metric leave it out. So recall is a sum over the items that it is about, bits per byte one of bits over one of bytes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from medllm.conversation import Conversation
from medllm.inference.generate import Answer


class Better(Enum):
    """Which way a metric improves."""

    higher = "higher"
    lower = "lower"
    neither = "neither"


class Side(Enum):
    """Who answers: one loaded model, its adapter switched off and on, and the tuned one behind the guard."""

    base = "base"
    tuned = "tuned"
    guarded = "guarded"


@dataclass(frozen=True)
class Metric:
    """One figure of a suite.

    Attributes:
        name: In records and files, as `safety/emergency_recall`.
        title: In tables and on the page.
        better: Which way it improves.
        proportion: Whether each item is counted or not, so that its interval is Wilson's.
        exponential: Whether it is shown as e to the power of its ratio, as a perplexity is.
        clipped: Whether it is shown within [0, 1] though its ratio may lie outside, as HealthBench's scores are.
    """

    name: str
    title: str
    better: Better
    proportion: bool = False
    exponential: bool = False
    clipped: bool = False


@dataclass(frozen=True)
class Item:
    """One thing that is asked.

    Attributes:
        id: Stable: the same content has the same id.
        conversation: Ends with a user message.
        fields: What its outcome is measured against: references, labels, options.
    """

    id: str
    conversation: Conversation
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What an item showed of one side.

    Attributes:
        values: Metric name to (numerator, denominator).
        details: For the reader, as JSON: the answer, scores of options, what was found in it.
    """

    values: dict[str, tuple[float, float]]
    details: dict[str, Any]


@dataclass(frozen=True)
class Likelihood:
    """Of a continuation.

    Attributes:
        log_likelihood: Natural logarithm, summed over its tokens.
        num_tokens: Its tokens.
        num_bytes: Of its text in UTF-8.
    """

    log_likelihood: float
    num_tokens: int
    num_bytes: int


class Subject(Protocol):
    """One side of the model that is being evaluated.

    Attributes:
        side: Which.
        model: transformers' or peft's, in evaluation mode, its adapter switched as the side asks.
        renderer: Turns conversations into token ids.
        batch_size: Of answers and likelihoods.
    """

    side: Side
    model: Any
    renderer: Any
    batch_size: int

    def answers(self, conversations: Sequence[Conversation]) -> list[Answer]:
        """Greedy answers of the model. A suite that asks the guarded side puts its guard around them."""
        ...

    def likelihoods(self, requests: Sequence[tuple[Conversation, str]]) -> list[Likelihood]:
        """Of each text as the assistant's answer to its conversation, without the end of the turn."""
        ...


class Suite(Protocol):
    """Items and their measurement.

    Attributes:
        name: Of the suite.
        metrics: All that its outcomes may hold.
        sides: Who is asked.
    """

    name: str
    metrics: tuple[Metric, ...]
    sides: tuple[Side, ...]

    def items(self) -> list[Item]:
        """All of them, in a fixed order.

        Raises:
            MedLLMError: naming the file that is missing or unreadable.
        """
        ...

    def measurable(self, items: Sequence[Item]) -> set[str]:
        """Names of the metrics that answers to these items can come to while a model is trained, with nobody to grade them."""
        ...

    def outcomes(self, subject: Subject, items: Sequence[Item]) -> Iterator[tuple[Item, Outcome]]:
        """What each item showed, as soon as it is known: what was yielded is not asked again after an interruption."""
        ...
