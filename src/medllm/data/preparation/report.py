"""What preparation did to a data set: counts per step, with examples. Plain data, written as JSON and drawn as a page."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Example:
    """One conversation that a step changed, flagged or dropped; identifiers in it are always masked.

    Attributes:
        id: Where it came from (`dialogues.csv row 17`).
        before: The text the step met, cut around the change.
        after: What it made of it; of a copy, the text that stays instead; empty if there is no such text.
    """

    id: str
    before: str
    after: str = ""


@dataclass
class Step:
    """One step's counts, in conversations.

    Attributes:
        name: As in the configuration: `cleaning.html`, `deduplication.near`.
        rows_in: Conversations it met.
        dropped: Of these, how many it left out.
        changed: How many it changed and kept.
        flagged: How many it only counted.
        examples: A few of those.
    """

    name: str
    rows_in: int = 0
    dropped: int = 0
    changed: int = 0
    flagged: int = 0
    examples: list[Example] = field(default_factory=list)

    @property
    def rows_out(self) -> int:
        """Conversations left after it."""
        return self.rows_in - self.dropped


@dataclass
class PreparationReport:
    """A whole preparation.

    Attributes:
        sources: Rows read by source.
        notes: What reading found worth telling: an encoding, a header matched in another case.
        rejected: Rows that are no conversation, by reason.
        rejected_rows: The first of them by reason: `dialogues.csv line 5`.
        steps: In the order they ran.
        identifiers: Found by type, whether replaced or not.
        urgency: Conversations by urgency word, patient's words only.
        cluster_sizes: Number of clusters of nearly equal questions by their size.
        benchmarks: Benchmark questions found in the data, by file.
        seconds: Time by phase.
    """

    sources: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    rejected: dict[str, int] = field(default_factory=dict)
    rejected_rows: dict[str, list[str]] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    identifiers: dict[str, int] = field(default_factory=dict)
    urgency: dict[str, int] = field(default_factory=dict)
    cluster_sizes: dict[int, int] = field(default_factory=dict)
    benchmarks: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def left_out(self) -> int:
        """Conversations dropped by any step."""
        return sum(step.dropped for step in self.steps)

    @property
    def losses(self) -> str:
        """Every reason for which something was lost, most frequent first, in one line."""
        reasons = self.rejected | {step.name: step.dropped for step in self.steps if step.dropped}
        said = (f"{count} {reason}" for reason, count in sorted(reasons.items(), key=lambda item: -item[1]))
        return "lost: " + ", ".join(said) if reasons else "no row was lost"


def load_report(values: dict[str, Any]) -> PreparationReport:
    """A report as `dataclasses.asdict` and JSON left it."""
    steps = [Step(**{**step, "examples": [Example(**e) for e in step["examples"]]}) for step in values["steps"]]
    sizes = {int(size): count for size, count in values["cluster_sizes"].items()}
    return PreparationReport(**{**values, "steps": steps, "cluster_sizes": sizes})
