"""Runs a sweep inside its parent record."""

import contextlib
import csv
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool as BrokenExecutor
from pathlib import Path

from medllm.config.compose import Plan
from medllm.config.run import RunConf
from medllm.console import console
from medllm.errors import ConfigError, Fault, PointFailedError
from medllm.plots import plot_sweep
from medllm.summary import print_points
from medllm.sweep.points import SWEEP, read_results, write_sweep
from medllm.tracking.build import open_record
from medllm.tracking.record import Opening, Record


@contextlib.contextmanager
def open_sweep(plan: Plan, conf: RunConf) -> Iterator[Record]:
    """A parent record around the points; table and plot when they are through, also when some failed.

    Opening it makes the database, so that points in several processes find it ready.

    Args:
        plan: The points.
        conf: Of any of them: names and tracks the sweep.

    Raises:
        PointFailedError: if a point failed or is missing.
    """
    labels = [", ".join(point.overrides) or conf.name for point in plan.points]
    params = {f"point.{number}": label for number, label in enumerate(labels)}
    if (plan.sweep_dir / SWEEP).exists():
        raise ConfigError(
            Fault("hydra.sweep.dir", "holds a sweep already", str(plan.sweep_dir), fix="choose another folder")
        )
    name = f"{conf.name} sweep of {len(labels)}"
    with open_record(conf.tracking, Opening(name, params, {"sweep.points": str(len(labels))})) as record:
        write_sweep(plan.sweep_dir, record.id, labels)
        try:
            yield record
        except PointFailedError:
            pass  # the table says which and why; what it means is decided below
        except BrokenExecutor as error:
            console.print(f"a process of the sweep died: {type(error).__name__}", markup=False)
        finally:
            record.end_children()
            _conclude(plan.sweep_dir, name, record)
        rows = read_results(plan.sweep_dir)
        bad = [row for row in rows if row["status"] != "FINISHED"]
        if bad:
            points = "; ".join(f"{row['label']} {row['status']}" for row in bad)
            raise PointFailedError(f"{len(bad)} of {len(rows)} points did not finish: {points}")


def _conclude(folder: Path, name: str, record: Record) -> None:
    rows = read_results(folder)
    print_points(rows, name)
    with (folder / "points.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["point", "status", "held_out_loss", "seconds", "peak_memory_gib", "reason"])
        for row in rows:
            metrics = row.get("metrics", {})
            cost = [metrics.get("perf/seconds", ""), metrics.get("perf/peak_memory_gib", "")]
            writer.writerow([row["label"], row["status"], row.get("objective", ""), *cost, row.get("reason", "")])
    record.log_artifact(folder / "points.csv")
    finished = [
        (row["label"], row["objective"], row["metrics"]["perf/seconds"], row["metrics"]["perf/peak_memory_gib"])
        for row in rows
        if row["status"] == "FINISHED"
    ]
    if finished:
        record.log_artifact(plot_sweep(finished, name, folder / "points.png"))
        record.log_metrics({"sweep/best_eval_loss": finished[0][1], "sweep/finished": len(finished)}, 0)
