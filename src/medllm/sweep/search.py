"""A search: a sweep whose points Optuna suggests while it runs, each an ordinary point of a sweep.

The study and the points' folders say the same. Where a process died between the two, the folders are right: a trial that is
still running is told what its point's folder holds, or its point goes on.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from optuna.study import Study
from optuna.trial import Trial, TrialState

from medllm.config.compose import load_run_conf
from medllm.config.plan import Plan
from medllm.config.search import LARGEST_GRID, Space
from medllm.console import console
from medllm.errors import MedLLMError
from medllm.models.preflight import degraded
from medllm.run_folder import SweepPoint, write_result
from medllm.stopping import stop
from medllm.sweep.identity import digest, point_key
from medllm.sweep.outlook import Outlook, data_name, prepare
from medllm.sweep.run import Sweep, sweep_point
from medllm.sweep.study import POINT, ask, open_study, running, suggest

# Suggestions in a row that have been run already, before the search looks for a point by itself or ends.
PATIENCE = 10


class Search(Sweep):
    """A search on disk. Its points grow while it runs.

    Attributes:
        space: What it draws from.
        study: Optuna's; there once it has been launched.
    """

    study: Study

    def __init__(self, plan: Plan, prices: Sequence[Outlook]):
        super().__init__(replace(plan, points=()), [])
        assert plan.space is not None
        self.space: Space = plan.space
        self.points = self.file.points
        confs = [point.conf for point in plan.points]
        self._fingerprints = {data_name(c): price.fingerprint for c, price in zip(confs, prices, strict=True)}
        self._retries: set[str] = set()
        self._repeats = 0

    def launch(self, launcher: Any) -> None:
        """Runs points in batches until there are as many as asked for, or no more."""
        self.study = open_study(self.folder, self.file.name, self.space.conf)
        left = [(trial, self._point(trial)) for trial in running(self.study)]
        left = [(trial, point) for trial, point in left if not self._tell(trial, point)]
        self._queue_failed()
        while not stop.requested():
            batch = self._batch(left)
            points = list({point.key: point for _, point in batch}.values())
            if not points:
                return
            self.start(launcher, points)
            for trial, point in batch:
                self._tell(trial, point)
            if not any(self.result(point) for point in points):
                return  # the engine itself does not run; it has been said why

    def _batch(self, left: list[tuple[Trial, SweepPoint]]) -> list[tuple[Trial, SweepPoint]]:
        """Trials to run now, `left` first; several may have the same point."""
        batch: list[tuple[Trial, SweepPoint]] = []
        while len({point.key for _, point in batch}) < self.space.n_jobs:
            if left:
                batch.append(left.pop(0))
                continue
            if not self._has_more():
                break
            trial = ask(self.study, self.space.conf)
            before = len(self.points)
            point = self._point(trial)
            again = point.key in self._retries
            self._retries.discard(point.key)
            if any(point.key == other.key for _, other in batch):
                self._repeats += 1
                batch.append((trial, point))
            elif not again and self._tell(trial, point):
                self._repeats += len(self.points) == before
            else:
                self._repeats = 0
                batch.append((trial, point))
        return batch

    def _has_more(self) -> bool:
        """Whether to ask for another trial; says why not where fewer points were run than asked for."""
        trials = self.study.get_trials(deepcopy=False)
        if any(trial.state is TrialState.WAITING for trial in trials):
            return True
        count = self.space.conf.n_trials
        if len(self.points) >= count:
            return False
        if self.space.size <= LARGEST_GRID:
            grid = itertools.product(*(axis.values() for axis in self.space.axes))
            keys = [axis.key for axis in self.space.axes]
            tried = {tuple(trial.params.get(key) for key in keys) for trial in trials}
            untried = next((values for values in grid if values not in tried), None)
            if untried is None:
                console.print(f"the space has no more points: {len(self.points)} of {count} trials")
                return False
            if self._repeats >= PATIENCE:
                self.study.enqueue_trial(dict(zip(keys, untried, strict=True)))
        elif self._repeats >= PATIENCE:
            said = f"the last {PATIENCE} suggestions have been run already: {len(self.points)} of {count} trials"
            console.print(said)
            return False
        return True

    def _queue_failed(self) -> None:
        """Failed points are suggested once more."""
        trials = self.study.get_trials(deepcopy=False)
        waiting = [t.system_attrs.get("fixed_params") for t in trials if t.state is TrialState.WAITING]
        for point in self.points:
            own = [trial for trial in trials if trial.user_attrs.get(POINT) == point.folder]
            if own and self.state(point) == "retries":
                self._retries.add(point.key)
                if own[-1].params not in waiting:
                    self.study.enqueue_trial(own[-1].params)

    def _point(self, trial: Trial) -> SweepPoint:
        """The point of a trial: a known one, or a new one, which is kept before it runs."""
        own = self.space.overrides(suggest(trial, self.space.axes))
        command = [*self.space.fixed, *own]
        reason = ""
        try:
            conf = load_run_conf(command)
            if not self.plan.elsewhere:
                conf, _ = degraded(conf)  # as a grid's points are planned
            name = data_name(conf)
            if name not in self._fingerprints:
                self._fingerprints[name] = prepare(conf).fingerprint
            key = point_key(conf, self._fingerprints[name])
            self.confs[key] = conf
        except MedLLMError as error:  # single values are right, as planning has shown; together they need not be
            key, reason = digest(command), str(error)
        point = next((point for point in self.points if point.key == key), None)
        if point is None:
            point = sweep_point(own, command, key, self.plan.axes)
            self.points.append(point)
            self.file.save(self.folder)
        if reason:
            write_result(self.folder / point.folder, "FAILED", reason=reason)
            self._retries.discard(key)  # no engine can be given it
        trial.set_user_attr(POINT, point.folder)
        return point

    def _tell(self, trial: Trial, point: SweepPoint) -> bool:
        """Tells the study what became of a trial's point, and returns whether it has ended; else the trial goes on running."""
        result = self.result(point)
        status, objective = result.get("status"), result.get("objective")
        if status == "FINISHED" and objective is not None and math.isfinite(objective):
            self.study.tell(trial.number, objective)
        elif status == "PRUNED":
            self.study.tell(trial.number, state=TrialState.PRUNED)
        elif status in ("FINISHED", "FAILED"):
            self.study.tell(trial.number, state=TrialState.FAIL)
        else:
            return False
        return True
