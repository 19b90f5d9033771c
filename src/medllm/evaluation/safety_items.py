"""The items of the safety suite: what ships, the user's files, and the part of them that is asked."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medllm.config.evaluation.safety import SafetyConf
from medllm.config.store import rooted
from medllm.conversation import Conversation, Message
from medllm.errors import ConfigError
from medllm.evaluation.jsonl import ITEMS, file_faults, load_rows, named, whole_text
from medllm.evaluation.suite import Item

FOLDER = ITEMS / "safety"

# `risk_tier` of triage files.
TIERS = {"critical": "D", "urgent": "C", "routine": "A"}

Row = dict[str, Any]


def build_items(conf: SafetyConf) -> list[Item]:
    """All that is asked, in a fixed order: vignettes, requests, doses, injections.

    Raises:
        ConfigError: naming files that are not there, or have the name of another one, on which ids rest.
        DataError: naming lines that cannot be used.
    """
    _check(conf)
    vignettes = _vignettes(conf)
    requests = _requests(conf)
    doses = _rows(FOLDER / "doses.jsonl", _prompt_fault) if conf.shipped else []
    injections = _rows(FOLDER / "injections.jsonl", _injection_fault) if conf.shipped else []
    return [
        *vignettes,
        *requests,
        *(_item(row, "dose") for row in drawn(doses, conf.max_doses)),
        *(_item(row, "injection", canary=row["canary"]) for row in drawn(injections, conf.max_injections)),
    ]


def drawn(rows: Sequence[Row], limit: int | None, key: Callable[[Row], str] = lambda row: str(row["id"])) -> list[Row]:
    """At most `limit` of them in their order, drawn by their keys: a larger limit holds those of a smaller one."""
    if limit is None:
        return list(rows)
    keys = sorted({key(row) for row in rows}, key=lambda text: hashlib.sha256(text.encode()).hexdigest())
    chosen = set(keys[:limit])
    return [row for row in rows if key(row) in chosen]


def _vignettes(conf: SafetyConf) -> list[Item]:
    rows = _rows(FOLDER / "urgency.jsonl", _vignette_fault) if conf.shipped else []
    rows = [row for row in rows if conf.development or row["split"] == "test"]
    for file in conf.vignette_files:
        rows += _rows(rooted(file), _vignette_fault)
    rows = [{**row, "urgency": row.get("urgency") or TIERS[row["risk_tier"]]} for row in rows]
    chosen = [row for level in "ABCD" for row in drawn([r for r in rows if r["urgency"] == level], conf.max_vignettes)]
    advised = {row["id"] for row in drawn([row for row in chosen if row["urgency"] == "D"], conf.max_advice)}
    return [
        _item(
            row,
            "vignette",
            urgency=row["urgency"],
            group=str(row.get("group", "")),
            trap=str(row.get("kind", "plain")),
            advised=row["id"] in advised,
        )
        for row in chosen
    ]


def _requests(conf: SafetyConf) -> list[Item]:
    rows = _rows(FOLDER / "requests.jsonl", _request_fault) if conf.shipped else []
    for file in conf.request_files:
        rows += _rows(rooted(file), _request_fault)
    chosen = drawn(rows, conf.max_requests, key=lambda row: str(row.get("twin", row["id"])))
    return [_item(row, "request", harmful=row.get("harmful", True), twin=row.get("twin", "")) for row in chosen]


def _rows(path: Path, fault: Callable[[Row], str]) -> list[Row]:
    rows = load_rows(path, _once(fault))
    ids = named(rows, path.stem, lambda row: row["prompt"])
    return [{**row, "id": name} for row, name in zip(rows, ids, strict=True)]


def _once(fault: Callable[[Row], str]) -> Callable[[Row], str]:
    """Looks also for an id that an earlier row has: outcomes are kept by it."""
    seen: set[str] = set()

    def fault_or_repeat(row: Row) -> str:
        name = str(row.get("id") or row.get("prompt_id") or "")
        repeats = name in seen
        seen.update({name} - {""})
        return fault(row) or (f"has the id of an earlier line: {name}" if repeats else "")

    return fault_or_repeat


def _item(row: Row, kind: str, **fields: Any) -> Item:
    return Item(row["id"], Conversation((Message("user", row["prompt"]),), row["id"]), {"kind": kind, **fields})


def _check(conf: SafetyConf) -> None:
    shipped = ("urgency", "requests", "doses", "injections")
    taken = set(shipped if conf.shipped else ())
    faults = [
        fault
        for key in ("vignette_files", "request_files")
        for fault in file_faults(f"evaluation.safety.{key}", getattr(conf, key), taken)
    ]
    if faults:
        raise ConfigError(faults)


def _prompt_fault(row: Row) -> str:
    return "" if whole_text(row.get("prompt")) else "has no `prompt`"


def _vignette_fault(row: Row) -> str:
    if row.get("urgency") not in ("A", "B", "C", "D") and row.get("risk_tier") not in TIERS:
        return "has neither `urgency` (A, B, C, D) nor `risk_tier` (critical, urgent, routine)"
    return _prompt_fault(row)


def _request_fault(row: Row) -> str:
    return (
        "`harmful` is neither true nor false" if not isinstance(row.get("harmful", True), bool) else _prompt_fault(row)
    )


def _injection_fault(row: Row) -> str:
    return _prompt_fault(row) or ("" if whole_text(row.get("canary")) else "has no `canary`")
