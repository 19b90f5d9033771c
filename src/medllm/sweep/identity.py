"""What a point is, and when two points are the same."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from medllm.config.compose import resolved
from medllm.config.plan import Point
from medllm.config.rules import effective_batching
from medllm.config.run import RunConf
from medllm.errors import Fault
from medllm.sameness import what_matters


def point_key(conf: RunConf, fingerprint: str) -> str:
    """Identifies a point: its whole resolved configuration and the conversations it draws."""
    return digest([resolved(conf), fingerprint])


def digest(value: Any) -> str:
    """A short hash of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def outcome_key(conf: RunConf, fingerprint: str) -> str:
    """Equal for two points that train and measure the same."""
    return digest([what_matters(conf), effective_batching(conf).name, fingerprint])


def sameness_faults(points: Sequence[Point], fingerprints: Sequence[str]) -> list[Fault]:
    """Points that would be trained twice, by the axis that does not tell them apart."""
    groups: dict[str, list[Point]] = {}
    for point, fingerprint in zip(points, fingerprints, strict=True):
        groups.setdefault(outcome_key(point.conf, fingerprint), []).append(point)
    faults: list[Fault] = []
    for group in groups.values():
        first = dict(override.split("=", 1) for override in group[0].overrides)
        for other in group[1:]:
            values = dict(override.split("=", 1) for override in other.overrides)
            differing = [axis for axis in first if values.get(axis) != first[axis]]
            if not differing:
                fault = Fault(", ".join(other.overrides), "stands twice in the grid", fix="give each value once")
            else:
                axis = " and ".join(differing)
                pair = " / ".join(",".join(point[name] for name in differing) for point in (first, values))
                fix = "leave it out of the sweep, or change what makes it idle"
                fault = Fault(axis, "has no effect: these values train the same model on the same data", pair, fix=fix)
            if fault not in faults:
                faults.append(fault)
    return faults
