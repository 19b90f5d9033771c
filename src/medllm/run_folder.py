"""What a run, and a sweep of runs, leave in their folders for others to read.

    <run>/config.yaml                 the resolved configuration
    <run>/result.json                 status, objective, metrics, reason
    <run>/data_report.json            what was trained on, in numbers
    <run>/base_identity               a hash of the base model's weights, where they are not made by the configuration
    <run>/history.json                learning curves, tokens and seconds over steps
    <run>/record_id                   its run in the tracking store
    <run>/record_key                  names the folder there, from before that run is made
    <run>/eval_losses.safetensors     final loss of each held-out conversation
    <run>/unsent.jsonl                what the tracking store has not got yet, in runs that go on or could not send it
    <run>/refused.jsonl               what was left unsent and the tracking store will never take
    <sweep>/sweep.json                parent record, axes, points
    <sweep>/study.db                  Optuna's trials, of a search
    <sweep>/<point>/                  a run each

Points may run in other processes or on other machines, so a sweep and its points talk to each other through these files.
"""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from medllm import ranks
from medllm.errors import ConfigError, Fault, RankError, in_brief
from medllm.intact import (
    expect,
    parse_data_report,
    parse_history,
    parse_id,
    parse_mapping,
    parse_object,
    parse_result,
    read_file,
)
from medllm.redaction import redacted
from medllm.storage import remove_partial

CONFIG, DATA = "config.yaml", "data_report.json"
BASE = "base_identity"
RESULT, HISTORY, LOSSES = "result.json", "history.json", "eval_losses.safetensors"
RECORD, RECORD_KEY, UNSENT, REFUSED = "record_id", "record_key", "unsent.jsonl", "refused.jsonl"
SWEEP, STOP, STUDY = "sweep.json", "stop", "study.db"

# What to do about a file that is damaged.
FIXES = {
    CONFIG: "copy artifact/config.yaml to its place, or move the run's folder away",
    DATA: "move that file away: the run then goes on without comparing its data with it",
    BASE: "move that file away: the run then goes on without comparing its base model with it",
    RESULT: "move that file away: the run then counts as one that was ended before its time",
    HISTORY: "move that file away: the run is then shown without its curves",
    LOSSES: "move that file away: the run then takes no part in what is counted by conversation",
    RECORD: "move that file away: the run is then found by its record_key, or recorded anew",
    RECORD_KEY: "move that file away: the run is then found by its record_id",
    SWEEP: "put back the copy in the run record; or move that file away, and the same line writes it anew; its runs as they are: "
    "python scripts/compare.py 'runs=<folder>/*'",
}
Thing = TypeVar("Thing")


def _read(path: Path, parse: Callable[[bytes], Thing]) -> Thing:
    """What a file of `FIXES` holds; raises FolderError if it is damaged."""
    return read_file(path, parse, FIXES[path.name])


@dataclass(frozen=True)
class SweepPoint:
    """A point as its sweep knows it.

    Attributes:
        folder: Name of its folder below the sweep's.
        label: What distinguishes it, to show: `lora.r=8, trainer.learning_rate=0.0001`.
        values: Axis to value, as text: `{"lora.r": "8"}`.
        overrides: The command line that makes it alone.
        key: Identifies resolved configuration and data.
    """

    folder: str
    label: str
    values: dict[str, str]
    overrides: list[str]
    key: str


