"""What a run trains on, as one page of HTML and as tables in a terminal.

All text in it is untrusted: on its way out it passes `visible` and, into HTML, Jinja's escaping.
"""

import functools
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from jinja2 import Template
from rich.console import Console
from rich.table import Table
from rich.text import Text

from medllm.data.preparation.report import Example, PreparationReport, Step
from medllm.pages import page_environment

# What keeps the page of a large data set small.
EXAMPLES_PER_STEP = 3
EXAMPLE_CHARACTERS = 500
SAMPLES = 10
SAMPLE_CHARACTERS = 3_000
LIST_ITEMS = 20

LENGTH_HEAD = ("side", "conversations", "tokens", "supervised", "mean", "median", "90 % below", "longest", "too long")
CLUSTER_SIZES = {
    **{str(size): range(size, size + 1) for size in range(1, 6)},
    **{f"{low} to {high}": range(low, high + 1) for low, high in ((6, 10), (11, 20), (21, 50), (51, 100))},
    "over 100": range(101, sys.maxsize),
}

Pieces = list[tuple[str, bool]]


@dataclass(frozen=True)
class SideView:
    """The training or the held-out side.

    Attributes:
        conversations: What is left of it after the over-length policy.
        lengths: Tokens per conversation before that policy.
        tokens: Of what is left.
        supervised_tokens: Of these, how many have a loss.
    """

    conversations: int
    lengths: Sequence[int]
    tokens: int
    supervised_tokens: int


@dataclass(frozen=True)
class SampleView:
    """One conversation as the model meets it.

    Attributes:
        id: Where it came from.
        pieces: Text and whether it is supervised; neighbours differ in the latter.
    """

    id: str
    pieces: Pieces


@dataclass(frozen=True)
class DataView:
    """Everything there is to see of a run's data.

    Attributes:
        source: `data.path`, or the data set's id.
        fingerprint: SHA-256 of all conversations drawn.
        report: What preparation did.
        sides: "training" first, then "held out" if there is one.
        max_length: Longest conversation allowed, in tokens.
        fates: Conversations kept, truncated, dropped, rejected.
        batching: Layout in use.
        fill: Share of real tokens among all computed ones, in [0, 1], by layout.
        samples: A few conversations of the training side.
    """

    source: str
    fingerprint: str
    report: PreparationReport
    sides: dict[str, SideView]
    max_length: int
    fates: dict[str, int]
    batching: str
    fill: dict[str, float]
    samples: list[SampleView]


@dataclass(frozen=True)
class Histogram:
    """Conversations by length.

    Attributes:
        width: Tokens per bin; bin `i` holds lengths in (i * width, (i + 1) * width], the last one all longer ones too.
        shares: Of each side's conversations, by bin.
        counts: Conversations by bin.
        limit: Where `max_length` lies, in bins from the left; None if beyond the right end.
        grid: Shares at which to draw a line; the last is the top of the picture.
        ticks: Bin edges to label.
    """

    width: int
    shares: dict[str, list[float]]
    counts: dict[str, list[int]]
    limit: float | None
    grid: list[float]
    ticks: list[int]


