"""SIGTERM and SIGINT at any instant: saved within one step, ended as the signal says, gone on bit for bit."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from medllm.inference import generate
from medllm.run_folder import read_result
from medllm.stopping import StopRequested, stop
from medllm.training import metrics
from medllm.training.callbacks import StopOnRequest
from medllm.training.checkpoint import checkpoints, newest_valid
from tests.reliability.conftest import Line
from tests.reliability.test_cuts import Traced
from tests.reliability.trace import Runs, outcome, read_trace
from tests.training.runs import datasets_of, model_of, tiny_run, weights


def trainer(conf: Any, folder: Path) -> Traced:
    """With what stops it when the process is asked to."""
    from medllm.training.arguments import build_arguments

    arguments = build_arguments(conf.trainer, folder, conf.seed)
    made = Traced(conf=conf.trainer, datasets=datasets_of(conf), model=model_of(conf), args=arguments)
    made.add_callback(StopOnRequest(stop.requested))
    return made


@pytest.mark.parametrize("place", ["step", "evaluation", pytest.param("save", marks=pytest.mark.slow)])
def test_no_step_follows_the_request(
    place: str, dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked in the step before an evaluation, it is left out; in one, it ends at its next batch; in a save, after it.

    An evaluation that was not made, or not to its end, is what the resume begins with.
    """
    own = ("trainer.max_steps=4", "trainer.save_strategy=steps", "trainer.save_steps=3", "trainer.eval_steps=2")
    own += ("data.eval_fraction=0.4", "data.max_length=128", "lora.lora_dropout=0.1", "trainer.engine=plain")
    conf = tiny_run(dialogues, *own)
    whole: dict[tuple[int, int], set[Any]] = {}
    parts: dict[tuple[int, int], set[Any]] = {}
    expected = trainer(conf, tmp_path / "whole").begin("", whole)
    expected.train()
    batches = 0

    def ask(function: Any) -> Any:
        def asking(*arguments: Any, **more: Any) -> Any:
            nonlocal batches
            if first.state.global_step > 0:
                batches += 1
                monkeypatch.setattr(stop, "signum", signal.SIGTERM)
            return function(*arguments, **more)

        return asking

    first = trainer(conf, tmp_path / "parts").begin("", parts)
    with monkeypatch.context() as patched:
        places = {"step": "_end_batch", "save": "_complete"}
        owner, name = (metrics, "token_losses") if place == "evaluation" else (Traced, places[place])
        patched.setattr(owner, name, ask(getattr(owner, name)))
        first.train()
    step = 3 if place == "save" else 2
    assert first.state.global_step == step
    assert batches == 1
    assert [path.name for path in checkpoints(tmp_path / "parts")] == [f"checkpoint-{step}"]
    monkeypatch.setattr(stop, "signum", 0)
    second = trainer(conf, tmp_path / "parts").begin("", parts)
    second.train(resume_from_checkpoint=str(newest_valid(tmp_path / "parts")))
    assert parts == whole
    ends = zip(weights(second.model), weights(expected.model), strict=True)
    assert all(one.equal(other) for one, other in ends)
    held_out = [
        [(e["step"], e["eval_loss"]) for e in t.state.log_history if "eval_loss" in e] for t in (second, expected)
    ]
    assert held_out[0] == held_out[1]
    assert [at for at, _ in held_out[0]] == [2, 4]


