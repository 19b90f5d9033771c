"""Rubrics: the arithmetic by hand, the files, and the suite."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medllm.config.evaluation.rubric import RubricConf
from medllm.errors import ConfigError, DataError
from medllm.evaluation.rubric import (
    Criterion,
    Rubric,
    RubricSuite,
    build_suite,
    clipped_mean,
    load_items,
    score,
    score_values,
)
from medllm.evaluation.suite import Better, Side
from medllm.inference.generate import Answer

THREE = (
    Criterion("Calls an ambulance.", 10, ("axis:accuracy",)),
    Criterion("Is kind.", 5, ("axis:communication_quality",)),
    Criterion("Says to wait.", -6, ("axis:accuracy",)),
)


@pytest.mark.parametrize(
    ("met", "expected"),
    [([1, 1, 0], 1.0), ([1, 0, 1], 4 / 15), ([0, 0, 1], -6 / 15), ([0, 0, 0], 0.0), ([0.5, 1, 0.5], (5 + 5 - 3) / 15)],
)
def test_a_score_is_points_met_over_positive_points(met: list[float], expected: float) -> None:
    """By hand, negative points and disagreeing graders included."""
    assert score(THREE, met) == pytest.approx(expected)


def test_without_positive_points_there_is_no_score() -> None:
    """An axis of faults alone cannot be a share of anything."""
    assert score(THREE[2:], [0]) is None


def test_a_models_score_is_clipped_and_its_interval_too() -> None:
    """Single answers may be negative, their mean is not; a constant has no width; the mean is of all answers."""
    assert clipped_mean([-0.5, -0.1]) == (0, 0, 0)
    assert clipped_mean([0.25] * 7) == (0.25, 0.25, 0.25)
    assert clipped_mean([1.0, -0.5])[0] == 0.25


def test_the_bootstrap_agrees_with_the_normal_approximation() -> None:
    """For many answers the interval is about 1.96 standard errors to each side."""
    scores = np.random.default_rng(0).uniform(0, 1, 400)
    value, low, high = clipped_mean(scores)
    error = scores.std(ddof=1) / 20
    assert value == pytest.approx(scores.mean())
    assert low == pytest.approx(value - 1.96 * error, abs=0.25 * error)
    assert high == pytest.approx(value + 1.96 * error, abs=0.25 * error)


def test_themes_get_the_whole_score_and_axes_their_criteria() -> None:
    """Accuracy: 10 of 10 points less 6; communication: 0 of 5; a judge's figures have other names."""
    rubric = Rubric(THREE, ("theme:emergency_referrals", "other"))
    assert score_values(rubric, [1, 0, 1], "human") == {
        "rubric/score": (pytest.approx(4 / 15), 1),
        "rubric/theme/emergency_referrals": (pytest.approx(4 / 15), 1),
        "rubric/axis/accuracy": (pytest.approx(0.4), 1),
        "rubric/axis/communication_quality": (0, 1),
    }
    assert all(name.startswith("rubric/judge/") for name in score_values(rubric, [1, 0, 1], "judge"))


def test_the_shipped_rubrics_are_what_they_should_be() -> None:
    """At least 15 conversations, each with 5 criteria, one of them negative; ids and criteria differ; tags are of one form."""
    items = build_suite(RubricConf(enabled=True)).items()
    assert len(items) >= 15
    assert len({item.id for item in items}) == len(items)
    for item in items:
        rubric = Rubric.of(item.fields)
        assert len(rubric.criteria) >= 5
        assert {criterion.points > 0 for criterion in rubric.criteria} == {True, False}
        assert len({criterion.criterion for criterion in rubric.criteria}) == len(rubric.criteria)
        assert len(rubric.themes) == 1
        assert all(len(criterion.tags) == 1 for criterion in rubric.criteria)
        assert item.conversation.messages[-1].role == "user"
    assert len(Counter(Rubric.of(item.fields).themes[0] for item in items)) >= 5


