"""Ship, don't ship, or not enough data."""

import dataclasses

import pytest

from medllm.config.evaluation.gate import Demand, GateConf, Judged, RuleConf
from medllm.errors import ConfigError
from medllm.evaluation.gate import EXIT_CODES, Verdict, decide, rule_faults
from medllm.evaluation.power import items_for_proportion, items_for_ratio, items_needed
from medllm.evaluation.suite import Better, Side
from tests.evaluation.made import COST, RATE, MadeSuite, hits, measured

NOT_WORSE = GateConf({"rate": RuleConf(RATE.name, margin=0.1)})
BETTER = GateConf({"cost": RuleConf(COST.name, demand=Demand.better)})


@pytest.mark.parametrize(
    ("of", "base", "tuned", "verdict"),
    [
        (400, 200, 200, Verdict.ship),  # no item differs
        (400, 200, 190, Verdict.ship),  # 2.5 points worse, surely less than ten
        (400, 200, 120, Verdict.dont_ship),  # 20 points
        (40, 20, 18, Verdict.not_enough_data),  # five points, up to 14
        (400, 200, 160, Verdict.not_enough_data),  # ten points: the margin lies inside
        (19, 10, 10, Verdict.not_enough_data),  # too few, though no item differs
    ],
)
def test_not_worse_than_a_margin(of: int, base: int, tuned: int, verdict: Verdict) -> None:
    """The interval of the difference lies on one side of the margin, or the gate does not say."""
    found = decide(NOT_WORSE, [measured(RATE, hits(base, of), hits(tuned, of))])
    assert found.verdict is verdict
    assert RATE.name in found.reasons[0]


@pytest.mark.parametrize(
    ("shift", "verdict"), [(-0.5, Verdict.ship), (0.5, Verdict.dont_ship), (0.0, Verdict.dont_ship)]
)
def test_better(shift: float, verdict: Verdict) -> None:
    """A loss that must fall: fell, rose, or is the same to the last bit."""
    base = [(float(i % 7), 1.0) for i in range(30)]
    found = decide(BETTER, [measured(COST, base, [(a + shift, b) for a, b in base])])
    assert found.verdict is verdict


def test_better_or_not_cannot_be_told() -> None:
    """Half of the items fall, half rise."""
    base = [(3.0, 1.0)] * 30
    tuned = [(3.0 + (-1) ** i, 1.0) for i in range(30)]
    assert decide(BETTER, [measured(COST, base, tuned)]).verdict is Verdict.not_enough_data


def test_the_gravest_rule_decides() -> None:
    """One rule that fails is enough; what was not measured ships nothing."""
    both = GateConf({**NOT_WORSE.rules, **BETTER.rules})
    base = [(float(i % 7), 1.0) for i in range(400)]
    fell = measured(COST, base, [(a - 1, b) for a, b in base])
    found = decide(both, [measured(RATE, hits(200, 400), hits(100, 400)), fell])
    assert found.verdict is Verdict.dont_ship
    assert len(found.reasons) == 1
    found = decide(both, [fell])
    assert found.verdict is Verdict.not_enough_data
    assert found.reasons == [f"{RATE.name}: not measured on the tuned side"]
    either = RuleConf(RATE.name, demand=Demand.nothing)
    assert decide(GateConf({"rate": either, **BETTER.rules}), [fell]).verdict is Verdict.ship


def test_what_is_limited_never_ships() -> None:
    """Nor does a gate without rules."""
    same = measured(RATE, hits(200, 400), hits(200, 400))
    found = decide(NOT_WORSE, [same], limits=["limit=3"])
    assert found.verdict is Verdict.not_enough_data
    assert "limit=3" in found.reasons[-1]
    assert (
        decide(NOT_WORSE, [measured(RATE, hits(200, 400), hits(50, 400))], limits=["limit=3"]).verdict
        is Verdict.dont_ship
    )
    assert decide(GateConf(), [same]).verdict is Verdict.not_enough_data


