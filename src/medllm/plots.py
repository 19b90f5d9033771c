"""The picture of a run: its loss."""

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
