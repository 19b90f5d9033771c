"""The base of every schema: a dataclass whose fields may state the range they accept."""

import math
from dataclasses import Field, dataclass, field, fields
from typing import Any

from medllm.errors import ConfigError, Fault


@dataclass(frozen=True)
class Range:
    """The numbers a field accepts: lower and upper bounds, each inclusive (`ge`, `le`) or exclusive (`gt`, `lt`)."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def __str__(self) -> str:
        signs = ((">=", self.ge), (">", self.gt), ("<=", self.le), ("<", self.lt))
        return " and ".join(f"{sign} {bound:g}" for sign, bound in signs if bound is not None)


def ranged(
    default: Any, *, ge: float | None = None, gt: float | None = None, le: float | None = None, lt: float | None = None
) -> Any:
    """A dataclass field with a default and the range its value must lie in; None is accepted by optional fields."""
    return field(default=default, metadata={"range": Range(ge=ge, gt=gt, le=le, lt=lt)})


def range_faults(f: Field, value: Any) -> list[Fault]:
    """The fault of a field's value, if it lies outside the field's range."""
    allowed = f.metadata.get("range")
    if allowed is not None and isinstance(value, int | float) and value not in allowed:
        return [Fault(f.name, "is out of range", str(value), allowed=str(allowed))]
    return []


@dataclass
class Conf:
    """A group's schema. `__post_init__` checks every range and shows all faults of the group together."""

    def __post_init__(self) -> None:
        """Raises: ConfigError: if a value lies outside its range; keys are relative to this node."""
        found = [fault for f in fields(self) for fault in range_faults(f, getattr(self, f.name))]
        faults = [*found, *self.faults()]
        if faults:
            raise ConfigError(faults)

    def faults(self) -> list[Fault]:
        """What is wrong between the fields of this node; overridden where a group has such rules."""
        return []
