"""What an evaluation leaves: `results.json`, `report.html`, and in the record of the artifact's run the figures."""

import json
from pathlib import Path
from typing import Any

from medllm.artifact import sha256
from medllm.config.compose import resolved
from medllm.evaluation.figures import Difference, Measured
from medllm.evaluation.items import ITEMS, PAGE, RESULTS
from medllm.evaluation.lexicons import Share
from medllm.evaluation.page import html_page
from medllm.evaluation.run import Evaluation
from medllm.intervals import Interval
from medllm.run_folder import as_json, write_whole
from medllm.tracking.record import Record

FORMAT = 1


def write_report(evaluation: Evaluation) -> Path:
    """Writes results and page beside the items; returns the page."""
    text = json.dumps(results(evaluation), indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(evaluation.folder / RESULTS, text + "\n")
    return write_whole(evaluation.folder / PAGE, html_page(evaluation))


def results(evaluation: Evaluation) -> dict[str, Any]:
    """What `results.json` holds; numbers that are not known are null."""
    decision = evaluation.decision
    values = {
        "format": FORMAT,
        "name": evaluation.conf.evaluation.name,
        "artifact": {"folder": str(evaluation.artifact), "manifest_sha256": evaluation.manifest_sha256},
        "items_sha256": sha256(evaluation.folder / ITEMS),  # what the figures rest on
        "conf": resolved(evaluation.conf),
        "limited": evaluation.limited,
        "sides": [side.value for side in evaluation.sides],
        "metrics": [_metric(one) for one in evaluation.measured],
        "gate": {
            "decision": decision.verdict.value,
            "reasons": decision.reasons,
            "power": [
                {
                    "metric": j.metric,
                    "decision": j.verdict.value,
                    "reason": j.reason,
                    "margin": j.margin,
                    "n": j.n,
                    "needed": j.needed,
                }
                for j in decision.judgements
            ],
        },
        "lexicons": {
            name: {"version": v.version, "precision": _share(v.precision), "recall": _share(v.recall), "n": v.n}
            for name, v in evaluation.lexicons.items()
        },
    }
    found: dict[str, Any] = as_json(values)
    return found


def _metric(one: Measured) -> dict[str, Any]:
    return {
        "name": one.metric.name,
        "title": one.metric.title,
        "better": one.metric.better.value,
        "proportion": one.metric.proportion,
        "n": one.n,
        "figures": {s.value: {"value": f.value, **_ends(f.interval)} for s, f in one.figures.items()},
        "differences": {s.value: _difference(d) for s, d in one.differences.items()},
    }


def _difference(found: Difference) -> dict[str, Any]:
    return {"value": found.value, **_ends(found.interval), "p": found.p}


def _share(share: Share) -> dict[str, Any]:
    return {"value": share.value, **_ends(share.interval), "n": share.count}


def _ends(interval: Interval) -> dict[str, Any]:
    return {"low": interval.low, "high": interval.high}


def record_report(evaluation: Evaluation, record: Record) -> None:
    """Figures as `evaluate/<name>/<side>/<metric>`, the decision as a tag, and the files."""
    name = evaluation.conf.evaluation.name
    figures = {
        f"evaluate/{name}/{side.value}/{one.metric.name}": figure.value
        for one in evaluation.measured
        for side, figure in one.figures.items()
    }
    record.log_metrics(figures, 0)
    tags = {f"evaluate.{name}.gate": evaluation.decision.verdict.value}
    record.set_tags({**tags, f"evaluate.{name}.limited": str(evaluation.limited).lower()})
    record.log_artifact(evaluation.folder / RESULTS, f"evaluation/{name}")
    for file in (PAGE, ITEMS):
        record.log_texts(evaluation.folder / file, f"evaluation/{name}")
