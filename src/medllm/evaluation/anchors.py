"""Published results of the harness's tasks: proof that this wiring of it measures what others measured."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Anchor:
    """A published accuracy.

    Attributes:
        accuracy: Zero-shot.
        standard_error: Of it, as published.
    """

    accuracy: float
    standard_error: float


# By model, then by task of the harness. Source: result files of the Open Medical-LLM Leaderboard (openlifescienceai/results):
# the same harness, plain prompts without a chat template.
ANCHORS = {
    "llama3_8b_instruct": {
        "medqa_4options": Anchor(0.607, 0.014),
        "medmcqa": Anchor(0.568, 0.008),
        "pubmedqa": Anchor(0.746, 0.019),
    },
}
TOLERANCE = 2  # standard errors


@dataclass(frozen=True)
class Reproduction:
    """A result beside a published one.

    Attributes:
        task: The harness's.
        anchor: What was published.
        accuracy: What was found.
        count: Questions; 0 if none were asked.
    """

    task: str
    anchor: Anchor
    accuracy: float
    count: int

    @property
    def passed(self) -> bool:
        """Whether the two differ by at most two standard errors of the published one."""
        return self.count > 0 and abs(self.accuracy - self.anchor.accuracy) <= TOLERANCE * self.anchor.standard_error

    def __str__(self) -> str:
        tolerance = TOLERANCE * self.anchor.standard_error
        found = f"{self.accuracy:.3f} of {self.count:,}" if self.count else "not asked"
        verdict = "pass" if self.passed else "FAIL"
        return f"{verdict}  {self.task:<16}{found}, published {self.anchor.accuracy:.3f} ± {tolerance:.3f}"


def reproductions(model: str, counts: Mapping[str, tuple[float, float]]) -> list[Reproduction]:
    """A model's published results beside those found.

    Args:
        model: Of `ANCHORS`.
        counts: Task to right answers and questions, all of the task's.
    """
    found = []
    for task, anchor in ANCHORS[model].items():
        hits, count = counts.get(task, (0, 0))
        found.append(Reproduction(task, anchor, hits / count if count else 0.0, int(count)))
    return found


def standard_error(hits: float, count: float) -> float:
    """Of an accuracy, as the harness states it: the sample's standard deviation over the root of its size."""
    if count < 2:
        return math.nan
    accuracy = hits / count
    return math.sqrt(accuracy * (1 - accuracy) / (count - 1))
