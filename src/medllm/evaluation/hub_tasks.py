"""The harness's own multiple-choice tasks, whose data come from the hub."""

from collections.abc import Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from medllm.config.evaluation.knowledge import Scoring
from medllm.errors import ConfigError, DataError, Fault
from medllm.evaluation.harness import metric_of, quiet

KEY = "evaluation.knowledge.tasks"


def load_hub_tasks(names: Sequence[str], taken: set[str]) -> dict[str, Any]:
    """Tasks by name, groups as the tasks in them.

    Args:
        names: Of tasks and groups of the harness.
        taken: Names that figures of files have already.

    Raises:
        ConfigError: for a name that the harness does not have, or whose task is not multiple choice, or has a file's name.
        DataError: naming the data set that cannot be had.
    """
    if not names:
        return {}
    with quiet():
        manager = _manager()
        known = set(manager.all_tasks)
        faults = [_unknown(name, known) for name in names if name not in known]
        if faults:
            raise ConfigError(faults)
        tasks: dict[str, Any] = {}
        for name in names:
            try:
                tasks |= manager.load([name])["tasks"]
            except Exception as error:  # whatever a data set's code, the hub or the network may raise
                raise DataError(_unreachable(name, _data_set(manager, name), error)) from None
    faults = [Fault(KEY, "has the name of a file", name, fix="rename the file") for name in tasks if name in taken]
    for name, task in tasks.items():
        letters = metric_of(Scoring.letters)
        if task.OUTPUT_TYPE != "multiple_choice" or letters not in task._metric_fn_list or task.multiple_input:
            faults.append(Fault(KEY, "is not answered by choosing an option", name, fix="choose another task"))
    if faults:
        raise ConfigError(faults)
    return tasks


@lru_cache(maxsize=1)
def _manager() -> Any:
    """The harness's list of tasks, which takes seconds to read."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def target_of(task: Any, document: Any) -> int:
    """Index of a document's right option."""
    target = task.doc_to_target(document)
    if isinstance(target, list):
        target = target[0]
    return int(target) if isinstance(target, int) else list(task.doc_to_choice(document)).index(target)


def _unknown(name: str, known: set[str]) -> Fault:
    near = get_close_matches(name, known, n=1)
    fix = f"did you mean {near[0]}?" if near else "lm-eval ls tasks"
    return Fault(KEY, "no such task of the harness", name, fix=fix)


def _data_set(manager: Any, name: str) -> str:
    """Where a task's data would come from; empty for a group."""
    try:
        return str(manager._index[name].cfg["dataset_path"])
    except (AttributeError, KeyError, TypeError):
        return ""


def _unreachable(name: str, data_set: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200]
    return (
        f"{name}: its data set {data_set or 'on the hub'} cannot be had ({type(error).__name__}: {reason})\n"
        f"    fix: check the connection to the hub (HF_HUB_OFFLINE must be unset), or give a local copy by "
        "evaluation.knowledge.files"
    )
