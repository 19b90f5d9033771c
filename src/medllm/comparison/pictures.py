"""The pictures of a comparison, each a PNG that stays legible from two runs to sixty."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medllm.comparison.runs import SEED
from medllm.comparison.statistics import COSTS, Candidate, Comparison, sort_key

BLUE, RED, GREY, PALE = "#2c6fad", "#c0392b", "#8a8a8a", "#9db8d9"
LOSS = "held-out loss (nats per token)"
PREFERRED = ("lora.r", "trainer.learning_rate")
NAMED_CURVES = 8
CELLS_WITH_NUMBERS = 150


def draw(comparison: Comparison, folder: Path) -> list[Path]:
    """Draws what there is something to show for: nothing without a finished run."""
    if not comparison.candidates:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, Callable[[Comparison], Any]] = {
        "losses": _losses,
        "heat_map": _heat_map,
        "curves": _curves,
        "costs": _costs,
        "parallel": _parallel,
    }
    paths = []
    for name, picture in pictures.items():
        path = folder / f"{name}.png"
        path.unlink(missing_ok=True)  # of an earlier comparison that had more to show
        figure = picture(comparison)
        if figure is not None:
            paths.append(_save(figure, path))
    return paths


def _figure(width: float, height: float, columns: int = 1, **options: Any) -> tuple[Any, list[Any]]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, columns, figsize=(width, height), layout="constrained", squeeze=False, **options
    )
    for axes in panels[0]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="both", color="#e5e5e5", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, list(panels[0])


def _save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot

    figure.savefig(path, dpi=130, bbox_inches="tight")
    pyplot.close(figure)
    return path


def short(label: str, limit: int = 60) -> str:
    """A label without the groups of its keys, cut in the middle if it is long; `$` would start a formula."""
    parts = [part.rpartition("=") for part in label.split(", ")]  # a mere value has no key and stays whole
    text = ", ".join(f"{key.rpartition('.')[2]}{sign}{value}" for key, sign, value in parts).replace("$", r"\$")
    return text if len(text) <= limit else f"{text[: limit // 2]} … {text[-limit // 2 :]}"


def _losses(comparison: Comparison) -> Any:
    """Ranked losses with both intervals."""
    candidates = comparison.candidates
    figure, (axes,) = _figure(9, 1.5 + 0.26 * len(candidates))
    for row, candidate in enumerate(candidates):
        color = RED if candidate is comparison.winner else BLUE if row == 0 or candidate.tied else GREY
        if candidate.seed_interval:
            axes.plot(
                [candidate.seed_interval.low, candidate.seed_interval.high],
                [row, row],
                color=PALE,
                linewidth=6,
                zorder=1,
            )
        if candidate.interval:
            axes.plot(
                [candidate.interval.low, candidate.interval.high], [row, row], color=color, linewidth=1.4, zorder=2
            )
        axes.plot(candidate.loss, row, "o", color=color, markersize=6, zorder=3)
    axes.set_yticks(range(len(candidates)), [f"{short(c.label)}   {c.loss:.4f}" for c in candidates], fontsize=8)
    axes.set_ylim(len(candidates) - 0.4, -0.6)
    axes.set_xlabel(LOSS)
    handles = [_handle(RED, "winner"), _handle(BLUE, "best, or not told from it"), _handle(GREY, "worse or undecided")]
    if any(candidate.seed_interval for candidate in candidates):
        handles.append(_handle(PALE, "95 % by seeds", line=True))
    if any(candidate.interval for candidate in candidates):
        handles.append(_handle(GREY, "95 % by conversations", line=True))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False, fontsize=8)
    return figure


def _handle(color: str, label: str, *, line: bool = False) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=color, label=label, **({"linewidth": 3} if line else {"marker": "o", "linestyle": ""}))


def _heat_map(comparison: Comparison) -> Any:
    """Two axes: the preferred ones, or the first two with several values; each cell the best of its candidates."""
    several = [effect.axis for effect in comparison.effects]
    pair = list(PREFERRED) if set(PREFERRED) <= set(several) else several[:2]
    if len(pair) < 2:
        return None
    rows, columns = ([level.value for level in e.levels] for axis in pair for e in comparison.effects if e.axis == axis)
    cells: dict[tuple[str, str], list[float]] = {}
    for candidate in comparison.candidates:
        cells.setdefault((candidate.values[pair[0]], candidate.values[pair[1]]), []).append(candidate.loss)
    grid = [[min(cells.get((row, column), [math.nan])) for column in columns] for row in rows]
    figure, (axes,) = _figure(2.5 + 0.85 * len(columns), 1.8 + 0.5 * len(rows))
    axes.grid(visible=False)
    image = axes.imshow(grid, cmap="viridis_r", aspect="auto")
    turned = {"rotation": 30, "ha": "right"} if any(len(column) > 8 for column in columns) else {}
    axes.set_xticks(range(len(columns)), [short(column, 24) for column in columns], fontsize=8, **turned)
    axes.set_yticks(range(len(rows)), [short(row, 24) for row in rows], fontsize=8)
    axes.set(xlabel=pair[1], ylabel=pair[0])
    if len(rows) * len(columns) <= CELLS_WITH_NUMBERS:
        for y, line in enumerate(grid):
            for x, loss in enumerate(line):
                dark = not math.isnan(loss) and image.norm(loss) > 0.5
                text = "-" if math.isnan(loss) else f"{loss:.4f}"
                axes.text(x, y, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    figure.colorbar(image, ax=axes, label=LOSS)
    others = len(comparison.candidates) > len(cells)
    axes.set_title("best over the other axes" if others else "", fontsize=9)
    return figure


def _curves(comparison: Comparison) -> Any:
    """Held-out learning curves of all runs, of training where nothing was held out."""
    kind = "eval" if any(r.history.get("eval") for c in comparison.candidates for r in c.runs) else "train"
    drawn = [
        (rank, c, r.history[kind])
        for rank, c in enumerate(comparison.candidates)
        for r in c.runs
        if r.history.get(kind)
    ]
    if not drawn:
        return None
    figure, (axes,) = _figure(9, 4.6)
    colors = _shades(len(comparison.candidates))
    named: set[int] = set()
    for rank, candidate, curve in reversed(drawn):
        label = short(candidate.label, 44) if rank < NAMED_CURVES and rank not in named else None
        named.add(rank)
        steps, losses = zip(*curve, strict=True)
        best = rank == 0
        axes.plot(steps, losses, color=RED if best else colors[rank], label=label, marker="o" if kind == "eval" else "",
                  markersize=3, linewidth=2 if best else 1.1, alpha=1 if best else 0.8)  # fmt: skip
    lines, labels = axes.get_legend_handles_labels()
    title = "best first" if len(comparison.candidates) <= NAMED_CURVES else f"the best {NAMED_CURVES}"
    figure.legend(lines[::-1], labels[::-1], title=title, loc="outside right upper", frameon=False, fontsize=8)
    axes.set(xlabel="optimizer step", ylabel=LOSS if kind == "eval" else "training loss (nats per token)")
    return figure


def _shades(count: int) -> list[Any]:
    from matplotlib import colormaps

    return [colormaps["viridis"](0.15 + 0.8 * i / max(1, count - 1)) for i in range(count)]


def _costs(comparison: Comparison) -> Any:
    """Loss against what it costs; the front is what no other run beats in both."""
    candidates = comparison.candidates
    if not any(comparison.fronts.values()):
        return None
    figure, panels = _figure(12, 4, columns=len(COSTS), sharey=True)
    for axes, (metric, name) in zip(panels, COSTS.items(), strict=True):
        known = [c for c in candidates if metric in c.metrics]
        costs = [c.metrics[metric] for c in known]
        axes.plot(costs, [c.loss for c in known], "o", color=GREY, alpha=0.7, markersize=5)
        front = [candidates[i] for i in comparison.fronts[metric]]
        axes.plot(
            [c.metrics[metric] for c in front], [c.loss for c in front], "o-", color=BLUE, markersize=7, linewidth=1
        )
        if comparison.winner and metric in comparison.winner.metrics:
            axes.plot(comparison.winner.metrics[metric], comparison.winner.loss, "o", color=RED, markersize=7)
        if costs and min(costs) > 0 and max(costs) > 20 * min(costs):
            axes.set_xscale("log")
        else:
            axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel(name)
        axes.margins(x=0.08, y=0.08)
    panels[0].set_ylabel(LOSS)
    handles = [_handle(BLUE, "no other is better in both"), _handle(GREY, "beaten in both"), _handle(RED, "winner")]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


def _positions(values: Sequence[str]) -> dict[str, float]:
    """Where each value of an axis stands between 0 and 1: evenly, in order."""
    ordered = sorted(set(values), key=sort_key)
    return {value: i / (len(ordered) - 1) if len(ordered) > 1 else 0.5 for i, value in enumerate(ordered)}


def _parallel(comparison: Comparison) -> Any:
    """A line per candidate through its values of all axes to its loss."""
    axes_names = [effect.axis for effect in comparison.effects if effect.axis != SEED]
    candidates = comparison.candidates
    if not axes_names or len(candidates) < 2:
        return None
    figure, (axes,) = _figure(2.4 + 2.1 * len(axes_names), 5)
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    places = [_positions([c.values.get(axis, "") for c in candidates]) for axis in axes_names]
    low, high = candidates[0].loss, candidates[-1].loss
    colors = _shades(len(candidates))
    for rank in reversed(range(len(candidates))):
        candidate: Candidate = candidates[rank]
        heights = [place[candidate.values.get(axis, "")] for axis, place in zip(axes_names, places, strict=True)]
        heights.append((candidate.loss - low) / (high - low) if high > low else 0.5)
        style = (
            {"color": RED, "linewidth": 2.4} if rank == 0 else {"color": colors[rank], "linewidth": 1.2, "alpha": 0.7}
        )
        axes.plot(range(len(heights)), heights, **style)
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    for x, place in enumerate(
        [*places, {f"{low:.4f}": 0.0, f"{high:.4f}": 1.0} if high > low else {f"{low:.4f}": 0.5}]
    ):
        axes.axvline(x, color="#b0b0b0", linewidth=1, zorder=0)
        for value, height in place.items():
            axes.text(x + 0.03, height, short(value, 18), va="center", fontsize=8, bbox=box)
    names = [*(axis.replace(".", ".\n") for axis in axes_names), "loss"]
    axes.set_xticks(range(len(names)), names, fontsize=9)
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(names) - 0.6)
    axes.set_title("red: the lowest loss", fontsize=9)
    return figure
