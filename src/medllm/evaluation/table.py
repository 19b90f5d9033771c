"""One table in a terminal: base, tuned, guarded, the difference to the base, and what the gate says of it."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from medllm.evaluation.figures import Difference, Figure, Measured
from medllm.evaluation.gate import Decision, Judgement
from medllm.evaluation.run import Evaluation
from medllm.evaluation.suite import Side
from medllm.intervals import FEW, Interval


def number(measured: Measured, value: float, *, signed: bool = False) -> str:
    """A value in its metric's unit: a proportion in percent."""
    sign = "+" if signed else ""
    if measured.metric.proportion:
        return f"{100 * value:{sign}.1f}"
    digits = max(0, 4 - len(str(int(abs(value))))) if abs(value) >= 1 else 3
    return f"{value:{sign}.{digits}f}"


def span(measured: Measured, interval: Interval, *, signed: bool = False) -> str:
    """An interval: `3.597 to 3.610`."""
    return f"{number(measured, interval.low, signed=signed)} to {number(measured, interval.high, signed=signed)}"


def figure(measured: Measured, figure: Figure | None) -> str:
    """A side's cell; a dash where the side was not asked."""
    if figure is None:
        return "-"
    unit = " %" if measured.metric.proportion else ""
    return f"{number(measured, figure.value)}{unit} ({span(measured, figure.interval)})"


def difference(measured: Measured, difference: Difference | None) -> str:
    """A difference's cell; a proportion's is in points."""
    if difference is None:
        return "-"
    of = number(measured, difference.value, signed=True)
    return f"{of} ({span(measured, difference.interval, signed=True)})"


def mark(measured: Measured, side: Side) -> str:
    """`* better` or `* worse` where that is more than noise."""
    verdict = measured.verdict(side)
    return f"* {verdict}" if verdict else ""


def lexicon_lines(evaluation: Evaluation) -> list[str]:
    """How far each lexicon can be trusted."""
    return [
        f"{name} v{v.version}: precision {v.precision.value:.2f} ({v.precision.interval.low:.2f} to "
        f"{v.precision.interval.high:.2f}), recall {v.recall.value:.2f} ({v.recall.interval.low:.2f} to "
        f"{v.recall.interval.high:.2f}), {v.n} held-out examples"
        for name, v in evaluation.lexicons.items()
    ]


def power_line(judgement: Judgement, power: float) -> str:
    """How many items a rule's margin needs, beside how many there are."""
    size = f"a difference of {judgement.margin:g}" if judgement.margin else "the difference that was seen"
    if judgement.n < FEW:
        return f"{judgement.metric}: {judgement.n:,} items are too few to say how many show {size}"
    needed = "no number of items" if judgement.needed is None else f"{judgement.needed:,} items"
    return f"{judgement.metric}: {needed} show {size} with a chance of {power:.0%}; there are {judgement.n:,}"


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Figures, lexicons, power, and the decision."""
    sides = evaluation.sides
    title = f"{evaluation.conf.evaluation.name}: base against tuned, 95 % intervals, * beyond noise"
    if evaluation.limited:
        title += f" - LIMITED by {', '.join(evaluation.conf.evaluation.limits())}, not comparable"
    table = Table(title=Text(title), title_justify="left")
    table.add_column("metric", overflow="fold")
    table.add_column("n", justify="right")
    for name in [side.value for side in sides]:
        table.add_column(name, justify="right")
    others = [side for side in sides if side is not Side.base]
    for side in others:
        table.add_column(f"{side.value} - base", justify="right")
        table.add_column("", justify="left")
    suite = ""
    for one in evaluation.measured:
        name = one.metric.name.partition("/")[0]
        if suite and name != suite:
            table.add_section()
        suite = name
        cells = [one.metric.title, str(one.n), *(figure(one, one.figures.get(side)) for side in sides)]
        for side in others:
            cells += [difference(one, one.differences.get(side)), mark(one, side)]
        table.add_row(*map(Text, cells))
    console.print(table)
    for line in lexicon_lines(evaluation):
        console.print(Text(f"lexicon   {line}"))
    power = evaluation.conf.evaluation.gate.power
    for judgement in evaluation.decision.judgements:
        if judgement.n:
            console.print(Text(f"power     {power_line(judgement, power)}"))
    print_decision(evaluation.decision, console)


def print_decision(decision: Decision, console: Console) -> None:
    """The last lines: what the gate says, and why."""
    console.print(Text(f"gate      {decision.verdict.value}"))
    for reason in decision.reasons:
        console.print(Text(f"          {reason}"))
