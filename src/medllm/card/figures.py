"""The figures of a card: every one with what it was measured on, its number of items and its interval."""

from dataclasses import dataclass
from typing import Any

from medllm.card.facts import Facts
from medllm.intervals import FEW

SAFETY = ("safety/", "guard/")


@dataclass(frozen=True)
class Figure:
    """One value.

    Attributes:
        title: Of the metric.
        name: Of the metric, as `safety/emergency_recall`.
        side: Base, tuned, or tuned behind the guard.
        value: The figure.
        low: Of its 95 % interval; None where none is known.
        high: Likewise.
        n: Items it rests on.
        measured_on: In words.
    """

    title: str
    name: str
    side: str
    value: float
    low: float | None
    high: float | None
    n: int
    measured_on: str

    def __str__(self) -> str:
        return f"{number(self.value)}{span(self.low, self.high)}"


@dataclass(frozen=True)
class Row:
    """A metric of an evaluation: each side, and how sides differ from the base.

    Attributes:
        title: Of the metric.
        name: Of the metric.
        better: higher, lower or neither.
        n: Items.
        figures: By side.
        differences: By side, in words.
        worse: Sides that are worse than the base by more than chance explains.
    """

    title: str
    name: str
    better: str
    n: int
    figures: dict[str, Figure]
    differences: dict[str, str]
    worse: list[str]


def number(value: float) -> str:
    """Three significant digits or whole."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def span(low: float | None, high: float | None) -> str:
    """An interval behind a figure; empty for none."""
    return "" if low is None or high is None else f" ({number(low)} to {number(high)})"


def evaluation_rows(results: dict[str, Any]) -> list[Row]:
    """The metrics of one evaluation."""
    limited = ", a limited part, not comparable with full runs" if results.get("limited") else ""
    rows = []
    for metric in results.get("metrics", []):
        on = f"{metric['n']:,} items of suite {str(metric['name']).partition('/')[0]}, evaluation {results['name']}{limited}"
        figures = {
            side: Figure(
                metric["title"], metric["name"], side, f["value"], f.get("low"), f.get("high"), metric["n"], on
            )
            for side, f in metric["figures"].items()
            if f is not None and f.get("value") is not None
        }
        differences, worse = {}, []
        for side, d in metric.get("differences", {}).items():
            if d is None or d.get("value") is None:
                continue
            p = f", p = {d['p']:.2g}" if d.get("p") is not None else ""
            differences[side] = f"{d['value']:+.3g}{span(d.get('low'), d.get('high'))}{p}"
            low, high = d.get("low"), d.get("high")
            if low is not None and high is not None and metric["n"] >= FEW:
                down, up = high < 0 and metric["better"] == "higher", low > 0 and metric["better"] == "lower"
                worse += [side] if down or up else []
        rows.append(Row(metric["title"], metric["name"], metric["better"], metric["n"], figures, differences, worse))
    return rows


def review_figures(review: dict[str, Any]) -> list[Figure]:
    """Win and harm rates of a review, once it is unblinded."""
    raters = sum(rater["num_rated"] > 0 for rater in review["raters"])
    on = f"{review['num_pairs']} pairs of answers rated blind by {raters} raters, review {review['name']}"
    found = []
    if review.get("win_rate"):
        win = review["win_rate"]
        title = f"preferred by experts, ties {win['ties']}"
        found.append(Figure(title, "review/win_rate", "tuned", win["value"], win["low"], win["high"], win["n"], on))
    for name, title in (("harm_rate", "answers with possible harm"), ("severe_harm_rate", "answers with severe harm")):
        for side, f in (review.get(name) or {}).items():
            if isinstance(f, dict) and f.get("n") and f.get("value") is not None:
                found.append(Figure(title, f"review/{name}", side, f["value"], f["low"], f["high"], f["n"], on))
    return found


def held_out_on(facts: Facts) -> str:
    """What the run's own figures were measured on."""
    conversations = f"{facts.num_conversations:,} conversations" if facts.num_conversations else "conversations"
    return f"{conversations} held out of the training data, {facts.metrics.get('eval/num_tokens', 0):,.0f} supervised tokens"


def measured_limits(facts: Facts) -> list[str]:
    """What measurement itself says against the model, in words."""
    found = []
    for name, results in facts.evaluations.items():
        rows = evaluation_rows(results)
        found += [
            f"{row.title}: {side} is worse than the base by {row.differences[side]} (evaluation {name}, n = {row.n:,})."
            for row in rows
            for side in row.worse
        ]
        gate = results.get("gate") or {}
        if gate and gate.get("decision") != "ship":
            reasons = "; ".join(map(str, gate.get("reasons", [])))
            found.append(
                f"The gate of evaluation {name} says: {gate.get('decision')}{f' ({reasons})' if reasons else ''}."
            )
        if results.get("limited"):
            found.append(f"Evaluation {name} asked a limited part of its items: not comparable with full runs.")
    if not facts.evaluations:
        found.append("No evaluation has been run on it: nothing is known of its safety.")
    return found
