"""Comparison of runs whose losses are known."""

import json
import runpy
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medllm.artifact import resolved_yaml
from medllm.command import guarded
from medllm.comparison import report
from medllm.comparison.pictures import short
from medllm.comparison.report import compare_runs, compare_sweep, write_comparison
from medllm.comparison.winner import write_winner
from medllm.config.compose import load_run_conf, resolved
from medllm.config.run import RunConf
from medllm.conversation_losses import ConversationLosses
from medllm.errors import MedLLMError
from medllm.run_folder import SweepFile, SweepPoint, write_history, write_result

ROOT = Path(__file__).parents[2]
TOKENS = np.arange(20, 80)
NOISE = np.random.default_rng(0)
SHARED = NOISE.normal(3.0, 0.5, len(TOKENS))  # what is easy or hard for every model


def run(folder: Path, conf: RunConf, means: Any, trainable: int = 100, first: int = 0, **choices: str) -> None:
    """A finished run whose conversations have these mean losses."""
    loss = np.asarray(means) * TOKENS
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(resolved_yaml(conf))
    ConversationLosses(np.arange(first, first + len(TOKENS)), loss, TOKENS).save(folder)
    objective = float(loss.sum() / TOKENS.sum())
    write_history(folder, [(1, 5.0), (2, 4.0)], [(0, 5.0), (2, objective)])
    metrics = {"model/trainable_parameters": trainable, "perf/seconds": 9.0, "perf/peak_memory_gib": 1.0}
    write_result(folder, "FINISHED", objective=objective, metrics=metrics, run_id="", choices=choices)


def sweep(folder: Path, gains: dict[tuple[int, float], float], seeds: int = 1) -> Path:
    """Rank by learning rate, each with its gain over the shared difficulty."""
    axes, points = ["lora.r", "trainer.learning_rate"], []
    for ((rank, rate), gain), seed in product(gains.items(), range(seeds)):
        name = f"{rank}-{rate}-{seed}"
        overrides = [f"lora.r={rank}", f"trainer.learning_rate={rate}", f"seed={seed}"]
        luck = 0.002 * np.random.default_rng([rank, seed]).normal(size=len(TOKENS))
        run(folder / name, load_run_conf(["model=tiny_random", *overrides]), SHARED - gain + luck, rank)
        values = {axes[0]: str(rank), axes[1]: str(rate), "seed": str(seed)}
        points.append(SweepPoint(name, ", ".join(overrides), values, overrides, name))
    SweepFile("fake", axes=[*axes, "seed"] if seeds > 1 else axes, points=points).save(folder)
    return folder


@pytest.mark.parametrize("seeds", [1, 3])
def test_what_is_equal_is_not_told_apart_and_what_is_better_is(seeds: int, tmp_path: Path) -> None:
    """Two ranks differ by noise only, a rate by far: the smaller rank at the better rate wins."""
    gains = {(8, 1e-4): 0.0, (16, 1e-4): 0.0, (8, 2e-4): 0.3, (16, 2e-4): 0.3}
    comparison = compare_sweep(sweep(tmp_path / "s", gains, seeds))
    tied = {(c.values["lora.r"], c.values["trainer.learning_rate"]): c.tied for c in comparison.candidates[1:]}
    assert len(comparison.candidates) == 4
    assert [tied[key] for key in tied if key[1] == "0.0001"] == [False, False]
    assert [tied[key] for key in tied if key[1] == "0.0002"] == [True]
    assert comparison.winner is not None
    assert comparison.winner.values["lora.r"] == "8"
    assert comparison.winner.values["trainer.learning_rate"] == "0.0002"
    effects = {effect.axis: effect.range for effect in comparison.effects}
    assert effects["trainer.learning_rate"] == pytest.approx(0.3, abs=0.01)
    assert effects["lora.r"] < 0.01
    for candidate in comparison.candidates:
        assert (candidate.seed_interval is not None) == (seeds > 1)
        assert candidate.interval is not None
        assert candidate.interval.low < candidate.loss < candidate.interval.high


