"""What each item showed, written as it becomes known: an evaluation that was interrupted goes on from there.

    items.jsonl      a line for each suite, side and item
    identity.json    what these lines are about, suite by suite

A suite's lines are used again only if artifact, settings and items are the same; otherwise the suite starts anew.
"""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medllm.console import console
from medllm.errors import NonFiniteError
from medllm.evaluation.suite import Item, Outcome, Side, Suite
from medllm.intact import expect, parse_object, read_file
from medllm.run_folder import write_whole

ITEMS, IDENTITY = "items.jsonl", "identity.json"
RESULTS, PAGE = "results.json", "report.html"  # what they come to, see `report.py`
FIX = "move that file away: all is then asked anew"

Outcomes = dict[str, Outcome]  # by the item's id


def draw_items(items: Sequence[Item], limit: int | None) -> list[Item]:
    """At most `limit` items in their order, drawn by their ids: a larger limit holds those of a smaller one."""
    if limit is None or limit >= len(items):
        return list(items)
    chosen = {item.id for item in sorted(items, key=lambda item: digest(item.id))[:limit]}
    return [item for item in items if item.id in chosen]


def digest(value: Any) -> str:
    """SHA-256 of something that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def identity(suite: Suite, items: Sequence[Item], about: Any) -> str:
    """What decides over a suite's outcomes.

    Args:
        suite: With its metrics.
        items: All that the suite has, so that another limit asks nothing twice.
        about: Artifact and settings.
    """
    texts = [[item.id, [[m.role, m.content] for m in item.conversation.messages], item.fields] for item in items]
    return digest([suite.name, [metric.name for metric in suite.metrics], texts, about])


@dataclass
class Journal:
    """The outcomes that are known.

    Attributes:
        path: Of `items.jsonl`.
        known: By suite and side.
    """

    path: Path
    known: dict[tuple[str, Side], Outcomes]

    @classmethod
    def open(cls, folder: Path, identities: dict[str, str]) -> "Journal":
        """What an earlier evaluation left of the same suites; says what is started anew.

        Args:
            folder: Of the evaluation.
            identities: By suite, see `identity`. Lines of suites that are not asked for now are kept in the file.

        Raises:
            FolderError: if a file of it is damaged.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path, of = folder / ITEMS, folder / IDENTITY
        before = read_file(of, parse_object, FIX) if of.is_file() else {}
        lines = read_file(path, _parse_lines, FIX) if before and path.is_file() else []
        changed = [name for name, value in identities.items() if before.get(name, value) != value]
        if changed:
            console.print(
                f"{', '.join(changed)}: asked before about another artifact, with other settings or items; starts anew",
            )
        lines = [line for line in lines if line["suite"] in before and line["suite"] not in changed]
        write_whole(path, "".join(map(_text, lines)))  # before the identity: lines are never read under a wrong one
        write_whole(of, json.dumps({**before, **identities}, indent=2))
        known: dict[tuple[str, Side], Outcomes] = {}
        for line in lines:
            known.setdefault((line["suite"], Side(line["side"])), {})[line["id"]] = _outcome(line)
        return cls(path, known)

    def of(self, suite: str, side: Side) -> Outcomes:
        """Outcomes of one side by item."""
        return self.known.setdefault((suite, side), {})

    def add(self, suite: str, side: Side, item: Item, outcome: Outcome) -> None:
        """Keeps an outcome, on disk at once.

        Raises:
            NonFiniteError: if a value is NaN or infinite, as those of damaged weights are.
        """
        bad = [name for name, pair in outcome.values.items() if not all(map(math.isfinite, pair))]
        if bad:
            raise NonFiniteError(f"{item.id}: {', '.join(bad)} of the {side.value} model is no finite number")
        line = {
            "suite": suite,
            "side": side.value,
            "id": item.id,
            "values": {name: list(pair) for name, pair in outcome.values.items()},
            "details": outcome.details,
            "prompt": item.conversation.messages[-1].content,
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_text(line))
            file.flush()
            os.fsync(file.fileno())
        self.of(suite, side)[item.id] = outcome


def _text(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"


def _outcome(line: dict[str, Any]) -> Outcome:
    values = {name: (float(pair[0]), float(pair[1])) for name, pair in line["values"].items()}
    return Outcome(values, expect(dict, line["details"]))


def _parse_lines(data: bytes) -> list[dict[str, Any]]:
    """Whole lines; one that a kill cut off is left out, and its item asked again."""
    found = []
    for text in filter(None, data.decode(errors="replace").split("\n")):  # texts may hold other ends of lines
        try:
            line = expect(dict, json.loads(text))
        except json.JSONDecodeError:
            continue
        expect(str, line["suite"])
        expect(str, line["id"])
        Side(line["side"])
        _outcome(line)
        found.append(line)
    return found
