"""Runs a sweep: what is left of its plan, by any of Hydra's launchers, inside its parent record."""

import contextlib
import csv
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from medllm.comparison.report import compare_sweep, print_comparison, write_comparison
from medllm.config.plan import Plan
from medllm.config.run import RunConf
from medllm.config.store import slug
from medllm.config.trainer import LOSS
from medllm.console import console, harmless, say
from medllm.errors import ConfigError, Fault, MedLLMError, PointFailedError
from medllm.redaction import redacted
from medllm.run_folder import RESULT, STOP, SWEEP, SweepFile, SweepPoint, has_unsent, lock_sweep, read_result
from medllm.stopping import OWNER, stop
from medllm.storage import GO_ON, explained_storage, remove_partial
from medllm.summary import print_points
from medllm.sweep.outlook import Outlook
from medllm.sweep.pool import make_ready
from medllm.tracking.build import open_record, replay_records
from medllm.tracking.record import Opening, Record

# What is over and no failure.
ENDED = ("FINISHED", "PRUNED")

_current: list["Sweep"] = []


def current_sweep() -> "Sweep":
    """The sweep that this process runs."""
    return _current[-1]


class Sweep:
    """A plan on disk.

    Attributes:
        plan: What was asked for.
        file: What the sweep's folder knows, with this plan's points added.
        points: This plan's points as the folder knows them, in its order.
        confs: Of its points, by key.
    """

    def __init__(self, plan: Plan, prices: Sequence[Outlook]):
        self.plan = plan
        self.folder = plan.sweep_dir
        self.file = self._read(plan)
        known = {point.key: point for point in self.file.points}
        self.points = [
            known.get(price.key) or sweep_point(point.overrides, point.command, price.key, plan.axes)
            for point, price in zip(plan.points, prices, strict=True)
        ]
        self.file.points += [point for point in self.points if point.key not in known]
        self.confs = {price.key: point.conf for point, price in zip(plan.points, prices, strict=True)}

    def _read(self, plan: Plan) -> SweepFile:
        if not (self.folder / SWEEP).is_file():
            return SweepFile(str(plan.sweep.name), base_key=plan.base_key, axes=list(plan.axes))
        file = SweepFile.load(self.folder)
        if file.base_key != plan.base_key:
            held = f"holds a sweep over {', '.join(file.axes)} with other settings or axes"
            raise ConfigError(Fault("sweep.name", held, str(self.folder), fix="choose another name"))
        file.axes = list(plan.axes) if len(plan.axes) > len(file.axes) else file.axes
        return file

    def result(self, point: SweepPoint) -> dict[str, Any]:
        """What became of a point; empty if it has not ended."""
        return read_result(self.folder / point.folder)

    def state(self, point: SweepPoint) -> str:
        """What typing the line again means for a point: `finished`, `pruned`, `failed`, `resumes`, `retries` or `new`."""
        status = self.result(point).get("status", "")
        if status in ENDED:
            return str(status).lower()
        if status == "FAILED":
            return "retries" if self.plan.sweep.retry_failed else "failed"
        return "resumes" if (self.folder / point.folder).is_dir() else "new"

    def todo(self) -> list[SweepPoint]:
        """Points to run now, in the order of the plan."""
        return [point for point in self.points if self.state(point) not in ("finished", "pruned", "failed")]

    def launch(self, launcher: Any) -> None:
        """Runs what is left."""
        self.start(launcher, self.todo())

    def start(self, launcher: Any, points: Sequence[SweepPoint]) -> None:
        """Runs points with a Hydra launcher; results come back through their folders."""
        for point in points:
            (self.folder / point.folder / RESULT).unlink(missing_ok=True)
        jobs = [[*point.overrides, f"hydra.sweep.subdir='{point.folder}'"] for point in points]
        if not jobs:
            return
        try:
            confs = [self.confs[point.key] for point in points]
            make_ready(launcher, confs, self.folder, min(self.plan.processes, len(jobs)))
            launcher.launch(jobs, initial_job_idx=0)
        except MedLLMError:
            raise
        except Exception as error:  # each engine has its own for a process that died; the points' folders say the rest
            reason = redacted(str(error).strip() or "no reason given").split("\n")[0][:200]
            console.print(f"the engine ended early: {type(error).__name__}: {reason}")
        finally:
            _end_ray()

    @contextlib.contextmanager
    def open(self, conf: RunConf) -> Iterator[None]:
        """The parent record around the points; table, plots and truth when they are through, however that comes.

        Opening it makes the database, so that points in several processes find it ready.

        Args:
            conf: Of any point: names and tracks the sweep.

        Raises:
            ConfigError: if another process runs this sweep already.
            PointFailedError: if a point failed or is missing.
        """
        lock = lock_sweep(self.folder, self.file.name)
        for point in self.file.points:
            remove_partial(self.folder / point.folder)
        stop.file = self.folder / STOP
        stop.file.unlink(missing_ok=True)
        os.environ[OWNER] = str(os.getpid())
        stop.listen()
        tags = {"sweep.name": self.file.name, "sweep.axes": ", ".join(self.file.axes)}
        opening = Opening(f"{self.file.name} sweep", {}, tags, run_id=self.file.parent_id)
        _current.append(self)
        try:
            with (
                explained_storage(self.folder, GO_ON),  # and within the record, so that it has the reason in words
                open_record(conf.tracking, opening, self.folder) as record,
                explained_storage(self.folder, GO_ON),
            ):
                self.file.parent_id = record.id
                record.log_artifact(self.file.save(self.folder))
                record.end_children()  # of an earlier process, which the lock says is dead
                self._replay(conf)
                try:
                    with stop.deferred("stopping after the steps under way"):
                        yield
                    if stop.requested():
                        stop.raise_now()
                except PointFailedError:
                    pass  # the table says which and why; what it means is decided below
                finally:
                    record.end_children()
                    self._replay(conf)
                    self._conclude(record)
                self._refuse_unfinished()
        finally:
            _current.pop()
            os.environ.pop(OWNER, None)
            stop.file = None
            lock.release()

    def rows(self) -> list[dict[str, Any]]:
        """One row per point, best objective first, then pruned ones, then those without one in the order of the plan.

        A point without a result never ended: its process was killed, or it was never started.
        """
        found = []
        for number, point in enumerate(self.points):
            started = (self.folder / point.folder).is_dir()
            result = self.result(point) or {"status": "KILLED" if started else "NOT STARTED"}
            found.append({"number": number, "label": point.label, "folder": point.folder, **result})

        def rank(row: dict[str, Any]) -> tuple[bool, bool, float, int]:
            objective = row.get("objective")
            return (objective is None, row["status"] == "PRUNED", objective or 0.0, row["number"])

        return sorted(found, key=rank)

    def _replay(self, conf: RunConf) -> None:
        """What points could not send, if the store is back; their own word on how they ended is the last."""
        left = [folder for point in self.file.points if has_unsent(folder := self.folder / point.folder)]
        if not left or has_unsent(self.folder):  # then the store is away now
            return
        for *_, why_not in replay_records(left, getattr(conf.tracking, "tracking_uri", "")):
            if why_not:
                console.print(harmless(redacted(why_not)))  # it may quote a damaged file

    def _refuse_unfinished(self) -> None:
        rows = self.rows()
        bad = [row for row in rows if row["status"] not in ENDED]
        if bad:
            points = "; ".join(f"{row['label']} {row['status']}" for row in bad)
            raise PointFailedError(
                f"{len(bad)} of {len(rows)} points did not finish: {points}\n    the same command goes on with them"
            )

    def _conclude(self, record: Record) -> None:
        """Table, plots and page of what is there."""
        rows = self.rows()
        print_points(rows, f"{self.file.name}: {len(rows)} points")
        table = self.folder / "points.csv"
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["point", "status", "held_out_loss", "seconds", "peak_memory_gib", "reason"])
            for row in rows:
                metrics = row.get("metrics", {})
                cost = [metrics.get("perf/seconds", ""), metrics.get("perf/peak_memory_gib", "")]
                writer.writerow(
                    [
                        row["label"],
                        row["status"],
                        metrics.get("eval/loss", row.get("objective", "")),
                        *cost,
                        row.get("reason", ""),
                    ]
                )
        record.log_artifact(table)
        record.log_artifact(self.folder / SWEEP)  # a search's has grown
        finished = [row for row in rows if row["status"] == "FINISHED"]
        if len(finished) > 1:
            comparison = compare_sweep(self.folder)
            print_comparison(comparison, console)
            if any(row.get("aim", LOSS) != LOSS for row in finished):
                console.print("the comparison is by held-out loss; the table above is by the objective")
            page, *pictures = write_comparison(comparison, self.folder)
            record.log_artifact(page)
            for picture in pictures:
                record.log_artifact(picture, "comparison")
            say("page", str(page))
        if finished:
            best = finished[0].get("metrics", {}).get("eval/loss", finished[0]["objective"])
            known = {} if best is None else {"sweep/best_eval_loss": best}
            record.log_metrics({**known, "sweep/finished": len(finished)}, 0)


def _end_ray() -> None:
    """Ends Ray's workers, some of which outlive an interrupted launch and would change points while the table is written."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()


def sweep_point(overrides: Sequence[str], command: Sequence[str], key: str, axes: Sequence[str]) -> SweepPoint:
    """A point as the sweep's folder will know it.

    Args:
        overrides: What distinguishes it.
        command: The command line that makes it alone.
        key: See `medllm.sweep.identity.point_key`.
        axes: Keys that differ between points.
    """
    values = dict(override.partition("=")[::2] for override in overrides)
    folder = f"{slug(','.join(overrides))}-{key[:8]}"
    return SweepPoint(folder, ", ".join(overrides), {axis: values[axis] for axis in axes}, list(command), key)
