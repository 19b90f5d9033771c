"""`scripts/evaluate.py` as people type it."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medllm.command import guarded
from medllm.inference.load import LoadedArtifact
from tests.conftest import ROOT


def type_(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """From an unrelated folder."""
    command = [sys.executable, str(ROOT / "scripts" / "evaluate.py"), *arguments]
    environment = {**os.environ, "COLUMNS": "180"}
    return subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=folder, env=environment)


@pytest.mark.slow
def test_from_the_command_line(run: Path, tmp_path: Path) -> None:
    """A relative path, a limit; one table, lexicons, power, the gate's word and its exit code."""
    done = type_(
        "artifact=run",
        "suite=quick",
        "limit=3",
        "evaluation.max_new_tokens=4",
        "evaluation.use_cpu=true",
        folder=tmp_path,
    )
    assert done.returncode == 4, done.stderr + done.stdout
    for expected in (
        "tuned - base",
        "held-out loss",
        "LIMITED by limit=3",
        "lexicon   empathy v1: precision",
        "power     conversation/loss:",
        "gate      not enough data",
        "only 3 items, 20 at least decide",
        f"report    {run}/evaluation/quick/report.html",
    ):
        assert expected in done.stdout
    assert "conversation tuned: 3 of 3" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "artifact: needs a value"),
        (["artifact=none"], "artifact=none: names no folder and no run record"),
        (["artifact=x", "suite=quik"], "evaluation=quik: no such option"),
        (["artifact=x", "limit=0"], "evaluation.limit=0: is out of range"),
        (["artifact=x", "limit=few"], "evaluation.limit=few: has the wrong type"),
        (["artifact=x", "lmit=2"], "allowed: artifact, evaluation, guard, lexicon, tracking, suite, limit"),
        (["artifact=x", "lmit=2"], "fix: did you mean limit?"),
        (["artifact=x", "suite=gate"], "evaluation=gate: is a part of evaluation's options, and none itself"),
        (["artifact=run", "evaluation.gate.rules.loss.metric=convrsation/loss"], "did you mean conversation/loss?"),
        (["artifact=x", "conversation.path=y"], "did you mean evaluation.conversation.path?"),
        (["artifact=x", "+evaluation.conversation.paths=y"], "evaluation.conversation.paths=y: no such key"),
        (
            ["artifact=run", "evaluation.conversation.enabled=false", "evaluation.safety.enabled=false"],
            "evaluation: has no suite enabled",
        ),
        (
            ["artifact=run", "evaluation.conversation.path=gone.csv"],
            "evaluation.conversation.path=gone.csv: no such file",
        ),
    ],
)
def test_faults_are_told_before_anything_is_loaded(
    arguments: list[str], expected: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One message, exit code 2, no traceback."""
    spec = importlib.util.spec_from_file_location("evaluate_script", ROOT / "scripts" / "evaluate.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.chdir(run.parent)
    monkeypatch.setattr(LoadedArtifact, "model", lambda *a, **k: pytest.fail("was loaded"))
    assert guarded(lambda: script.main(arguments)) == 2
    assert expected in capsys.readouterr().err
    assert not (run / "evaluation").exists()


def test_help_needs_nothing() -> None:
    """The head of the script."""
    done = type_("--help", folder=ROOT)
    assert "exit code 0 ship, 3 don't ship, 4 not enough data" in done.stdout
