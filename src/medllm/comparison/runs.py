"""Runs to compare, from a sweep's folder or from any folders."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medllm.conversation_losses import ConversationLosses
from medllm.errors import MedLLMError
from medllm.run_folder import CONFIG, SWEEP, SweepFile, read_config, read_history, read_result

# Parts of a configuration that change nothing of what is trained or measured.
WITHOUT_EFFECT = ("name", "tracking", "hub", "generation", "sweep")
SEED = "seed"
ABSENT = "-"


@dataclass(frozen=True)
class Run:
    """One run, finished or not.

    Attributes:
        folder: Where it lies.
        label: What distinguishes it, to show.
        values: Axis to value, as text.
        seed: Of its configuration; None if that cannot be read.
        status: FINISHED, FAILED, KILLED ...; `NOT FINISHED` if it has left no result.
        reason: Why it did not finish; empty if it did.
        objective: What a sweeper minimises; None if it has none that is finite.
        metrics: Its numbers under the names of the run record.
        history: Learning curves, `train` and `eval`.
        losses: Of each held-out conversation; None if it left none, or some that are not finite.
        choices: Group to option.
        code: Version of medllm and commit that made it; empty if it left no manifest.
    """

    folder: Path
    label: str
    values: dict[str, str]
    seed: int | None
    status: str
    reason: str
    objective: float | None
    metrics: dict[str, float]
    history: dict[str, list[tuple[int, float]]]
    losses: ConversationLosses | None
    choices: dict[str, str]
    code: str

    @property
    def ranked(self) -> bool:
        """Only a run that reached its end with a number takes part."""
        return self.status == "FINISHED" and self.objective is not None


@dataclass(frozen=True)
class RunSet:
    """Runs that are held beside each other.

    Attributes:
        name: Of the sweep, or of the comparison.
        axes: Keys that differ, in order.
        runs: All of them, in order.
        folder: The sweep's; None for runs from anywhere.
    """

    name: str
    axes: list[str]
    runs: list[Run] = field(default_factory=list)
    folder: Path | None = None


def load_sweep(folder: Path) -> RunSet:
    """The points of a sweep, also those which have not run.

    Raises:
        MedLLMError: if the folder holds no sweep, or one of its files or of its runs' is damaged.
    """
    if not (folder / SWEEP).is_file():
        raise MedLLMError(f"{folder}: is no sweep, it holds no {SWEEP}")
    sweep = SweepFile.load(folder)
    runs = [_load(folder / point.folder, point.label, point.values) for point in sweep.points]
    return RunSet(sweep.name, list(sweep.axes), runs, folder)


def load_runs(folders: Sequence[Path], name: str = "runs") -> RunSet:
    """Runs of any origin; their axes are the keys in which their configurations differ.

    Raises:
        MedLLMError: if a folder holds no run, or a file of one is damaged.
    """
    folders = list(dict.fromkeys(folder.resolve() for folder in folders))
    for folder in folders:
        if not (folder / CONFIG).is_file():
            raise MedLLMError(f"{folder}: is no run, it holds no {CONFIG}")
    if not folders:
        raise MedLLMError("no runs to compare")
    configs = [leaves(_config(folder)) for folder in folders]
    choices = [read_result(folder).get("choices", {}) for folder in folders]
    axes = _differing(configs, choices)
    runs = []
    for folder, config, chosen in zip(folders, configs, choices, strict=True):
        values = {axis: str(chosen.get(axis, config.get(axis, ABSENT))) for axis in axes}
        label = ", ".join(f"{axis}={value}" for axis, value in values.items()) or folder.name
        runs.append(_load(folder, label, values))
    return RunSet(name, axes, runs)


def leaves(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key to value; lists, empty mappings and null count as values."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _differing(configs: list[dict[str, Any]], choices: list[dict[str, str]]) -> list[str]:
    """Groups whose option differs, and leaves that differ without following from such an option."""
    groups = [group for group in dict.fromkeys(g for c in choices for g in c) if group not in WITHOUT_EFFECT]
    groups = [group for group in groups if all(choices) and len({c.get(group) for c in choices}) > 1]
    axes: list[str] = list(groups)
    for key in dict.fromkeys(key for config in configs for key in config):
        group = key.partition(".")[0]
        values = [str(config.get(key, ABSENT)) for config in configs]
        if group in WITHOUT_EFFECT or len(set(values)) == 1:
            continue
        if group in groups:
            options = [chosen.get(group) for chosen in choices]
            if len(set(zip(options, values, strict=True))) == len(set(options)):
                continue
        axes.append(key)
    return [*(axis for axis in axes if axis != SEED), *([SEED] if SEED in axes else [])]


def _config(folder: Path) -> dict[str, Any]:
    return read_config(folder) if (folder / CONFIG).is_file() else {}


def _load(folder: Path, label: str, values: dict[str, str]) -> Run:
    result = read_result(folder)
    status = str(result.get("status", "NOT FINISHED"))
    reason = str(result.get("reason") or "")
    objective = result.get("objective")
    if objective is None or not math.isfinite(objective):
        reason = reason or ("its objective is not finite" if status == "FINISHED" else "it has left no result")
        objective = None
    seed = values.get(SEED, _config(folder).get(SEED))
    return Run(
        folder=folder,
        label=label or folder.name,
        values=values,
        seed=int(seed) if seed is not None and str(seed).isdigit() else None,
        status=status,
        reason=reason,
        objective=objective,
        metrics={name: float(value) for name, value in result.get("metrics", {}).items() if value is not None},
        history=read_history(folder),
        losses=_losses(folder),
        choices=dict(result.get("choices", {})),
        code=_code(folder),
    )


def _losses(folder: Path) -> ConversationLosses | None:
    losses = ConversationLosses.load(folder)
    return losses if losses is not None and all(map(math.isfinite, losses.loss)) else None


def _code(folder: Path) -> str:
    try:
        manifest = json.loads((folder / "artifact" / "manifest.json").read_text(encoding="utf-8"))
        return (
            f"medllm {manifest.get('medllm', '?')}, commit {str((manifest.get('code') or {}).get('commit', '?'))[:12]}"
        )
    except (OSError, ValueError, AttributeError):
        return ""
