"""What the guard finds on texts that come with the project: a change of the lexicon must not lose it unnoticed."""

from pathlib import Path

import pytest

from benchmarks.guard import load_cases, main, measure, share
from medllm.config.guard import RedFlagGuardConf
from medllm.guard.guard import Guard
from medllm.guard.urgency import Urgency


def test_recall_and_false_alarms_of_the_shipped_texts(tmp_path: Path) -> None:
    """Vignettes that the lexicon was not written with, and the bundled dialogues; below what was measured."""
    cases = [case for case in load_cases(tmp_path) if case.half == "test"]
    assert {case.source for case in cases} == {"own", "bundled"}
    measured = measure(Guard(RedFlagGuardConf(model_urgency=False)), cases)

    def rate(source: str, label: str) -> float:
        found = [urgency is Urgency.D for case, urgency, _ in measured if (case.source, case.label) == (source, label)]
        return sum(found) / len(found)

    assert rate("own", "emergency") >= 0.9
    assert rate("bundled", "emergency") >= 0.8
    assert rate("own", "home") <= 0.05
    assert rate("bundled", "home") <= 0.15


def test_shares_by_hand() -> None:
    """Wilson's interval: 36 of 38 is 0.95, from 0.83 to 0.99."""
    assert share(36, 38) == "0.95 [0.83-0.99] of 38"
    assert share(0, 0) == "-"


def test_the_benchmark_prints_its_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also without any of the files it can read."""
    main([str(tmp_path), "--half", "test"])
    printed = capsys.readouterr().out
    assert "own " in printed
    assert "self_harm" in printed
    assert "refusals found among doctors' answers" in printed