@dataclass
class SweepFile:
    """What `sweep.json` holds.

    Attributes:
        name: Of the sweep.
        parent_id: Its run record; empty without tracking.
        base_key: Identifies what all points share.
        axes: Keys that differ between points, in the order of the command line.
        points: In the order of the plan; grows when the grid grows.
    """

    name: str
    parent_id: str = ""
    base_key: str = ""
    axes: list[str] = field(default_factory=list)
    points: list[SweepPoint] = field(default_factory=list)

    def save(self, folder: Path) -> Path:
        """Writes it whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        return write_whole(folder / SWEEP, json.dumps(asdict(self), indent=2, ensure_ascii=False))

    @classmethod
    def load(cls, folder: Path) -> "SweepFile":
        """Reads it, which must be there."""
        return _read(folder / SWEEP, cls._parse)

    @classmethod
    def _parse(cls, data: bytes) -> "SweepFile":
        values = parse_object(data)
        file = cls(**{**values, "points": [SweepPoint(**point) for point in values["points"]]})
        texts = [file.name, file.parent_id, file.base_key, *expect(list, file.axes)]
        for point in file.points:
            texts += [point.folder, point.label, point.key, *point.values, *point.values.values()]
            texts += expect(list, point.overrides)
            if point.folder in ("", "..") or Path(point.folder).name != point.folder:
                raise ValueError
        for text in texts:
            expect(str, text)
        return file


def lock_run(folder: Path) -> FileLock:
    """See `lock_folder`."""
    fix = "wait for it, or choose another folder"
    return lock_folder(folder, Fault("hydra.run.dir", "is in use by another process", str(folder), fix=fix))


def lock_sweep(folder: Path, name: str) -> FileLock:
    """See `lock_folder`."""
    fix = "wait for it, or choose another sweep.name"
    return lock_folder(folder, Fault("sweep.name", "is being run by another process", name, fix=fix))


def lock_folder(folder: Path, fault: Fault) -> FileLock:
    """Keeps other processes out of a run's or a sweep's folder, until it is released, as often as it was taken, or this one ends.

    What a killed one left half written there goes.

    Raises:
        ConfigError: with the fault, at once, if another process is in it; or if it cannot be written to.
    """
    lock = FileLock(folder.resolve() / ".lock", blocking=False, is_singleton=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ConfigError(fault) from None
    except OSError as error:
        problem = f"cannot be written to: {os.strerror(error.errno or 0)}"
        key = fault.key if fault.value == str(folder) else ""  # a sweep's name is not its folder
        raise ConfigError(Fault(key, problem, str(folder), allowed="a folder, there or not")) from None
    remove_partial(folder)
    return lock


def write_whole(path: Path, text: str) -> Path:
    """Replaces a file at once, so that nobody reads half of it, also after a kill."""
    beside = _beside(path)
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def require_writable(path: Path, key: str = "") -> None:
    """Refuses a file that `write_whole` could not write, before the work whose result it is to hold; makes the folder above it.

    Args:
        path: There or not.
        key: By which its user named it; empty for one of the program's own.

    Raises:
        ConfigError: if something else is there, or nothing can be made there.
    """
    problem, beside = "", _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.touch()
        beside.unlink()
        if path.exists() and not path.is_file():
            problem = "is a folder or a device"
    except OSError as error:
        problem = f"cannot be written: {os.strerror(error.errno or 0)}"
    if problem:
        fix = f"{key}=FILE, another one" if key else "move what is there elsewhere"
        raise ConfigError(
            Fault(key, problem, str(path), allowed="a file, there or not, in a folder to write to", fix=fix)
        )


def _beside(path: Path) -> Path:
    """Where a file is written before it takes its place."""
    return path.parent / f".{path.name}.{os.getpid()}.partial"


def as_json(value: Any) -> Any:
    """A value as JSON can hold it: null for what is no finite number, for which JSON has no word."""
    if isinstance(value, dict):
        return {key: as_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_result(folder: Path, status: str, *, objective: float | None = None, **rest: Any) -> None:
    """What became of a run: FINISHED, PRUNED, FAILED or KILLED, its objective, its metrics, its reason.

    Its tracking is `degraded` while the store has not got all that the run had to say.
    """
    folder.mkdir(parents=True, exist_ok=True)
    told = {name: redacted(value) if isinstance(value, str) else value for name, value in rest.items()}
    if has_unsent(folder):
        told["tracking"] = "degraded"
    values = as_json({"status": status, "objective": objective, **told})
    write_whole(folder / RESULT, json.dumps(values, indent=2, allow_nan=False))


def withdraw_degraded(folder: Path) -> None:
    """The store has got all that the run had to say."""
    values = read_result(folder)
    if values.pop("tracking", None):
        write_whole(folder / RESULT, json.dumps(values, indent=2, allow_nan=False))


def has_unsent(folder: Path) -> bool:
    """Whether a run or a sweep left something that its tracking store has not got."""
    path = folder / UNSENT
    if not path.is_file():
        return False
    with path.open("rb") as file:
        file.readline()  # for whom it is
        return bool(file.readline())


@contextlib.contextmanager
def one_failure(folder: Path) -> Iterator[None]:
    """Lets the rank that fails first say why, where the others, which then fail for want of it, find the reason.

    Args:
        folder: Of rank 0.

    Raises:
        RankError: instead of what the failure of another rank led to here.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        told = read_result(folder).get("reason", "") if ranks.world_size() > 1 else ""
        if told:
            raise RankError(told) from None
        if not ranks.is_main() and isinstance(error, Exception):
            write_result(folder, "FAILED", reason=f"rank {ranks.rank()}: {in_brief(error)}")
        raise