def test_exit_codes_tell_apart() -> None:
    """None is that of a failure, a wrong configuration or an interruption, unless it ships."""
    codes = [EXIT_CODES[verdict] for verdict in Verdict]
    assert codes == [0, 3, 4]


def test_rules_about_nothing_are_refused() -> None:
    """A misspelt metric, one without better and worse, a side that is not asked; other suites' rules are not looked at."""
    suite = MadeSuite(metrics=(RATE, dataclasses.replace(COST, better=Better.neither)))
    rules = {
        "misspelt": RuleConf("made/rat"),
        "cost": RuleConf(COST.name),
        "rate": RuleConf(RATE.name, side=Judged.guarded),
        "recall": RuleConf("safety/recall"),
    }
    with pytest.raises(ConfigError) as caught:
        rule_faults(GateConf(rules), [suite])
    problems = [(fault.key.rpartition("rules.")[2], fault.fix) for fault in caught.value.faults]
    assert [key for key, _ in problems] == ["misspelt.metric", "cost.metric", "rate.side"]
    assert problems[0][1] == f"did you mean {RATE.name}?"


@pytest.mark.parametrize(
    ("metric", "fix"),
    [
        ("convrsation/loss", "did you mean conversation/loss?"),
        ("mde/rate", "did you mean made/rate?"),
        ("nothing_like_it", "write it as <suite>/<metric>"),
    ],
)
def test_a_rule_about_no_suite_is_refused(metric: str, fix: str) -> None:
    """Of all suites there are, not only of those that run."""
    with pytest.raises(ConfigError) as caught:
        rule_faults(GateConf({"mine": RuleConf(metric)}), [MadeSuite()])
    (fault,) = caught.value.faults
    assert (fault.key, fault.value, fault.fix) == ("evaluation.gate.rules.mine.metric", metric, fix)
    assert fault.allowed == "conversation, safety, knowledge, rubric, made"


def test_rules_about_a_suite_that_is_off_are_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is asked; a rule that demands nothing is not mentioned."""
    rules = {
        "recall": RuleConf("safety/emergency_recall"),
        "doses": RuleConf("safety/invented_doses"),
        "known": RuleConf("knowledge/accuracy", demand=Demand.nothing),
        "rate": RuleConf(RATE.name),
    }
    rule_faults(GateConf(rules), [MadeSuite()])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.split(maxsplit=1)[1] == (
        "cannot say ship: recall, doses will not be measured, since evaluation.safety.enabled=false"
    )


def test_items_for_a_power() -> None:
    """Worked from the formulas: 20 % discordant, 80 % power, 2 and 5 points; 0.5 deviations of one item's difference."""
    assert items_for_proportion(0.02, 0.2, 0.8) == 3923
    assert items_for_proportion(0.05, 0.2, 0.8) == 626
    assert items_for_ratio(0.5, 1.0, 0.8) == 32
    assert items_for_proportion(0.1, 0.0, 0.8) == items_for_proportion(0.1, 0.1, 0.8), "fewer cannot differ"


def test_items_needed_follow_from_what_was_seen() -> None:
    """More noise needs more items; a margin of nothing has no number."""
    calm = measured(COST, [(3.0, 1)] * 40, [(3.0 + 0.5 * (i % 2), 1) for i in range(40)])
    wild = measured(COST, [(3.0, 1)] * 40, [(3.0 + 5.0 * (i % 2), 1) for i in range(40)])
    few, many = (items_needed(one, Side.tuned, 0.05, 0.8) for one in (calm, wild))
    assert few is not None
    assert many is not None
    assert many == pytest.approx(100 * few, rel=0.15)
    assert items_needed(calm, Side.tuned, 0.0, 0.8) is None
    few_items = measured(COST, [(3.0, 1)] * 9, [(3.1, 1)] * 9)
    assert items_needed(few_items, Side.tuned, 0.05, 0.8) is None, "nine are too few to judge by"
