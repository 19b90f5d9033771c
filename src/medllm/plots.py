"""The two pictures of the main job: a run's loss, a sweep's points."""

from pathlib import Path
from typing import Any


def _axes(width: float, height: float) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="both", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


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
    figure, axes = _axes(7, 4)
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
    """Points of a sweep by held-out loss, best first.

    Args:
        points: (label, held-out loss, seconds, peak GiB) of each finished point, sorted.
        title: Name of the sweep.
        path: PNG to write.
    """
    figure, axes = _axes(8, 1.6 + 0.42 * max(len(points), 1))
    labels = [label for label, *_ in points]
    losses = [loss for _, loss, *_ in points]
    axes.plot(losses, range(len(points)), linestyle="", marker="o", markersize=8, color="#2c6fad")
    beside = axes.get_yaxis_transform()  # x in shares of the axes' width, y in data
    for row, (_, loss, seconds, memory) in enumerate(points):
        text = f"{loss:8.4f} {seconds:7,.0f} s {memory:6.1f} GiB"
        axes.text(1.02, row, text, transform=beside, va="center", fontsize=9, family="monospace")
    axes.set_yticks(range(len(points)), labels)
    axes.invert_yaxis()
    axes.margins(x=0.1, y=0.15)
    axes.set(xlabel="held-out loss (nats per supervised token)", title=title)
    return _save(figure, path)