def read_result(folder: Path) -> dict[str, Any]:
    """What became of a run; empty if it has not ended."""
    path = folder / RESULT
    return _read(path, parse_result) if path.is_file() else {}


def write_history(
    folder: Path,
    train: list[tuple[int, float]],
    held_out: list[tuple[int, float]],
    tokens: Sequence[tuple[int, float]] = (),
    seconds: Sequence[tuple[int, float]] = (),
) -> None:
    """Curves over optimizer steps.

    Args:
        folder: The run's.
        train: Loss at each training log.
        held_out: Loss at each evaluation, step 0 being the base model.
        tokens: Tokens trained on until each training log.
        seconds: From this process's first optimizer step until each training log, whatever lay between.
    """
    curves = {"train": train, "eval": held_out, "tokens": tokens, "seconds": seconds}
    write_whole(folder / HISTORY, json.dumps(curves))


def read_history(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """As written; `train` and `eval` are there, and empty, also where there is no file."""
    path = folder / HISTORY
    if not path.is_file():
        return {"train": [], "eval": []}
    return _read(path, parse_history)


def read_config(folder: Path) -> dict[str, Any]:
    """A run's configuration as it was written; `run_conf_from_file` makes objects of it."""
    return _read(folder / CONFIG, parse_mapping)


def read_data_report(folder: Path) -> dict[str, Any]:
    """What a run trained on, in numbers, with the data's `fingerprint`; empty if it has not come so far."""
    path = folder / DATA
    return _read(path, parse_data_report) if path.is_file() else {}


def write_record_id(folder: Path, record_id: str) -> None:
    """Which run record belongs to this folder, as soon as it is open."""
    write_whole(folder / RECORD, record_id)


def read_record_id(folder: Path) -> str:
    """The record to go on with; empty if there is none."""
    return _read_id(folder / RECORD)


def write_base(folder: Path, identity: str) -> None:
    """Which weights the run began with; nothing where the identity is empty."""
    if identity:
        write_whole(folder / BASE, identity)


def read_base(folder: Path) -> str:
    """Which weights the run in the folder began with; empty if that is not known."""
    return _read_id(folder / BASE)


def read_record_key(folder: Path) -> str:
    """What names the folder in the tracking store; empty if nothing does yet."""
    return _read_id(folder / RECORD_KEY)


def _read_id(path: Path) -> str:
    return _read(path, parse_id) if path.is_file() else ""


def require_readable(folder: Path) -> None:
    """Reads what a run that goes on there will read.

    Raises:
        FolderError: before anything is changed.
    """
    for read in (read_result, read_data_report, read_base, read_record_id, read_record_key):
        read(folder)
