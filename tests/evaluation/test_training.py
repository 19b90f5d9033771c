"""Suites while a model is trained, and sweeps that rank by them."""

import json
from pathlib import Path

import pytest

from medllm.config.plan import Point
from medllm.errors import ConfigError
from medllm.experiment import check, run_training
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
    from medllm import experiment

    monkeypatch.setattr(experiment, "build_base_model", lambda *a: pytest.fail("was loaded"))
    with pytest.raises(ConfigError, match=r"did you mean eval/conversation/chrf\?"):
        run_training(tiny_conf(dialogues, *SUITES, "trainer.objective=eval/conversation/chr"), tmp_path / "run")


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