def visible(text: str) -> str:
    """Shows what a reader could not see, or what could act on the reader's terminal, as `⟨U+200B⟩`."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"⟨U+{ord(c):04X}⟩" for c in text)


def percent(share: float) -> str:
    """A share of 1 in percent: `0 %`, `<0.1 %`, `3.4 %`, `>99.9 %`, `100 %`."""
    if 0 < share < 0.001:
        return "<0.1 %"
    if 0.999 < share < 1:
        return ">99.9 %"
    return f"{100 * share:.{0 if share in (0, 1) else 1}f} %"


def ratio(part: float, whole: float) -> str:
    """Part of a whole in percent; a dash for a part of nothing."""
    return percent(part / whole) if whole else "-"


def cut(pieces: Pieces, limit: int) -> Pieces:
    """The first `limit` characters, made visible."""
    short: Pieces = []
    for text, marked in pieces:
        shown = visible(text[: limit + 1])
        if len(shown) > limit:
            return [*short, (shown[:limit], marked), (" …", False)]
        short.append((shown, marked))
        limit -= len(shown)
    return short


def difference(example: Example) -> tuple[Pieces, Pieces]:
    """Before and after, the words that differ marked; a text without an after has none."""
    before, *more = cut([(example.before, False)], EXAMPLE_CHARACTERS)
    after, *rest = cut([(example.after, False)], EXAMPLE_CHARACTERS)
    if not example.after:
        return [before, *more], []
    old, new = (re.findall(r"⟨U\+\w+⟩|\w+|\s+|[^\w\s]", text) for text, _ in (before, after))
    left: Pieces = []
    right: Pieces = []
    for operation, i, j, k, m in SequenceMatcher(None, old, new).get_opcodes():
        for pieces, words in ((left, old[i:j]), (right, new[k:m])):
            if words:
                pieces.append(("".join(words), operation != "equal"))
    return left + more, right + rest


def flow(view: DataView) -> list[Step]:
    """All that happens between a row and a conversation to train on, reading and the over-length policy included."""
    report, fates = view.report, view.fates
    truncated, dropped = fates.get("truncated", 0), fates.get("dropped", 0)
    steps = [Step("reading", rows_in=sum(report.sources.values()), dropped=sum(report.rejected.values()))]
    last = [Step("over_length", fates.get("kept", 0) + truncated + dropped, dropped, truncated)] if fates else []
    for step in (*report.steps, *last):
        # Conversations that no step left out were not drawn.
        if step.rows_in < steps[-1].rows_out:
            steps.append(Step("num_conversations", steps[-1].rows_out, steps[-1].rows_out - step.rows_in))
        steps.append(step)
    return steps


def length_rows(view: DataView) -> list[list[str]]:
    """One row per side, under `LENGTH_HEAD`."""
    rows = []
    for name, side in view.sides.items():
        lengths = sorted(side.lengths) or [0]
        median, ninety = (lengths[min(len(lengths) - 1, int(share * len(lengths)))] for share in (0.5, 0.9))
        over = sum(length > view.max_length for length in lengths)
        counts = (f"{side.conversations:,}", f"{side.tokens:,}", ratio(side.supervised_tokens, side.tokens))
        quantiles = (f"{sum(lengths) / len(lengths):,.0f}", f"{median:,}", f"{ninety:,}", f"{lengths[-1]:,}")
        rows.append([name, *counts, *quantiles, f"{over:,} ({ratio(over, len(side.lengths))})"])
    return rows


def histogram(view: DataView) -> Histogram | None:
    """Lengths in 20 to 40 bins, up to the 99.5 % quantile or `max_length`; None without any."""
    lengths = sorted(length for side in view.sides.values() for length in side.lengths)
    if not lengths:
        return None
    end = max(1, lengths[int(0.995 * (len(lengths) - 1))])
    # max_length halved or doubled, so that a bin ends where the limit stands.
    width = max(1, round(view.max_length / 2 ** math.floor(math.log2(20 * view.max_length / end) + 1)))
    if view.max_length <= 2 * end:
        end = max(end, view.max_length + width)
    bins = math.ceil(end / width)
    counts = {name: [0] * bins for name in view.sides}
    for name, side in view.sides.items():
        for length in side.lengths:
            counts[name][min(bins - 1, max(0, length - 1) // width)] += 1
    shares = {name: [n / max(1, len(view.sides[name].lengths)) for n in row] for name, row in counts.items()}
    peak = max(share for row in shares.values() for share in row)
    step = next(step for step in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if peak <= 4 * step)
    return Histogram(
        width=width,
        shares=shares,
        counts=counts,
        limit=view.max_length / width if view.max_length <= bins * width else None,
        grid=[step * i for i in range(math.ceil(peak / step) + 1)],
        ticks=list(range(0, bins + 1, 2 ** math.ceil(math.log2(bins / 6)) if bins > 6 else 1)),
    )


def clusters(sizes: dict[int, int]) -> dict[str, int]:
    """Clusters by size, the large ones in ranges."""
    binned = {name: sum(n for size, n in sizes.items() if size in group) for name, group in CLUSTER_SIZES.items()}
    return {name: n for name, n in binned.items() if n}


def most(counts: dict[str, Any]) -> dict[str, Any]:
    """The largest first, of a long list only those."""
    return dict(sorted(counts.items(), key=lambda item: -item[1])[:LIST_ITEMS])


@functools.cache  # points of a sweep fill it in one after another
def page_template() -> Template:
    """Of the page, compiled."""
    # Markup, a subclass of str, is done.
    environment = page_environment(finalize=lambda value: visible(value) if type(value) is str else value)
    environment.filters |= {"number": "{:,}".format, "percent": percent, "most": most, "difference": difference}
    return environment.get_template("data_page.html")


def html_page(view: DataView) -> str:
    """One page that needs nothing else: no network, no script."""
    return page_template().render(
        view=view,
        report=view.report,
        flow=flow(view),
        stage=lambda name: [step for step in view.report.steps if step.name.split(".")[0] == name],
        histogram=histogram(view),
        length_head=LENGTH_HEAD,
        length_rows=length_rows(view),
        clusters=clusters(view.report.cluster_sizes),
        ratio=ratio,
        examples_per_step=EXAMPLES_PER_STEP,
        list_items=LIST_ITEMS,
        samples=[(sample.id, cut(sample.pieces, SAMPLE_CHARACTERS)) for sample in view.samples[:SAMPLES]],
    )


def print_view(view: DataView, console: Console) -> None:
    """The same in a terminal, without the steps' examples."""

    def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        if rows:
            drawn = Table(title=title, title_justify="left")
            for i, column in enumerate(columns):
                drawn.add_column(column, justify="right" if i else "left", overflow="fold")
            for row in rows:
                drawn.add_row(*(Text(visible(cell)) for cell in row))
            console.print(drawn)

    def counts(title: str, unit: str, items: dict[str, int]) -> None:
        table(title, ("", unit), [[name, f"{count:,}"] for name, count in most(items).items()])

    report = view.report
    for sample in view.samples:
        console.rule(Text(visible(sample.id)))
        styles = {True: "bold green", False: "dim"}
        console.print(Text.assemble(*((visible(text), styles[supervised]) for text, supervised in sample.pieces)))
    numbers = ((s.name, s.rows_in, s.rows_out, s.dropped, s.changed, s.flagged) for s in flow(view))
    steps = [[name, *(f"{number:,}" for number in row)] for name, *row in numbers]
    table("from rows to conversations", ("step", "in", "out", "left out", "changed", "flagged"), steps)
    counts("rejected rows", "rows", report.rejected)
    counts("identifiers found", "found", report.identifiers)
    counts("urgency words", "conversations", report.urgency)
    counts("benchmark questions found", "questions", report.benchmarks)
    # A column per side, for nine columns of numbers are wider than a terminal.
    head, *lines = zip(LENGTH_HEAD, *length_rows(view), strict=True)
    table("lengths in tokens", head, lines if view.sides else [])
    in_use = {view.batching: " (in use)"}
    fills = [[layout + in_use.get(layout, ""), percent(fill)] for layout, fill in view.fill.items()]
    table("real tokens by layout", ("layout", "full"), fills)
    for note in report.notes[:LIST_ITEMS]:
        console.print(Text(visible(f"note      {note}")))
    fates = ", ".join(f"{count:,} {fate}" for fate, count in view.fates.items())
    console.print(Text(f"fate      {fates or 'no conversation'}"))
    console.print(Text(visible(f"data      {view.source}, fingerprint {view.fingerprint[:16]}")))
