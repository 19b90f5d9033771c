"""The two pictures of the main job: a run's loss, a sweep's points."""

from pathlib import Path
from typing import Any


def _axes(width: float, height: float, columns: int = 1) -> tuple[Any, list[Any]]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, columns, figsize=(width, height), layout="constrained", sharey=True, squeeze=False
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


def plot_loss(train: list[tuple[int, float]], held_out: list[tuple[int, float]], title: str, path: Path) -> Path:
    """Training and held-out loss by optimizer step.

    Args:
        train: (step, loss) of each training log.
        held_out: (step, loss) of each evaluation, step 0 being the base model.
        title: Name of the run.
        path: PNG to write.
    """
    figure, (axes,) = _axes(7, 4)
    if train:
        axes.plot(*zip(*train, strict=True), color="#9db8d9", linewidth=1.2, label="training")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color="#c0392b", marker="o", linewidth=2, label="held-out")
        for step, loss in (held_out[0], held_out[-1]):
            axes.annotate(f"{loss:.3f}", (step, loss), textcoords="offset points", xytext=(0, 8), ha="center")
    axes.set(xlabel="optimizer step", ylabel="loss (nats per supervised token)", title=title)
    axes.margins(y=0.12)
    if train or held_out:
        axes.legend(frameon=False)
    return _save(figure, path)


def plot_sweep(points: list[tuple[str, float, float, float]], title: str, path: Path) -> Path:
    """Points of a sweep by held-out loss, time and memory, best loss first.

    Args:
        points: (label, held-out loss, seconds, peak GiB) of each finished point, sorted.
        title: Name of the sweep.
        path: PNG to write.
    """
    panels = (("held-out loss (nats per token)", "{:.4f}"), ("time (s)", "{:,.0f}"), ("peak memory (GiB)", "{:.1f}"))
    figure, (first, *others) = _axes(10, 1.7 + 0.42 * max(len(points), 1), columns=len(panels))
    rows = range(len(points))
    for number, (axes, (name, form)) in enumerate(zip((first, *others), panels, strict=True), start=1):
        values = [float(point[number]) for point in points]
        axes.plot(values, rows, linestyle="", marker="o", markersize=8, color="#2c6fad" if number == 1 else "#8a8a8a")
        for row, value in enumerate(values):
            axes.annotate(
                form.format(value), (value, row), textcoords="offset points", xytext=(0, 8), ha="center", fontsize=8
            )
        axes.set_xlabel(name)
        axes.margins(x=0.25, y=0.25)
        axes.locator_params(axis="x", nbins=4)
        if number > 1:
            axes.set_xlim(left=0, right=max(values) * 1.2)
    first.set_yticks(rows, [point[0] for point in points])
    first.invert_yaxis()
    figure.suptitle(title)
    return _save(figure, path)
