"""The `evaluation` group."""

import re

import pytest

from medllm.config.compose import load_conf
from medllm.config.evaluation import EvaluateConf
from medllm.config.evaluation.gate import Demand, RuleConf
from medllm.errors import ConfigError
from medllm.evaluation.conversation import METRICS
from medllm.help import help_text
from tests.conf.groups import CONF, load, options


def refusal(*overrides: str) -> str:
    """The message that refuses these overrides."""
    with pytest.raises(ConfigError) as caught:
        load_conf(EvaluateConf, ["artifact=x", *overrides])
    return str(caught.value)


@pytest.mark.parametrize("option", options("evaluation"))
def test_composes(option: str) -> None:
    """Each preset composes, is named as its file, states its command, and includes the gate."""
    conf = load_conf(EvaluateConf, ["artifact=x", f"evaluation={option}"]).evaluation
    assert conf.name == option
    assert f"suite={option}" in (CONF / "evaluation" / f"{option}.yaml").read_text()
    assert conf.gate.rules


def test_the_gate_is_no_suite() -> None:
    """It is included by the presets, offered nowhere, and refused where it is chosen."""
    assert (CONF / "evaluation" / "gate.yaml").is_file()
    assert "allowed: full, quick" in refusal("evaluation=qick")
    assert "evaluation=gate: is a part of evaluation's options, and none itself" in refusal("evaluation=gate")
    assert re.search(r"^  evaluation +full, quick$", help_text([]), re.M)


def test_the_gate_is_about_metrics_that_there_are() -> None:
    """Each rule of conf/evaluation/gate.yaml about the conversation suite names one of its metrics."""
    rules = load_conf(EvaluateConf, ["artifact=x"]).evaluation.gate.in_force()
    named = {rule.metric for rule in rules.values() if rule.metric.startswith("conversation/")}
    assert named
    assert named <= {metric.name for metric in METRICS}
    assert rules["loss"].demand is Demand.better


def test_rules_can_be_changed_and_taken_away_on_the_command_line() -> None:
    """By their names."""
    changed = ["evaluation.gate.rules.loss.demand=nothing", "evaluation.gate.rules.loops.margin=1"]
    rules = load_conf(EvaluateConf, ["artifact=x", *changed]).evaluation.gate.in_force()
    assert "loss" not in rules
    assert rules["loops"].margin == 1


@pytest.mark.parametrize(
    "added",
    [
        ["+evaluation.gate.rules.mine={metric: conversation/rouge_l, margin: 0.02}"],
        ["+evaluation.gate.rules.mine.metric=conversation/rouge_l", "+evaluation.gate.rules.mine.margin=0.02"],
        ["++evaluation.gate.rules.mine={metric: conversation/rouge_l, margin: 0.02}"],
    ],
)
def test_rules_can_be_added_on_the_command_line(added: list[str]) -> None:
    """Beside those of the file, and typed as they are."""
    rules = load_conf(EvaluateConf, ["artifact=x", *added]).evaluation.gate.in_force()
    assert rules["mine"] == RuleConf("conversation/rouge_l", margin=0.02)
    assert "loops" in rules


def test_rules_that_cannot_be_added() -> None:
    """Checked like the file's; without a plus it says that one adds, and which names there are."""
    rule = "evaluation.gate.rules.mine"
    assert f"{rule}.margin=-1.0: is out of range" in refusal(f"+{rule}={{metric: a/b, margin: -1}}")
    assert f"did you mean {rule}.margin?" in refusal(f"+{rule}={{metric: a/b, margn: 1}}")
    assert f"{rule}.metric: needs a value" in refusal(f"+{rule}.margin=1")
    assert f"{rule}=5: needs keys with their values" in refusal(f"+{rule}=5")
    assert f"'+{rule}=...'" in refusal(f"{rule}={{metric: a/b}}")
    told = refusal(f"{rule}.metric=a/b")
    assert f"{rule}.metric=a/b: evaluation.gate.rules has no mine" in told
    assert f"'+{rule}.metric=...' adds it" in told
    assert "did you mean evaluation.gate.rules.loops.demand?" in refusal("evaluation.gate.rules.lops.demand=nothing")


def test_a_run_says_how_a_name_is_added() -> None:
    """In the form that Hydra types, which then works."""
    from tests.conf.groups import refusal as refusal_of_run

    own = "data.sources.yours.path=b.jsonl"
    whole = "+data.sources={mine: {path: a.jsonl}}"
    for added in ("+data.sources.mine={path: a.jsonl}", "+data.sources.mine.path=a.jsonl"):
        assert f"fix: '{whole}'" in refusal_of_run("data=mix_bundled", own, added)
    load("data", "mix_bundled", whole, "data.sources.mine.weight=1")


def test_refusals() -> None:
    """Unknown key, wrong type, out of range; a rule of the gate is checked like any other node."""
    assert "evaluation.batch_sizes=2: no such key" in refusal("evaluation.batch_sizes=2")
    assert "evaluation.batch_size=many: has the wrong type" in refusal("evaluation.batch_size=many")
    assert "evaluation.batch_size=0: is out of range" in refusal("evaluation.batch_size=0")
    assert "evaluation.name=a/b: is no plain name" in refusal("evaluation.name=a/b")
    assert "evaluation.gate.rules.loss.margin=-1.0: is out of range" in refusal("evaluation.gate.rules.loss.margin=-1")


def test_a_lone_file_is_no_list() -> None:
    """It says how a list is written."""
    told = refusal("evaluation.knowledge.files=nope.jsonl")
    assert "evaluation.knowledge.files=nope.jsonl: is no list" in told
    assert "fix: 'evaluation.knowledge.files=[nope.jsonl]'" in told


@pytest.mark.parametrize(
    ("key", "suite"),
    [
        ("knowledge.files=[nope.jsonl]", "knowledge"),
        ("knowledge.tasks=[medqa_4options]", "knowledge"),
        ("rubric.files=[nope.jsonl]", "rubric"),
        ("safety.vignette_files=[a.jsonl,b.jsonl]", "safety"),
        ("safety.request_files=[nope.jsonl]", "safety"),
        ("conversation.path=nope.jsonl", "conversation"),
    ],
)
def test_what_is_named_for_a_suite_that_is_off(key: str, suite: str) -> None:
    """It would be ignored; it is refused instead, and accepted once the suite runs."""
    off, on = (f"evaluation.{suite}.enabled={value}" for value in ("false", "true"))
    told = refusal(f"evaluation.{key}", off)
    assert f"evaluation.{key}: is set, but the suite {suite} is off" in told
    assert f"fix: {on}" in told
    load_conf(EvaluateConf, ["artifact=x", f"evaluation.{key}", on])


def test_composing_a_run_does_not_suggest_keys_of_an_evaluation() -> None:
    """A key of one command is no near miss of the other."""
    from tests.conf.groups import refusal as refusal_of_run

    assert "evaluation" not in refusal_of_run("limit=3")
