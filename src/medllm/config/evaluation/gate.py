"""Schema of `evaluation.gate`: what must not get worse, by how much, for an artifact to ship."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from medllm.config.conf import Conf, ranged


class Demand(Enum):
    """What a rule asks of a metric: not to get worse by more than the margin, to get better, or nothing at all."""

    not_worse = "not_worse"
    better = "better"
    nothing = "nothing"


class Judged(Enum):
    """Which side is held against the base."""

    tuned = "tuned"
    guarded = "guarded"


@dataclass
class RuleConf(Conf):
    """One metric's rule.

    Attributes:
        metric: As `conversation/loss`.
        demand: Not worse than the base by more than `margin`, or better than it by more than that; `nothing` switches it off.
        margin: In the metric's own unit: 0.05 of a proportion are five points.
        side: The tuned model, or the tuned model behind the guard.
    """

    metric: str = MISSING
    demand: Demand = Demand.not_worse
    margin: float = ranged(0.0, ge=0)
    side: Judged = Judged.tuned


@dataclass
class GateConf(Conf):
    """Rules, and how much data a decision needs.

    Attributes:
        rules: By a name of your own.
        min_items: With fewer a rule decides nothing, whatever its interval.
        power: Chance to see a difference as large as the margin, for the number of items that is printed.
    """

    rules: dict[str, RuleConf] = field(default_factory=dict)
    min_items: int = ranged(20, ge=2)
    power: float = ranged(0.8, gt=0.5, lt=1)

    def in_force(self) -> dict[str, RuleConf]:
        """The rules that demand something, by name."""
        return {name: rule for name, rule in self.rules.items() if rule.demand is not Demand.nothing}
