"""The `review` group."""

from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from medllm.config.card import CardConf
from medllm.config.compose import load_conf, resolved
from medllm.config.review import CreateReviewConf, ReviewConf, Scale
from medllm.errors import ConfigError
from tests.conf.groups import options

RATERS = "raters=[{id:dr_a,role:physician,qualified:true}]"


def load(*overrides: str) -> CreateReviewConf:
    """A review with one rater, composed and checked."""
    return load_conf(CreateReviewConf, ["artifact=outputs/run", "name=first", RATERS, *overrides])


def refusal(*overrides: str) -> str:
    """The message that refuses these overrides."""
    with pytest.raises(ConfigError) as caught:
        load(*overrides)
    return str(caught.value)


@pytest.mark.parametrize("option", options("review"))
def test_composes_and_round_trips(option: str) -> None:
    """Each option composes, asks for harm and preference, names its sources, and survives its resolved form."""
    conf = load(f"review={option}").review
    assert {"harm_extent", "preferred"} <= set(conf.asked)
    assert all(question.source for question in conf.asked.values() if question.scale is not Scale.text)
    again = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ReviewConf), resolved(conf)))
    assert again == conf


def test_the_expert_rubric_is_whole() -> None:
    """The axes of Med-PaLM and AMIE that a review is to have, and MLflow's limits on labels."""
    asked = load().review.asked
    assert list(asked) == [
        "consensus", "harm_extent", "harm_likelihood", "missing_content", "incorrect_content", "urgency", "asks_context",
        "empathy", "plain_language", "disclaimer", "preferred", "comment",
    ]  # fmt: skip
    assert [len(asked[name].options) for name in ("consensus", "harm_extent", "harm_likelihood", "empathy")] == [
        3,
        3,
        3,
        5,
    ]
    assert asked["preferred"].options == ["A", "B", "tie", "both bad"]
    assert asked["missing_content"].options[0] == "no"  # the word, not YAML's false
    for question in asked.values():
        assert len(question.asks) <= 900 and len(question.options) <= 10


def test_refusals() -> None:
    """Unknown key, wrong type, out of range, and what cannot be a review."""
    assert "fix: 'raters=[{id: ..., role: ..., qualified: ...}]'" in refusal("raters=dr_a")
    assert "fix: did you mean review.approval.min_pairs?" in refusal("review.approval.min_pair=3")
    assert "review.approval.min_pairs=few: has the wrong type" in refusal("review.approval.min_pairs=few")
    assert refusal("review.approval.min_raters=1") == (
        "1 fault in the configuration:\n  review.approval.min_raters=1: is out of range\n      allowed: >= 2"
    )
    assert "review.questions.preferred: must ask which answer is better" in refusal("review.questions.preferred=null")
    assert "review.questions: none of them tells harm" in refusal("review.questions.harm_extent=null")
    assert "is none of the options" in refusal("review.questions.consensus.best=[perfect]")
    assert "review.questions.urgency.options" in refusal("review.questions.urgency.options=[right]")
    assert "name=a/b: is no plain name" in refusal("name=a/b")
    assert "raters: nobody would rate" in refusal("raters=[]")
    assert "raters=x: the same id twice" in refusal("raters=[{id:x,role:a},{id:X,role:b}]")
    assert "id=default: cannot name a rater" in refusal("raters=[{id:default,role:a}]")
    assert "review=experts: no such option" in refusal("review=experts")
    with pytest.raises(ConfigError, match="artifact: needs a value"):
        load_conf(CreateReviewConf, ["name=first", RATERS])


def test_a_card_is_filled_in_by_people() -> None:
    """Everything is missing at first but that it is research; a blank is no statement."""
    conf = CardConf()
    assert {"intended_use", "risks_signed_off_by", "clinical_claims"} <= set(conf.missing)
    assert "release_stage" not in conf.missing
    with pytest.raises(ConfigError, match="contact: is blank"):
        replace(conf, contact=" ")


def test_no_torch(tmp_path: Path) -> None:
    """A wrong key is answered before anything heavy is imported."""
    from tests.test_layers import loaded_by

    imported = "from medllm.config.compose import load_conf; from medllm.config.review import CreateReviewConf as C"
    code = f"{imported}; load_conf(C, ['artifact=x', 'name=y', {RATERS!r}])"
    assert loaded_by(code, "torch", "transformers", "mlflow") == "[]"
