"""Optuna's side of a search: the study in `<sweep>/study.db`, drawing values, and reporting losses from any process."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import Trial, TrialState

from medllm.config.search import Axis, Pruner, SearchConf
from medllm.run_folder import STUDY

# Names in the study: the folder of a trial's point, and how it prunes, for points in other processes.
POINT, PRUNER = "point", "pruner"

optuna.logging.set_verbosity(optuna.logging.WARNING)


def _storage(folder: Path) -> RDBStorage:
    # Points of several processes write to it; SQLite lets one of them at a time.
    return RDBStorage(f"sqlite:///{folder / STUDY}", engine_kwargs={"connect_args": {"timeout": 120}})


def _pruner(settings: dict[str, int] | None) -> optuna.pruners.BasePruner:
    return optuna.pruners.MedianPruner(**settings) if settings is not None else optuna.pruners.NopPruner()


def open_study(folder: Path, name: str, conf: SearchConf) -> Study:
    """The study of a search, made where there is none."""
    study = optuna.create_study(storage=_storage(folder), study_name=name, direction="minimize", load_if_exists=True)
    median = {"n_startup_trials": conf.median.n_startup_trials, "n_warmup_steps": conf.median.n_warmup_steps}
    study.set_user_attr(PRUNER, median if conf.pruner is Pruner.median else None)
    return study


def ask(study: Study, conf: SearchConf) -> Trial:
    """The next trial. It follows from the trials before, so that a search gone on with is the search never stopped."""
    seed = conf.seed + len(study.get_trials(deepcopy=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=conf.tpe.n_startup_trials)
    return study.ask()


def suggest(trial: Trial, axes: Sequence[Axis]) -> dict[str, Any]:
    """The trial's values, by key; the same ones at every call."""
    values: dict[str, Any] = {}
    for axis in axes:
        if axis.choices:
            values[axis.key] = trial.suggest_categorical(axis.key, axis.choices)
        elif axis.step is None:
            values[axis.key] = trial.suggest_float(axis.key, axis.low, axis.high, log=axis.log)
        else:
            low, high = int(axis.low), int(axis.high)
            values[axis.key] = trial.suggest_int(axis.key, low, high, step=axis.step, log=axis.log)
    return values


def running(study: Study) -> list[Trial]:
    """Trials that have not ended, oldest first: of points under way, or left by a process that died."""
    found = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [Trial(study, trial._trial_id) for trial in found]


def reporter(folder: Path) -> Callable[[int, float], bool] | None:
    """What a point of a search tells its held-out losses: step and loss, and whether to stop. None where no trial waits.

    Args:
        folder: The point's.
    """
    storage = _storage(folder.parent)
    study = optuna.load_study(study_name=None, storage=storage)
    study.pruner = _pruner(study.user_attrs[PRUNER])
    mine = [trial for trial in running(study) if trial.user_attrs.get(POINT) == folder.name]
    if not mine:
        return None

    def report(step: int, loss: float) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a step that was reported before the point was resumed
            mine[0].report(loss, step)
        return bool(mine[0].should_prune())

    return report
