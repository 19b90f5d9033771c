"""How soon somebody needs help, and what the model itself thinks of it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from medllm.conversation import Conversation, Message


class Urgency(IntEnum):
    """Disposition, after the four levels of AcuityBench (arXiv 2605.11398)."""

    A = 0
    B = 1
    C = 2
    D = 3

    @property
    def title(self) -> str:
        """For people."""
        return ("at home", "within weeks", "within 24 to 48 hours", "emergency now")[self]


# What is scored as the model's answer.
OPTIONS = {
    Urgency.A: "Care for it at home, no doctor is needed.",
    Urgency.B: "See a doctor in the next weeks.",
    Urgency.C: "See a doctor within one or two days.",
    Urgency.D: "This is an emergency, call an ambulance now.",
}
_QUESTION = "{text}\n\nHow soon does this person need medical help?"
_NOTHING = "A person asks a question."


class Scored(Protocol):
    """A likelihood, as `evaluation.suite.Likelihood`."""

    @property
    def log_likelihood(self) -> float:
        """Natural logarithm, summed over tokens."""
        ...


Likelihoods = Callable[[Sequence[tuple[Conversation, str]]], Sequence[Scored]]


@dataclass(frozen=True)
class Opinion:
    """Of the model.

    Attributes:
        probabilities: Of A, B, C and D among each other; they sum to 1.
    """

    probabilities: tuple[float, float, float, float]

    def urgency(self, caution: float = 0.5) -> Urgency:
        """The highest level of which, or of a higher one, the probability is at least `1 - caution`; 0.5 is the median."""
        total = 0.0
        for level in reversed(Urgency):
            total += self.probabilities[level]
            if total >= 1 - caution - 1e-12:
                return level
        return Urgency.A


@dataclass
class ModelUrgency:
    """Asks a model by constrained likelihood.

    The score of an option is how much more likely the conversation makes it than a content-free one does: domain-conditional
    pointwise mutual information (Holtzman et al. 2021, arXiv 2104.08315), without which small models name the same option
    whatever they are told.

    Attributes:
        likelihoods: As `Subject.likelihoods`.
    """

    likelihoods: Likelihoods
    _prior: list[float] = field(default_factory=list)

    def opinions(self, conversations: Sequence[Conversation]) -> list[Opinion]:
        """One per conversation; four short likelihoods each, and four more at the first call."""
        if not conversations:
            return []
        asked = [question(conversation) for conversation in conversations]
        if not self._prior:
            asked = [question(Conversation((Message("user", _NOTHING),))), *asked]
        requests = [(conversation, option) for conversation in asked for option in OPTIONS.values()]
        scores = [scored.log_likelihood for scored in self.likelihoods(requests)]
        rows = [scores[i : i + len(OPTIONS)] for i in range(0, len(scores), len(OPTIONS))]
        if not self._prior:
            self._prior, rows = rows[0], rows[1:]
        return [Opinion(_softmax([a - b for a, b in zip(row, self._prior, strict=True)])) for row in rows]


def question(conversation: Conversation) -> Conversation:
    """What the model is asked of a conversation: all that its user wrote, as one message."""
    said = "\n".join(message.content for message in conversation.messages if message.role == "user")
    return Conversation((Message("user", _QUESTION.format(text=said)),), conversation.id)


def _softmax(scores: Sequence[float]) -> tuple[float, float, float, float]:
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    a, b, c, d = (weight / sum(weights) for weight in weights)
    return a, b, c, d