def test_an_answer_is_cut_short(dialogues: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two tokens, and only where work may be cut short."""
    from medllm.config.generation import GenerationConf
    from medllm.conversation import Renderer
    from medllm.models.base import build_tokenizer

    conf = tiny_run(dialogues)
    renderer = Renderer(build_tokenizer(conf.model).tokenizer, "")
    ask, asked = [generate.ask("I have a cough")], GenerationConf(max_new_tokens=3)
    model = model_of(conf)
    monkeypatch.setattr(stop, "signum", signal.SIGTERM)
    assert len(generate.generate(model, renderer, ask, asked)) == 1
    with pytest.raises(StopRequested), stop.cutting_short():
        generate.generate(model, renderer, ask, asked)


def status(folder: Path) -> list[str]:
    """Of the runs in its store."""
    client = MlflowClient(f"sqlite:///{folder}.db")
    experiment = client.get_experiment_by_name("medllm")
    return [] if experiment is None else [run.info.status for run in client.search_runs([experiment.experiment_id])]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("cut", "steps"),
    [("load:1:TERM", 0), ("step:9:TERM", 5), ("eval:1:INT", 6), ("save:30:TERM", 1), ("end:1:INT", 12)],
)
def test_a_signal(cut: str, steps: int, runs: Runs, line: Line, undisturbed: tuple[Any, float], tmp_path: Path) -> None:
    """At its place: 143 or 130, KILLED, no step too many; the same line comes to the undisturbed run's end."""
    folder, trace = tmp_path / "run", tmp_path / "trace"
    run = runs.run(line(folder), trace, cut)
    said = run.log.read_text()
    written = cut.startswith("end")  # then the artifact is, and the run has finished
    assert run.code == (0 if written else 143 if cut.endswith("TERM") else 130), said
    assert json.loads((folder / "result.json").read_text())["status"] == ("FINISHED" if written else "KILLED")
    assert status(folder) == (["FINISHED"] if written else ["KILLED"])
    assert len({step for step, _ in read_trace(trace)}) == steps
    assert "Traceback" not in said
    if not written:
        run = runs.run(line(folder), trace)
        assert run.code == 0, run.log.read_text()
        assert status(folder) == ["FINISHED"]
    assert outcome(folder, trace) == undisturbed[0]


IN_A_FINALIZER = """
import signal, time
from medllm.stopping import stop

class Dying:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0)

stop.listen()
Dying()
time.sleep(120)
print("went on")
"""


def test_a_signal_in_a_finalizer_is_no_lost_one() -> None:
    """Python drops what is raised there; it strikes again right after, and nothing is said of the first time."""
    done = subprocess.run([sys.executable, "-c", IN_A_FINALIZER], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_signals_at_random(runs: Runs, line: Line, undisturbed: tuple[Any, float], tmp_path: Path) -> None:
    """Wherever they strike, the exit code and both statuses say so, and the same line goes on to the same end."""
    import os

    from tests.reliability import killer

    whole, seconds = undisturbed
    chance, left = random.Random(66), int(os.environ.get("MEDLLM_SIGNALS", "4"))
    ends = ended = 0
    while left or ended:
        folder, trace = tmp_path / f"run-{ends}", tmp_path / f"trace-{ends}"
        run = runs.start(line(folder), trace)
        signum = chance.choice([signal.SIGTERM, signal.SIGINT])
        if left:
            killer.at_random(run, seconds, chance, signum)
        ended = run.wait()
        said = run.log.read_text()
        assert ended in (0, 128 + signum), said
        assert "Traceback" not in said
        left -= bool(left)
        if read_result(folder).get("status") == "FINISHED":  # also where the signal came after the last word
            assert outcome(folder, trace) == whole
            ends, ended = ends + 1, 0
        else:
            assert ended and set(status(folder)) <= {"KILLED"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_second_signal(runs: Runs, line: Line, undisturbed: tuple[Any, float], tmp_path: Path) -> None:
    """Ends the run at once, in the middle of the save that the first one asked for; it goes on all the same."""
    folder, trace = tmp_path / "run", tmp_path / "trace"
    run = runs.run(line(folder), trace, "step:9:INT,seal:5:INT")
    assert run.code == 130, run.log.read_text()
    assert status(folder) == ["KILLED"]
    assert newest_valid(folder / "checkpoints").name == "checkpoint-4"  # type: ignore[union-attr]
    run = runs.run(line(folder), trace)
    assert run.code == 0, run.log.read_text()
    assert outcome(folder, trace) == undisturbed[0]
