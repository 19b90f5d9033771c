"""An evaluation as one page of HTML that needs nothing else: no network, no script."""

import json
from dataclasses import dataclass
from typing import Any

from medllm.evaluation import table
from medllm.evaluation.figures import Measured
from medllm.evaluation.items import digest
from medllm.evaluation.run import Evaluation
from medllm.evaluation.suite import Better, Side
from medllm.pages import page_environment

EXAMPLES = 6  # of a suite
LONGEST_DETAIL = 4000  # characters


@dataclass(frozen=True)
class Bar:
    """A difference in the forest plot: places in percent of its row, the middle being no difference, the right better.

    Attributes:
        low: Where the interval begins.
        high: Where it ends.
        value: The difference.
        margin: Where the gate's margin lies; None without one.
        color: `better`, `worse`, or `open` where it cannot be told.
    """

    low: float
    high: float
    value: float
    margin: float | None
    color: str


@dataclass(frozen=True)
class Example:
    """An item with what each side showed.

    Attributes:
        prompt: The last question.
        shared: Details that all sides have alike.
        sides: Details of each side's own.
    """

    prompt: str
    shared: dict[str, str]
    sides: dict[str, dict[str, str]]


def bar(measured: Measured, side: Side, margin: float | None) -> Bar:
    """A row of the forest plot, on a scale of its own: units differ from row to row."""
    difference = measured.differences[side]
    sign = -1 if measured.metric.better is Better.lower else 1
    ends = sorted(sign * end for end in (difference.interval.low, difference.interval.high))
    reach = 1.08 * max(*map(abs, ends), margin or 0.0) or 1.0

    def place(value: float) -> float:
        return round(50 + 50 * value / reach, 2)

    color = measured.verdict(side) or "open"
    at = place(-margin) if margin else None
    return Bar(place(ends[0]), place(ends[1]), place(sign * difference.value), at, color)


def examples(evaluation: Evaluation, suite: str) -> list[Example]:
    """A few items of a suite, the same ones whatever the model."""
    sides = {side: evaluation.outcomes[(suite, side)] for side in Side if (suite, side) in evaluation.outcomes}
    prompts = evaluation.prompts[suite]
    chosen = sorted(prompts, key=digest)[:EXAMPLES]
    found = []
    for name in chosen:
        details = {side.value: outcomes[name].details for side, outcomes in sides.items()}
        first = next(iter(details.values()))
        shared = {k for k in first if len(details) > 1 and all(d.get(k) == first[k] for d in details.values())}
        shared -= {"answer"}
        own = {side: {k: _detail(v) for k, v in d.items() if k not in shared} for side, d in details.items()}
        found.append(Example(prompts[name], {k: _detail(first[k]) for k in first if k in shared}, own))
    return found


def _detail(value: Any) -> str:
    if isinstance(value, dict):  # what is empty was not found
        text = "\n".join(f"{key}: {_detail(of)}" for key, of in value.items() if of not in ([], {}, "", None)) or "-"
    elif isinstance(value, list) and all(isinstance(of, str) for of in value):
        text = "; ".join(value)
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_DETAIL else text[:LONGEST_DETAIL] + " ..."


def html_page(evaluation: Evaluation) -> str:
    """The page; every text in it is escaped."""
    template = page_environment().get_template("evaluation/page.html")
    gate = evaluation.conf.evaluation.gate
    margins = {(rule.metric, rule.side.value): rule.margin for rule in gate.in_force().values()}
    names = [suite.name for suite in evaluation.suites]
    return template.render(
        evaluation=evaluation,
        conf=evaluation.conf.evaluation,
        sides=evaluation.sides,
        others=[side for side in evaluation.sides if side is not Side.base],
        by_suite={name: [m for m in evaluation.measured if m.metric.name.startswith(f"{name}/")] for name in names},
        examples={name: examples(evaluation, name) for name in names},
        bar=lambda one, side: bar(one, side, margins.get((one.metric.name, side.value))),
        table=table,
        power=[table.power_line(j, gate.power) for j in evaluation.decision.judgements if j.n],
    )
