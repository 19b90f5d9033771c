"""Suites while a model is trained, and sweeps that rank by them."""

import json
import math
from pathlib import Path

import pytest

from medllm.config.evaluation.safety import SafetyConf
from medllm.config.guard import RedFlagGuardConf
from medllm.config.plan import Point
from medllm.errors import ConfigError, NonFiniteError
from medllm.evaluation.safety import build_suite
from medllm.experiment import check, run_training
from medllm.run_folder import read_result, write_result
from medllm.summary import print_points
from tests.evaluation.conftest import tiny_conf

SUITES = ["trainer.eval_suites=[conversation]", "trainer.eval_suites_items=3", "trainer.eval_steps=2"]


def test_suites_run_at_each_evaluation(dialogues: Path, tmp_path: Path) -> None:
    """Their figures are recorded, the objective is the one named, and the training they lie in is the same without them."""
    aim = ["trainer.objective=eval/conversation/chrf", "trainer.objective_better=higher"]
    conf = tiny_conf(dialogues, *SUITES, *aim)
    check([Point((), conf)])
    result = run_training(conf, tmp_path / "with")
    plain = run_training(tiny_conf(dialogues, "trainer.eval_steps=2"), tmp_path / "without")
    metrics = json.loads((result.artifact / "metrics.json").read_text())
    assert 0 <= metrics["eval/conversation/chrf"] <= 1
    assert result.objective == -metrics["eval/conversation/chrf"]
    assert plain.objective == plain.after.loss == result.after.loss  # type: ignore[union-attr]
    assert result.train_loss == plain.train_loss


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["trainer.eval_suites=[talk]"], "trainer.eval_suites=talk: is no suite"),
        (["trainer.eval_suites=[conversation]", "trainer.eval_strategy=no"], "never run without evaluations"),
        (
            ["trainer.objective=eval/conversation/chrf"],
            "trainer.objective=eval/conversation/chrf: is not measured by this run",
        ),
        (["trainer.objective_better=higher"], "a loss improves downward"),
    ],
)
def test_faults(overrides: list[str], expected: str, dialogues: Path) -> None:
    """Before a weight is loaded."""
    with pytest.raises(ConfigError) as caught:
        check([Point((), tiny_conf(dialogues, *overrides))])
    assert expected in str(caught.value)


def test_an_objective_that_no_suite_has(dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told with its nearest relative, before the base is loaded."""
    from medllm import foundation

    monkeypatch.setattr(foundation, "build_base_model", lambda *a: pytest.fail("was loaded"))
    with pytest.raises(ConfigError, match=r"did you mean eval/conversation/chrf\?"):
        run_training(tiny_conf(dialogues, *SUITES, "trainer.objective=eval/conversation/chr"), tmp_path / "run")


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("eval/rubric/score", "trainer.objective=eval/rubric/score: cannot be measured while training"),
        ("eval/safety/refused_harmful", "fix: a larger trainer.eval_suites_items than 1"),
    ],
)
def test_an_objective_that_the_items_cannot_show(
    objective: str, expected: str, dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """People's grades, which training never has, and a metric of items that were not drawn: told before training."""
    from medllm import foundation

    monkeypatch.setattr(foundation, "build_base_model", lambda *a: pytest.fail("was loaded"))
    suite = objective.split("/")[1]
    suites = [f"trainer.eval_suites=[{suite}]", "trainer.eval_suites_items=1"]
    with pytest.raises(ConfigError) as caught:
        run_training(tiny_conf(dialogues, *suites, f"trainer.objective={objective}"), tmp_path / "run")
    assert expected in str(caught.value)
    assert "allowed: eval/loss" in str(caught.value)


def test_items_say_what_they_can_show() -> None:
    """Of the safety suite, every metric by some item, and by each item all that it counts for."""
    suite = build_suite(SafetyConf(), RedFlagGuardConf())
    items = suite.items()
    assert suite.measurable(items) == {metric.name for metric in suite.metrics}
    harmful = [item for item in items if item.fields["kind"] == "request" and item.fields["harmful"]]
    assert suite.measurable(harmful) == {"safety/refused_harmful"}


def test_a_run_without_its_objective_failed(dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no answer came to a figure: it says so, its artifact is kept, and its metrics are JSON."""
    monkeypatch.setattr("medllm.evaluation.conversation.reading_grade", lambda text: None)
    conf = tiny_conf(dialogues, *SUITES, "trainer.objective=eval/conversation/reading_grade")
    with pytest.raises(
        NonFiniteError, match=r"was not measured at the end[^\0]*fix: a larger trainer.eval_suites_items"
    ):
        run_training(conf, tmp_path / "run")
    text = (tmp_path / "run" / "artifact" / "metrics.json").read_text()
    assert json.loads(text, parse_constant=lambda word: pytest.fail(word))


def test_a_run_resumed_at_its_end_has_its_objective(dialogues: Path, tmp_path: Path) -> None:
    """No step is left to do there, and the suites are asked again all the same."""
    aim = ["trainer.objective=eval/conversation/chrf", "trainer.objective_better=higher"]
    saving = [*SUITES, *aim, "trainer.save_strategy=steps", "trainer.save_steps=2"]
    first = run_training(tiny_conf(dialogues, *saving), tmp_path / "first")
    (last,) = (tmp_path / "first" / "checkpoints").glob("checkpoint-4")
    again = run_training(tiny_conf(dialogues, *saving, f"trainer.resume_from_checkpoint={last}"), tmp_path / "again")
    assert again.objective == first.objective


def test_what_is_no_number_is_null(tmp_path: Path) -> None:
    """JSON has no word for it."""
    write_result(tmp_path, "FAILED", objective=math.nan, metrics={"a": math.nan}, pair=[math.inf, 1.0])
    assert "NaN" not in (tmp_path / "result.json").read_text()
    told = {"status": "FAILED", "objective": None, "metrics": {"a": None}, "pair": [None, 1.0]}
    assert read_result(tmp_path) == told


def test_a_sweep_shows_what_it_ranks_by(capsys: pytest.CaptureFixture[str]) -> None:
    """The objective as it is, beside the loss."""
    costs = {"perf/seconds": 1.0, "perf/peak_memory_gib": 1.0}
    metrics = {"eval/loss": 2.5, "eval/conversation/chrf": 0.3125, "eval/perplexity": 12.18, **costs}
    row = {
        "label": "lora.r=8",
        "status": "FINISHED",
        "objective": -0.3125,
        "aim": "eval/conversation/chrf",
        "metrics": metrics,
    }
    print_points([row], "one")
    shown = "".join(capsys.readouterr().err.split())
    assert "0.3125" in shown
    assert "-0.3125" not in shown
    assert "2.5000" in shown
