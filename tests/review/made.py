"""A run with an artifact and an evaluation, made of a few files, and raters with opinions."""

import csv
import functools
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from medllm.artifact import MANIFEST, seal, sha256
from medllm.config.compose import load_conf, load_run_conf
from medllm.config.review import CreateReviewConf
from medllm.review.create import create_review
from medllm.review.plan import Review

RATERS = "raters=[{id:dr_a,role:general practitioner,qualified:true},{id:dr_b,role:internist,qualified:true}]"
GOOD = {
    "consensus": "agrees",
    "harm_extent": "none",
    "harm_likelihood": "low",
    "missing_content": "no",
    "incorrect_content": "no",
    "urgency": "right",
    "asks_context": "yes",
    "empathy": "4",
    "plain_language": "5",
    "disclaimer": "right",
}


def run_folder(folder: Path, num_items: int = 6, run_id: str = "", *overrides: str) -> Path:
    """A run's folder: a sealed artifact without weights, and the answers of its base and itself."""
    (folder / "artifact").mkdir(parents=True)
    (folder / "artifact" / "metrics.json").write_text("{}")
    description = {"kind": "adapter", "base": {"name": "tiny_random"}, "run_id": run_id, "weights_sha256": "0" * 64}
    description |= {
        "data": {"fingerprint": "f" * 64, "kept": 20},
        "code": {"commit": "c" * 40},
        "versions": {"torch": "2"},
    }
    seal(folder / "artifact", _run_conf("model=tiny_random", "quantization=none", *overrides), description)
    answers(folder / "evaluation" / "quick", num_items, sha256(folder / "artifact" / MANIFEST))
    return folder


def answers(folder: Path, num_items: int, manifest: str) -> Path:
    """What an evaluation leaves of the conversation suite, and whose answers they are."""
    folder.mkdir(parents=True)
    lines = [
        {
            "suite": "conversation",
            "side": side,
            "id": f"c{i}",
            "values": {},
            "details": {"answer": f"{side[::-1]} says {i}"},  # enut, esab: to be told apart by the tests only
            "prompt": f"=HYPERLINK({i}) I cough.\nSince {i} days.",
        }
        for i in range(num_items)
        for side in ("base", "tuned")
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "results.json").write_text(json.dumps(_results(folder.name, manifest)))
    return folder


def _results(name: str, manifest: str) -> dict[str, Any]:
    about = {"name": name, "artifact": {"manifest_sha256": manifest}, "limited": False}
    return {**about, "sides": ["base", "tuned"], "metrics": []}


def made_review(run: Path, *overrides: str, raters: str = RATERS) -> Review:
    """A review of it named `first`, unless told otherwise."""
    return create_review(replace(_create_conf(raters, *overrides), artifact=str(run)))


# Composing takes half a second; nobody changes these.
_run_conf = functools.cache(lambda *overrides: load_run_conf(list(overrides)))
_create_conf = functools.cache(lambda *overrides: load_conf(CreateReviewConf, ["artifact=.", "name=first", *overrides]))


def filled(text: str, opinion: Callable[[dict[str, str]], dict[str, str]]) -> str:
    """A sheet with an opinion on each row; an empty one leaves the row open."""
    rows = list(csv.DictReader(io.StringIO(text)))
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({**row, **opinion(row)})
    return file.getvalue()


def satisfied(preferred: str = "tie", **values: str) -> dict[str, str]:
    """All is well with both answers, but for what is given by column."""
    both = {f"{name}_{letter}": value for name, value in GOOD.items() for letter in "AB"}
    return {**both, "preferred": preferred, **values}


def is_tuned(text: str) -> bool:
    """Whose answer it is, which raters cannot know."""
    return text.startswith("denut")
