"""What a run and a sweep print at their end."""

import math
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from medllm.config.trainer import LOSS
from medllm.console import console, say


def duration(seconds: float) -> str:
    """`42 s`, `3 min 07 s` or `2 h 05 min`."""
    if not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.0f} s"


def print_run(result: Any, shown: dict[str, str]) -> None:
    """The summary of a run: numbers before and after, cost, places, sample answers.

    Args:
        result: A `medllm.result.Result`.
        shown: Places to name, such as the artifact's folder.
    """
    table = Table(title=f"{result.name}", title_justify="left", show_edge=False, pad_edge=False)
    for column in ("held-out", "before", "after", "change"):
        table.add_column(column, justify="left" if column == "held-out" else "right")
    if result.before and result.after:
        before, after = result.before, result.after
        table.add_row("loss", f"{before.loss:.4f}", f"{after.loss:.4f}", f"{after.loss - before.loss:+.4f}")
        change = f"{100 * (after.perplexity / before.perplexity - 1):+.0f} %"
        table.add_row("perplexity", f"{before.perplexity:.2f}", f"{after.perplexity:.2f}", change)
        change = f"{100 * (after.token_accuracy - before.token_accuracy):+.1f} points"
        table.add_row("token accuracy", f"{before.token_accuracy:.3f}", f"{after.token_accuracy:.3f}", change)
    console.print()
    console.print(table)
    lines = {
        "time": f"{duration(result.seconds)}, of which training {duration(result.train_seconds)}, {result.steps} steps",
        "throughput": f"{result.tokens_per_second:,.0f} tokens/s, {result.supervised_tokens_per_second:,.0f} of them supervised",
        "peak memory": f"{result.peak_memory_gib:.2f} GiB",
        **shown,
    }
    for name, text in lines.items():
        console.print(f"{name:<15}{text}")
    for before, after in zip(result.answers_before, result.answers_after, strict=True):
        console.print()
        console.print(Text(f"patient   {before.question}", style="bold"))
        for name, answer in (("before", before), ("after", after)):
            rest = "" if answer.finished else " [...]"
            console.print(Text(f"{name:<10}{answer.text}{rest}"))


def print_point(name: str, result: Any) -> None:
    """One line for a finished point of a sweep."""
    console.print(f"finished {name}: objective {result.objective:.4f}, {duration(result.seconds)}")


def gib(size: float) -> str:
    """`3.14 GiB`."""
    return f"{size:.2f} GiB" if math.isfinite(size) else "-"


def print_plan(points: list[tuple[str, str]], prices: Sequence[Any], device: str, folder: str) -> None:
    """The plan of a sweep: what each point will take and whether it is to be done.

    Args:
        points: Label and state of each.
        prices: A `medllm.sweep.outlook.Outlook` each.
        device: Of this machine, with its memory.
        folder: The sweep's.
    """
    table = Table(title=f"plan of {len(points)} points", title_justify="left")
    for column in ("point", "trained parameters", "steps", "tokens", "peak memory", "time", "state"):
        table.add_column(column, justify="left" if column in ("point", "state") else "right", overflow="fold")
    for (label, state), price in zip(points, prices, strict=True):
        share = f"{price.trainable:,} ({100 * price.trainable / price.total:.2f} %)"
        work = (f"{price.steps:,}", f"{price.tokens:,}", gib(price.memory_gib), duration(price.seconds))
        table.add_row(Text(label), share, *work, state)
    console.print()
    console.print(table)
    left = [price for (_, state), price in zip(points, prices, strict=True) if state not in ("finished", "failed")]
    total = sum(price.seconds for price in left)
    tokens = sum(price.tokens for price in left)
    time = f"{duration(total)} one after another" if math.isfinite(total) else "time not measured yet"
    sources = sorted({price.rate.source for price in left if price.rate is not None})
    measured = f" (from {', '.join(sources)})" if sources and math.isfinite(total) else ""
    known = [price.memory_gib for price in prices if math.isfinite(price.memory_gib)]
    if known:
        say("memory", f"{gib(max(known))} at most, of {device}")
    say("to do", f"{len(left)} points, {tokens:,} tokens, {time}{measured}")
    say("folder", folder)


def print_search(space: Any, states: Sequence[str], point: str, price: Any, folder: str) -> None:
    """The plan of a search: its space, and what a representative point will take.

    Args:
        space: A `medllm.config.search.Space`.
        states: Of the points there are.
        point: The representative one's label.
        price: Its `medllm.sweep.outlook.Outlook`.
        folder: The search's.
    """
    count = space.conf.n_trials
    console.print(f"\nsearch of {count} trials, {space.n_jobs} at once")
    lines = {axis.key: str(axis) for axis in space.axes}
    width = max(map(len, lines))
    for key, text in lines.items():
        console.print(f"  {key:<{width}}  {text}")
    time = f", {duration(price.seconds)} (from {price.rate.source})" if price.rate is not None else ""
    share = f"{price.trainable:,} parameters trained ({100 * price.trainable / price.total:.2f} %)"
    work = f"{price.steps:,} steps, {price.tokens:,} tokens, peak memory {gib(price.memory_gib)}{time}"
    say("a point", f"{point}: {share}, {work}")
    done = sum(state in ("finished", "pruned", "failed") for state in states)
    left = max(count - len(states), 0) + len(states) - done
    known = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    total = f"about {duration(left * price.seconds)} one after another, less what is pruned"
    total = total if math.isfinite(price.seconds) else "time not measured yet"
    say("to do", f"{left} trials, {total}{f'; there are {known}' if known else ''}")
    say("folder", folder)


def print_points(rows: list[dict[str, Any]], title: str) -> None:
    """The table of a sweep: points by their objective, failed ones last with their reason."""
    table = Table(title=title, title_justify="left")
    aims = sorted({row["aim"] for row in rows if row.get("aim", LOSS) != LOSS})
    for column in ("point", *aims, "held-out loss", "perplexity", "time", "peak memory", "status"):
        table.add_column(column, justify="left" if column in ("point", "status") else "right", overflow="fold")
    for row in rows:
        metrics = row.get("metrics", {})
        loss = metrics.get("eval/loss", row.get("objective"))
        perplexity = metrics.get("eval/perplexity")
        table.add_row(
            Text(row["label"]),
            *(f"{metrics[aim]:.4f}" if aim in metrics else "-" for aim in aims),
            "-" if loss is None else f"{loss:.4f}",
            "-" if perplexity is None else f"{perplexity:.2f}",
            duration(metrics["perf/seconds"]) if metrics else "-",
            f"{metrics['perf/peak_memory_gib']:.2f} GiB" if metrics else "-",
            Text(row["status"] + (f": {row['reason']}" if row.get("reason") else "")),
        )
    console.print()
    console.print(table)