def write(path: Path, *rows: Any) -> Path:
    """A JSONL file."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


ROW = {
    "prompt": [{"role": "user", "content": "I cough"}],
    "rubrics": [{"criterion": "Asks since when.", "points": 3, "tags": ["axis:context_awareness"]}],
    "example_tags": ["theme:context_seeking"],
}


def test_healthbench_rows_of_both_spellings_are_one(tmp_path: Path) -> None:
    """`prompt_messages` and `tags` are `prompt` and `example_tags`; the same content has the same id."""
    other = {"prompt_messages": ROW["prompt"], "rubrics": ROW["rubrics"], "tags": ROW["example_tags"]}
    (one,) = load_items(write(tmp_path / "a.jsonl", ROW))
    (two,) = load_items(write(tmp_path / "b.jsonl", other))
    assert one.fields == two.fields
    assert one.id.removeprefix("a/") == two.id.removeprefix("b/")
    twice = load_items(write(tmp_path / "c.jsonl", ROW, ROW))
    assert twice[1].id == f"{twice[0].id}#2"


def test_what_an_answer_must_have_are_points_of_one(tmp_path: Path) -> None:
    """K-QA's completeness is the share of its must-haves; what is nice to have counts nothing."""
    row = {"question": "What is it?", "answer": "-", "must_have": ["It is a cough", "It passes"], "nice_to_have": ["x"]}
    (item,) = load_items(write(tmp_path / "kqa.jsonl", row))
    rubric = Rubric.of(item.fields)
    assert score(rubric.criteria, [1, 0]) == 0.5
    assert item.fields["nice_to_have"] == ["x"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"prompt": []}, "needs `prompt`"),
        ({"prompt": [{"role": "doctor", "content": "x"}]}, "a `role` of system, user, assistant"),
        ({"prompt": [{"role": "user", "content": " "}]}, "needs `content`"),
        ({"prompt": [{"role": "user", "content": "\ud800"}]}, "needs `content`"),
        ({"prompt": [*ROW["prompt"], {"role": "assistant", "content": "x"}]}, "do not alternate"),
        ({"rubrics": []}, "needs `rubrics`"),
        ({"rubrics": [{"criterion": "x", "points": 0}]}, "points` other than 0"),
        ({"rubrics": [{"criterion": "x", "points": -1}]}, "gives points"),
        ({"rubrics": [{"criterion": "x", "points": "5"}]}, "needs `rubrics`"),
        ({"rubrics": [{"criterion": "x", "points": True}]}, "needs `rubrics`"),
        ({"example_tags": "theme:x"}, "no list of texts"),
        ({"must_have": [], "question": "x"}, "needs a `question`"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    """By its line, with what is wrong, whatever the limit."""
    path = write(tmp_path / "x.jsonl", ROW, "", {**ROW, **change})
    with pytest.raises(DataError, match=r"line 3: .*") as error:
        load_items(path, limit=1)
    assert told in str(error.value)


def test_files_that_are_no_files(tmp_path: Path) -> None:
    """Missing, of one name, not UTF-8, no JSON, empty: each is one message."""
    with pytest.raises(ConfigError, match=r"evaluation.rubric.files=.*no such file"):
        build_suite(RubricConf(enabled=True, files=[str(tmp_path / "none.jsonl")]))
    (tmp_path / "d").mkdir()
    files = [str(write(tmp_path / "a.jsonl", ROW)), str(write(tmp_path / "d" / "a.jsonl", ROW))]
    with pytest.raises(ConfigError, match="has the name of another file"):
        build_suite(RubricConf(enabled=True, files=files))
    (tmp_path / "latin.jsonl").write_bytes(b"\xff\xfe{}")
    for path, told in ((tmp_path / "latin.jsonl", "no UTF-8"), (write(tmp_path / "e.jsonl", ""), "nothing to ask")):
        with pytest.raises(DataError, match=told):
            load_items(path)
    with pytest.raises(DataError, match=r"(?s)line 1: no JSON\n.*and 2 more") as error:
        load_items(write(tmp_path / "no.jsonl", *["{"] * 7))
    assert "Traceback" not in str(error.value)
    with pytest.raises(ConfigError, match="leaves the suite without a conversation"):
        RubricConf(enabled=True, shipped=False)


def test_the_suite_asks_in_batches_and_grades_nothing() -> None:
    """Answers come as they are known; what grading needs comes with them; no score without a grade."""
    asked = []

    def answers(conversations: list[Any]) -> list[Answer]:
        asked.append(len(conversations))
        return [Answer(c.messages[-1].content, f"to {c.id}", True) for c in conversations]

    suite = RubricSuite(RubricConf(enabled=True, limit=5))
    subject: Any = SimpleNamespace(side=Side.base, batch_size=2, answers=answers)
    found = []
    for item, outcome in suite.outcomes(subject, suite.items()):
        found.append(item)
        assert len(asked) == (len(found) + 1) // 2
        assert outcome.values == {"rubric/graded": (0, 1)}
        assert outcome.details["answer"] == f"to {item.conversation.id}"
        assert Rubric.of(outcome.details) == Rubric.of(item.fields)
        json.dumps(outcome.details)
    assert found == suite.items()
    assert asked == [2, 2, 1]
    names = [metric.name for metric in suite.metrics]
    assert len(names) == len(set(names))
    assert all(m.better is Better.neither for m in suite.metrics if m.name.startswith("rubric/judge/"))
    values = score_values(Rubric.of(found[0].fields), [1.0] * len(found[0].fields["rubrics"]), "human")
    assert set(values) <= set(names)
