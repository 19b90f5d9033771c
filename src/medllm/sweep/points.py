"""What each point of a sweep leaves in its folder, read back when the sweep ends.

Points may run in other processes or on other machines, so they talk to their sweep through files: `sweep.json` in the
sweep's folder tells them their parent, `result.json` in theirs tells the sweep what became of them.
"""

import json
from pathlib import Path
from typing import Any

SWEEP, RESULT = "sweep.json", "result.json"


def write_sweep(folder: Path, parent_id: str, labels: list[str]) -> None:
    """Announces a sweep: its record and its points, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SWEEP).write_text(json.dumps({"parent_id": parent_id, "labels": labels}, indent=2))


def parent_of(folder: Path) -> str:
    """The record of the sweep that a point's folder lies in; empty for a single run."""
    path = folder.parent / SWEEP
    return str(json.loads(path.read_text())["parent_id"]) if path.is_file() else ""


def write_result(folder: Path, status: str, *, objective: float | None = None, **rest: Any) -> None:
    """What became of a run: FINISHED, FAILED or KILLED, its objective, its metrics, its reason."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT).write_text(json.dumps({"status": status, "objective": objective, **rest}, indent=2))


def read_results(folder: Path) -> list[dict[str, Any]]:
    """One row per point: best objective first, then those without one, in the order of the plan.

    A point without a result never ended: its process was killed, or it was never started.
    """
    labels = json.loads((folder / SWEEP).read_text())["labels"]
    found = {path.parent.name.partition("_")[0]: path for path in folder.glob(f"*/{RESULT}")}
    started = {path.name.partition("_")[0] for path in folder.iterdir() if path.is_dir()}
    rows = []
    for number, label in enumerate(labels):
        path = found.get(str(number))
        row = (
            json.loads(path.read_text()) if path else {"status": "KILLED" if str(number) in started else "NOT STARTED"}
        )
        rows.append({"number": number, "label": label, **row})
    return sorted(rows, key=lambda row: (row.get("objective") is None, row.get("objective") or 0.0, row["number"]))
