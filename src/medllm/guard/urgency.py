"""How soon somebody needs help, and what the model itself thinks of it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class ModelUrgency:
    """Asks a model by constrained likelihood: how likely each option is as its answer, of the four alone.

    Subtracting what a content-free message makes likely (Holtzman et al. 2021, arXiv 2104.08315) was tried on a model of 135
    million parameters, and lost what it knew; see docs/guard.md.

    Attributes:
        likelihoods: As `Subject.likelihoods`.
    """

    likelihoods: Likelihoods

    def opinions(self, conversations: Sequence[Conversation]) -> list[Opinion]:
        """One per conversation, for four short likelihoods each."""
        if not conversations:
            return []
        requests = [(question(c), option) for c in conversations for option in OPTIONS.values()]
        scores = [scored.log_likelihood for scored in self.likelihoods(requests)]
        return [Opinion(_softmax(scores[i : i + len(OPTIONS)])) for i in range(0, len(scores), len(OPTIONS))]


def question(conversation: Conversation) -> Conversation:
    """What the model is asked of a conversation: all that its user wrote, as one message."""
    said = "\n".join(message.content for message in conversation.messages if message.role == "user")
    return Conversation((Message("user", _QUESTION.format(text=said)),), conversation.id)


def _softmax(scores: Sequence[float]) -> tuple[float, float, float, float]:
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    a, b, c, d = (weight / sum(weights) for weight in weights)
    return a, b, c, d
