"""Outcomes made by hand, for the tests of what is made of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from medllm.config.evaluation import EvaluateConf
from medllm.conversation import Conversation, Message
from medllm.evaluation.figures import Measured, measure
from medllm.evaluation.items import Outcomes
from medllm.evaluation.run import Evaluation, evaluating
from medllm.evaluation.suite import Better, Item, Metric, Outcome, Side, Subject
from medllm.tracking.record import Record

RATE = Metric("made/rate", "a rate", Better.higher, proportion=True)
COST = Metric("made/cost", "a cost", Better.lower)


def outcomes(metric: Metric, pairs: Sequence[tuple[float, float]]) -> Outcomes:
    """One item per pair."""
    return {f"item {i}": Outcome({metric.name: pair}, {}) for i, pair in enumerate(pairs)}


def hits(count: int, of: int, start: int = 0) -> list[tuple[float, float]]:
    """A proportion: `count` of `of` items count, from `start` on."""
    return [(float(start <= i < start + count), 1.0) for i in range(of)]


def measured(metric: Metric, base: Sequence[tuple[float, float]], tuned: Sequence[tuple[float, float]]) -> Measured:
    """A metric on two sides."""
    (found,) = measure([metric], {Side.base: outcomes(metric, base), Side.tuned: outcomes(metric, tuned)})
    return found


def evaluate(conf: EvaluateConf) -> tuple[Evaluation, Record]:
    """What it came to, in a folder that others may use again."""
    with evaluating(conf) as found:
        return found


@dataclass
class MadeSuite:
    """A suite that asks a likelihood and an answer of each item, and may be interrupted.

    Attributes:
        count: Items.
        stop_after: Outcomes until it is interrupted, once; 0 never.
        asked: Side and item of every outcome, in order.
    """

    count: int = 5
    stop_after: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list)
    modes: list[bool] = field(default_factory=list)
    name: str = "made"
    metrics: tuple[Metric, ...] = (RATE, COST)
    sides: tuple[Side, ...] = (Side.base, Side.tuned)

    def items(self) -> list[Item]:
        """Questions."""
        questions = [f"What helps against cough number {i}?" for i in range(self.count)]
        return [Item(f"item {i}", Conversation((Message("user", q),))) for i, q in enumerate(questions)]

    def measurable(self, items: Sequence[Item]) -> set[str]:
        """Both."""
        return {metric.name for metric in self.metrics if items}

    def outcomes(self, subject: Subject, items: Sequence[Item]) -> Iterator[tuple[Item, Outcome]]:
        """One by one."""
        for item in items:
            if self.stop_after and len(self.asked) == self.stop_after:
                self.stop_after = 0
                raise KeyboardInterrupt
            self.asked.append((subject.side.value, item.id))
            self.modes.append(subject.model.training)
            (answer,) = subject.answers([item.conversation])
            (told,) = subject.likelihoods([(item.conversation, "Rest and drink water.")])
            values = {COST.name: (-told.log_likelihood, told.num_tokens), RATE.name: (len(answer.text) % 2, 1)}
            details: dict[str, Any] = {"answer": answer.text}
            yield item, Outcome({name: (float(a), float(b)) for name, (a, b) in values.items()}, details)
