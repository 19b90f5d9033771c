"""A comparison as one page of HTML that needs nothing else, and the words and cells it shares with a terminal."""

import base64
from collections.abc import Sequence
from pathlib import Path

from medllm.comparison.statistics import COSTS, TRAINABLE, Candidate, Comparison
from medllm.intervals import Interval
from medllm.pages import page_environment

HEAD = ("candidate", "seeds", "loss", "by conversations", "by seeds", "difference", "its interval")
COST_HEAD = ("GiB", "s", "trained parameters")
PICTURES = {
    "losses": ("Losses", "Best first, with 95 % intervals."),
    "heat_map": ("Two settings together", "Loss of each pair of values."),
    "curves": ("Learning curves", "Red: the lowest final loss."),
    "costs": ("Loss against its price", "A blue point is one that no other beats in both."),
    "parallel": (
        "All settings at once",
        "A line is a candidate; follow it from its settings to its loss, lowest at the foot.",
    ),
}


def span(interval: Interval | None, *, signed: bool = False) -> str:
    """An interval in a cell: `3.5970 to 3.6103`; a dash for none."""
    form = "{:+.4f} to {:+.4f}" if signed else "{:.4f} to {:.4f}"
    return form.format(interval.low, interval.high) if interval else "-"


def cells(candidate: Candidate, *, best: bool) -> list[str]:
    """One row, under `HEAD`."""
    intervals = [candidate.difference_interval, candidate.seed_difference_interval]
    known = [span(interval, signed=True) for interval in intervals if interval]
    difference = ["", ""] if best else [f"{candidate.difference:+.4f}", " / ".join(known) or "-"]
    loss = [f"{candidate.loss:.4f}", span(candidate.interval), span(candidate.seed_interval)]
    return [candidate.label, str(len(candidate.runs)), *loss, *difference]


def cost_cells(candidate: Candidate) -> list[str]:
    """What it took, under `COST_HEAD`."""
    forms = dict(zip(COSTS, ("{:.2f}", "{:,.0f}", "{:,.0f}"), strict=True))
    return [form.format(candidate.metrics[m]) if m in candidate.metrics else "-" for m, form in forms.items()]


def headline(comparison: Comparison) -> list[str]:
    """The outcome in plain words."""
    if not comparison.candidates:
        return ["No run has finished, so there is nothing to rank."]
    best, *others = comparison.candidates
    winner = comparison.winner or best
    if not others:
        return [f"Only {best.label} has finished, with a loss of {best.loss:.4f}; there is nothing to compare it with."]
    tied = [candidate for candidate in others if candidate.tied]
    lines = [f"Lowest loss: {best.label} with {best.loss:.4f}; the next is {others[0].difference:.4f} higher."]
    unknown = sum(candidate.tied is None for candidate in others)
    if unknown == len(others):
        lines.append("Whether that is more than chance cannot be said: runs left no losses of single conversations, and "
                     "there are no repeats with other seeds.")  # fmt: skip
    elif tied:
        names = "; ".join(candidate.label for candidate in tied[:5]) + (" and others" if len(tied) > 5 else "")
        lines.append(f"Not distinguishable from the best ({len(tied)} of {len(others)}): {names}.")
    else:
        lines.append("Every other candidate is worse by more than chance explains."
                     if not unknown else f"For {unknown} of {len(others)} others it cannot be said.")  # fmt: skip
    if winner is best:
        why = "no smaller one is as good" if tied and TRAINABLE in winner.metrics else "it has the lowest loss"
        lines.append(f"Winner: {winner.label}; {why}.")
    else:
        lines.append(
            f"Winner: {winner.label} with {winner.loss:.4f}: the fewest trained parameters "
            f"({winner.metrics.get(TRAINABLE, 0):,.0f}) of those that cannot be told from the best."
        )
    return lines


def html_page(comparison: Comparison, pictures: Sequence[Path]) -> str:
    """One page: no network, no script; pictures are part of it."""
    template = page_environment().get_template("comparison/page.html")
    return template.render(
        comparison=comparison,
        headline=headline(comparison),
        head=[*HEAD, *COST_HEAD],
        ranking=[(c, [*cells(c, best=c is comparison.candidates[0]), *cost_cells(c)]) for c in comparison.candidates],
        span=span,
        pictures=[(*PICTURES[path.stem], _data_uri(path)) for path in pictures],
    )


def _data_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