def test_what_did_not_finish_is_never_ranked(tmp_path: Path) -> None:
    """Failed, diverged and missing points are listed with what became of them, and the page is written all the same."""
    folder = sweep(tmp_path / "s", {(8, 1e-4): 0.0, (16, 1e-4): 0.1, (4, 1e-4): 0.2, (2, 1e-4): 0.3})
    write_result(folder / "2-0.0001-0", "FAILED", reason="<b>out of memory</b>")
    write_result(folder / "4-0.0001-0", "FINISHED", objective=float("nan"), metrics={})
    shutil.rmtree(folder / "8-0.0001-0")
    comparison = compare_sweep(folder)
    assert [candidate.values["lora.r"] for candidate in comparison.candidates] == ["16"]
    assert len(comparison.unranked) == 3
    page = write_comparison(comparison, folder)[0].read_text()
    assert "out of memory" in page
    assert "<b>out of memory" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_nothing_to_compare_is_no_error(tmp_path: Path) -> None:
    """A sweep of which nothing has finished still has a page."""
    folder = sweep(tmp_path / "s", {(8, 1e-4): 0.0})
    shutil.rmtree(folder / "8-0.0001-0")
    comparison = compare_sweep(folder)
    assert comparison.winner is None
    assert write_comparison(comparison, folder)[0].is_file()


def test_pictures_name_settings_shortly_and_values_wholly() -> None:
    """The group goes from a key; a number keeps its places."""
    assert short("lora.r=8, trainer.learning_rate=0.0001") == "r=8, learning_rate=0.0001"
    assert short("0.0001") == "0.0001"


def test_only_shared_conversations_are_compared(tmp_path: Path) -> None:
    """Runs on different held-out sides are compared on what they have in common, and the reader is told."""
    for number, first in enumerate((0, 10)):
        conf = load_run_conf(["model=tiny_random", f"lora.r={8 * (number + 1)}"])
        run(tmp_path / str(number), conf, SHARED, first=first)
    comparison = compare_runs([tmp_path / "0", tmp_path / "1"])
    assert comparison.num_conversations == len(TOKENS) - 10
    assert comparison.warnings


def test_the_winner_becomes_an_experiment_that_composes_to_it(tmp_path: Path) -> None:
    """The file says only what differs from its options, composes to the same configuration, and is never overwritten."""
    conf_dir = tmp_path / "conf"
    shutil.copytree(ROOT / "conf", conf_dir)
    conf = load_run_conf(["experiment=demo", "lora.r=4", "seed=7", "trainer.learning_rate=3e-4"])
    choices = {"model": "smollm2_135m", "quantization": "nf4_double", "lora": "default", "trainer": "cpu"}
    run(tmp_path / "run", conf, SHARED, **choices, data="dialogues_bundled", tracking="mlflow", generation="default")
    comparison = compare_runs([tmp_path / "run"])
    path = write_winner(comparison, "best", conf_dir)
    made = resolved(load_run_conf(["experiment=best"], conf_dir))
    assert {**made, "name": ""} == {**resolved(conf), "name": ""}
    assert "lora_dropout" not in path.read_text()
    assert write_winner(comparison, "best", conf_dir) == path
    path.write_text(path.read_text() + "# mine\n")
    with pytest.raises(MedLLMError, match="holds something else"):
        write_winner(comparison, "best", conf_dir)


@pytest.mark.slow
def test_the_script(tmp_path: Path) -> None:
    """It prints the ranking and writes the page; an unknown sweep is answered with those that exist."""
    folder = sweep(tmp_path / "outputs" / "sweeps" / "mine", {(8, 1e-4): 0.0, (16, 1e-4): 0.3})

    def type_(*arguments: str) -> Any:
        command = [sys.executable, str(ROOT / "scripts" / "compare.py"), *arguments]
        environment = {"MEDLLM_ROOT": str(tmp_path), "PATH": "", "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "160"}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    done = type_("sweep=mine")
    assert done.returncode == 0, done.stderr
    assert "winner" in done.stdout
    assert (folder / "comparison.html").is_file()
    unknown = type_("sweep=other")
    assert unknown.returncode == 2
    assert "allowed: mine" in unknown.stderr
    assert json.loads((folder / "sweep.json").read_text())["name"] == "fake"


@pytest.mark.parametrize(
    ("option", "told"),
    [("page=.", "page=.: is a folder"), ("winner=../x", "winner=../x: is no name of an experiment")],
)
def test_what_is_to_be_written_is_checked_before_anything_is_compared(
    option: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One message instead of a comparison that comes to nothing."""
    folder = sweep(tmp_path / "mine", {(8, 1e-4): 0.0})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "compare_sweep", lambda folder: pytest.fail("was compared"))
    script = runpy.run_path(str(ROOT / "scripts" / "compare.py"))
    assert guarded(lambda: script["main"]([f"sweep={folder}", option])) == 2
    assert told in capsys.readouterr().err
