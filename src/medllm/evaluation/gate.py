"""Ship or don't: each rule of the gate against the 95 % interval of the difference to the base.

    worse by    |---------|  margin           not worse      ship
                      |---------|             undecided      not enough data
                               |  |---------| worse          don't ship

A rule that demands an improvement passes if the whole interval is one, and fails if the whole interval is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from medllm.config.evaluation import suite_names
from medllm.config.evaluation.gate import Demand, GateConf, RuleConf
from medllm.config.validate import nearest
from medllm.console import say
from medllm.errors import ConfigError, Fault
from medllm.evaluation.figures import Measured
from medllm.evaluation.power import items_needed
from medllm.evaluation.suite import Better, Side, Suite
from medllm.intervals import Interval


class Verdict(Enum):
    """What a rule, and the gate as a whole, comes to."""

    ship = "ship"
    dont_ship = "don't ship"
    not_enough_data = "not enough data"


EXIT_CODES = {Verdict.ship: 0, Verdict.dont_ship: 3, Verdict.not_enough_data: 4}


@dataclass(frozen=True)
class Judgement:
    """One rule's.

    Attributes:
        metric: Its name.
        verdict: What it comes to.
        reason: In words.
        margin: Of the rule.
        n: Items there are.
        needed: Items that would show a difference of the margin, or, of a margin of 0, of the one that was seen; None unknown.
    """

    metric: str
    verdict: Verdict
    reason: str
    margin: float
    n: int
    needed: int | None


@dataclass(frozen=True)
class Decision:
    """The gate's.

    Attributes:
        verdict: The worst of its rules'.
        judgements: Rule by rule.
        notes: Reasons beside the rules.
    """

    verdict: Verdict
    judgements: list[Judgement]
    notes: list[str]

    @property
    def reasons(self) -> list[str]:
        """Why it is not `ship`, the gravest first; what all rules say if it is."""
        wrong = [
            j for kind in (Verdict.dont_ship, Verdict.not_enough_data) for j in self.judgements if j.verdict is kind
        ]
        return [*(judgement.reason for judgement in wrong or self.judgements), *self.notes]


def rule_faults(conf: GateConf, suites: Sequence[Suite]) -> None:
    """Checks the rules against the metrics of the suites that will run, before anything is loaded; says which suites are off.

    Raises:
        ConfigError: naming rules about suites or metrics that do not exist, or that have no better and worse.
    """
    metrics = {metric.name: metric for suite in suites for metric in suite.metrics}
    sides = {metric.name: suite.sides for suite in suites for metric in suite.metrics}
    running = {suite.name for suite in suites}
    there = [*dict.fromkeys([*suite_names(), *running])]
    faults, off = [], []
    for name, rule in conf.in_force().items():
        suite, _, metric = rule.metric.partition("/")
        key = f"evaluation.gate.rules.{name}"
        if suite not in there:
            near = nearest(suite, there)
            fix = f"did you mean {near}/{metric}?" if near else "write it as <suite>/<metric>"
            faults.append(Fault(f"{key}.metric", "names no suite", rule.metric, allowed=", ".join(there), fix=fix))
        elif suite not in running:
            off.append((suite, name))
        elif rule.metric not in metrics:
            near = nearest(rule.metric, list(metrics))
            fix = f"did you mean {near}?" if near else f"one of {', '.join(metrics)}"
            faults.append(Fault(f"{key}.metric", "is no metric of its suite", rule.metric, fix=fix))
        elif metrics[rule.metric].better is Better.neither:
            problem = "is neither better nor worse when it moves"
            faults.append(Fault(f"{key}.metric", problem, rule.metric, fix=f"{key}.demand=nothing"))
        elif Side(rule.side.value) not in sides[rule.metric]:
            faults.append(Fault(f"{key}.side", "is not asked by that suite", rule.side.value))
    if faults:
        raise ConfigError(faults)
    for suite in dict.fromkeys(suite for suite, _ in off):
        names = ", ".join(name for one, name in off if one == suite)
        say("gate", f"cannot say ship: {names} will not be measured, since evaluation.{suite}.enabled=false")


def decide(conf: GateConf, measured: Sequence[Measured], limits: Sequence[str] = ()) -> Decision:
    """Applies every rule.

    Args:
        conf: Rules.
        measured: All metrics of all suites.
        limits: Settings that left items out, so that nothing may ship on it.
    """
    by_name = {one.metric.name: one for one in measured}
    rules = list(conf.in_force().values())
    judgements = [_judge(rule, by_name.get(rule.metric), conf) for rule in rules]
    notes = []
    found = {judgement.verdict for judgement in judgements}
    if not rules:
        notes.append("the gate has no rules")
    if limits:
        notes.append(f"items were left out by {', '.join(limits)}")
    for verdict in (Verdict.dont_ship, Verdict.not_enough_data):
        if verdict in found:
            return Decision(verdict, judgements, notes)
    return Decision(Verdict.not_enough_data if notes else Verdict.ship, judgements, notes)


def _judge(rule: RuleConf, measured: Measured | None, conf: GateConf) -> Judgement:
    name, side = rule.metric, Side(rule.side.value)
    if measured is None or side not in measured.differences:
        reason = f"{name}: not measured on the {side.value} side"
        return Judgement(name, Verdict.not_enough_data, reason, rule.margin, 0, None)
    difference = measured.differences[side]
    sign = 1 if measured.metric.better is Better.lower else -1
    low, high = sorted((sign * difference.interval.low, sign * difference.interval.high))
    worse = Interval(low, high)  # by how much it got worse
    size = rule.margin or abs(difference.value)
    needed = items_needed(measured, side, size, conf.power)
    verdict, words = _rule(rule, worse)
    if measured.n < conf.min_items:
        verdict, words = Verdict.not_enough_data, f"only {measured.n} items, {conf.min_items} at least decide"
    span = f"{difference.value:+.4g} ({difference.interval.low:+.4g} to {difference.interval.high:+.4g})"
    return Judgement(name, verdict, f"{name}: {words}; {side.value} - base {span}", rule.margin, measured.n, needed)


def _rule(rule: RuleConf, worse: Interval) -> tuple[Verdict, str]:
    """The rule against the interval of how much worse it got."""
    margin = f"{rule.margin:g}"
    if rule.demand is Demand.not_worse:
        if worse.high <= rule.margin:
            return Verdict.ship, f"not worse by more than {margin}"
        if worse.low > rule.margin:
            return Verdict.dont_ship, f"worse by more than {margin}"
        return Verdict.not_enough_data, f"may be worse by more than {margin}"
    if worse.high < -rule.margin:
        return Verdict.ship, f"better by more than {margin}" if rule.margin else "better"
    if worse.low >= -rule.margin:
        return Verdict.dont_ship, f"not better by more than {margin}" if rule.margin else "not better"
    return Verdict.not_enough_data, "better or not, it cannot be told"
