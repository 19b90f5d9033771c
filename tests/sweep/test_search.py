"""Searches with Optuna: the contract of a sweep holds for points that are suggested while it runs."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from optuna.study import Study
from optuna.trial import TrialState

from medllm.config.plan import make_plan
from medllm.config.search import SearchConf
from medllm.errors import ConfigError
from medllm.run_folder import SweepFile, read_result, write_result
from medllm.stopping import stop
from medllm.sweep.outlook import outlooks
from medllm.sweep.search import Search
from medllm.sweep.study import POINT, ask, open_study, reporter, suggest
from tests.sweep.test_sweep import runs_of, sweep_overrides

RATE = "trainer.learning_rate=tag(log, interval(1e-6, 1e-1))"


class Killed(BaseException):
    """Stands for a process that dies."""


class Launcher:
    """Stands for an engine: gives each point the result that `outcome` has for its values, and remembers what it ran."""

    def __init__(self, outcome: Callable[[dict[str, str]], dict[str, Any]]):
        self.outcome = outcome
        self.ran: list[str] = []
        self.batches: list[int] = []

    def launch(self, jobs: list[list[str]], initial_job_idx: int) -> None:
        """Called with overrides per point, the last one naming the point's folder."""
        self.batches.append(len(jobs))
        for job in jobs:
            values = dict(override.partition("=")[::2] for override in job)
            name = values["hydra.sweep.subdir"].strip("'")
            self.ran.append(name)
            (self.root / name).mkdir(parents=True, exist_ok=True)
            write_result(self.root / name, **self.outcome(values))

    root: Path


def loss_of(values: dict[str, str]) -> dict[str, Any]:
    """A valley with its lowest point at a rate of 1e-3 and rank 8."""
    loss = abs(math.log10(float(values.get("trainer.learning_rate", 1e-3))) + 3) + abs(int(values["lora.r"]) - 8) / 8
    return {"status": "FINISHED", "objective": loss}


Type = Callable[..., Launcher]


@pytest.fixture
def search(tiny_overrides: list[str], tmp_path: Path) -> Type:
    """Types a search with a launcher that trains nothing."""
    own = [override for override in tiny_overrides if not override.startswith("hydra.run.dir")]

    def run(*line: str, outcome: Callable[[dict[str, str]], dict[str, Any]] = loss_of) -> Launcher:
        folder = tmp_path / "sweep"
        plan = make_plan([*own, "hydra/sweeper=optuna", f"hydra.sweep.dir={folder}", *line], multirun=True)
        found = Search(plan, outlooks(plan.points))
        folder.mkdir(exist_ok=True)
        launcher = Launcher(outcome)
        launcher.root = folder
        found.launch(launcher)
        return launcher

    return run


def study_of(folder: Path) -> Study:
    """The study that a search left."""
    return open_study(folder / "sweep", SweepFile.load(folder / "sweep").name, SearchConf())


def states(folder: Path) -> list[str]:
    """Of its trials, in order."""
    return [trial.state.name for trial in study_of(folder).get_trials(deepcopy=False)]


@pytest.mark.slow
def test_a_search_finds_the_valley(search: Type, tmp_path: Path) -> None:
    """Each trial is an ordinary point, and those drawn after the start are better than those drawn at random."""
    launcher = search("lora.r=4,8,16", RATE, "hydra.sweeper.n_trials=30")
    points = SweepFile.load(tmp_path / "sweep").points
    assert [point.folder for point in points] == launcher.ran
    assert len(set(launcher.ran)) == 30
    losses = [read_result(tmp_path / "sweep" / point.folder)["objective"] for point in points]
    assert sum(losses[20:]) / 10 < sum(losses[:10]) / 10
    assert set(states(tmp_path)) == {"COMPLETE"}
    assert all(point.folder.endswith(f"-{point.key[:8]}") for point in points)


@pytest.mark.slow
def test_typing_it_again_adds_what_is_new(search: Type, tmp_path: Path) -> None:
    """Ended trials count; what a grown search adds is what it would have run at once."""
    first = search("lora.r=4,8,16", RATE, "hydra.sweeper.n_trials=4")
    assert search("lora.r=4,8,16", RATE, "hydra.sweeper.n_trials=4").ran == []
    grown = search("lora.r=4,8,16", RATE, "hydra.sweeper.n_trials=12")
    assert len(grown.ran) == 8
    assert not set(grown.ran) & set(first.ran)
    (tmp_path / "sweep").rename(tmp_path / "before")
    assert search("lora.r=4,8,16", RATE, "hydra.sweeper.n_trials=12").ran == first.ran + grown.ran


@pytest.mark.slow
def test_its_points_are_what_this_machine_runs(
    search: Type, tmp_path: Path, lose_bitsandbytes: Callable[[], None]
) -> None:
    """Allowed to do without quantization they are those without it, and no others than where it works."""
    lose_bitsandbytes()
    line = ["lora.r=4,8", "hydra.sweeper.n_trials=2"]
    without = search(*line).ran
    (tmp_path / "sweep").rename(tmp_path / "before")
    assert search(*line, "quantization=nf4", "quantization.on_missing=degrade").ran == without


@pytest.mark.slow
def test_a_killed_search_goes_on(search: Type, tmp_path: Path) -> None:
    """The trial under way is resumed in its own folder; then the search is the one never killed."""
    line = ["lora.r=4,8,16", RATE, "hydra.sweeper.n_trials=6"]
    count = 0

    def killed(values: dict[str, str]) -> dict[str, Any]:
        nonlocal count
        count += 1
        if count == 3:
            raise Killed
        return loss_of(values)

    with pytest.raises(Killed):
        search(*line, outcome=killed)
    assert states(tmp_path) == ["COMPLETE", "COMPLETE", "RUNNING"]
    left = [point.folder for point in SweepFile.load(tmp_path / "sweep").points]
    again = search(*line)
    assert again.ran[0] == left[2]
    assert len(again.ran) == 4
    assert states(tmp_path) == ["COMPLETE"] * 6
    (tmp_path / "sweep").rename(tmp_path / "before")
    assert search(*line).ran == left[:2] + again.ran


@pytest.mark.slow
def test_a_result_that_the_study_was_not_told(search: Type, tmp_path: Path) -> None:
    """Killed between a point's end and the study: the study is told, and the point is not run again."""

    def killed(values: dict[str, str]) -> dict[str, Any]:
        write_result(tmp_path / "sweep" / values["hydra.sweep.subdir"].strip("'"), **loss_of(values))
        raise Killed

    with pytest.raises(Killed):
        search("lora.r=4,8", RATE, "hydra.sweeper.n_trials=1", outcome=killed)
    assert states(tmp_path) == ["RUNNING"]
    assert search("lora.r=4,8", RATE, "hydra.sweeper.n_trials=1").ran == []
    assert states(tmp_path) == ["COMPLETE"]


@pytest.mark.slow
def test_failed_points_are_failed_trials(search: Type, tmp_path: Path) -> None:
    """A failure and a loss that is not finite; the first is tried again by the same line, unless it is told not to."""
    line = ["lora.r=2,4,8", "hydra.sweeper.n_trials=3"]

    def failing(values: dict[str, str]) -> dict[str, Any]:
        if values["lora.r"] == "2":
            return {"status": "FAILED", "reason": "step 1: the loss is nan"}
        return {"status": "FINISHED", "objective": math.nan if values["lora.r"] == "4" else 1.0}

    assert len(search(*line, outcome=failing).ran) == 3
    trials = study_of(tmp_path).get_trials(deepcopy=False)
    ends = {(trial.params["lora.r"], trial.state.name) for trial in trials}
    assert ends == {("2", "FAIL"), ("4", "FAIL"), ("8", "COMPLETE")}
    assert search(*line, "sweep.retry_failed=false").ran == []
    again = search(*line).ran
    assert [name.partition("-")[0] for name in again] == ["lora.r=2"]
    assert search(*line).ran == []


@pytest.mark.slow
def test_values_that_do_not_fit_together(search: Type, tmp_path: Path) -> None:
    """Each is right alone; together they are a failed point that no engine is given, and that stays one."""
    line = ["data.max_length=64,256", "data.over_length=error,truncate", "hydra.sweeper.n_trials=4"]

    def outcome(values: dict[str, str]) -> dict[str, Any]:
        return {"status": "FINISHED", "objective": float(values["data.max_length"])}

    assert len(search(*line, outcome=outcome).ran) == 3
    points = {point.label: point for point in SweepFile.load(tmp_path / "sweep").points}
    result = read_result(tmp_path / "sweep" / points["data.max_length=64, data.over_length=error"].folder)
    assert result["status"] == "FAILED"
    assert "data.max_length=64" in result["reason"]
    assert search(*line, outcome=outcome).ran == []
    assert len(SweepFile.load(tmp_path / "sweep").points) == 4


@pytest.mark.slow
def test_an_exhausted_space_ends(search: Type, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every point of a finite space is run once, however often it is suggested."""
    launcher = search("lora.r=2,4", "trainer.warmup_steps=range(0,3)", "hydra.sweeper.n_trials=20")
    assert len(launcher.ran) == len(set(launcher.ran)) == 6
    assert "the space has no more points: 6 of 20 trials" in capsys.readouterr().err
    assert set(states(tmp_path)) == {"COMPLETE"}


@pytest.mark.slow
def test_points_at_once(search: Type) -> None:
    """As many as the launcher takes, and no more than are left."""
    line = ["lora.r=4,8,16", RATE, "hydra.sweeper.n_trials=7", "hydra/launcher=joblib", "hydra.launcher.n_jobs=3"]
    launcher = search(*line)
    assert launcher.batches == [3, 3, 1]
    assert len(set(launcher.ran)) == 7


@pytest.mark.slow
def test_a_stopped_search_keeps_its_trials(search: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points interrupted in processes of their own go on later; no other is started."""

    def interrupted(values: dict[str, str]) -> dict[str, Any]:
        monkeypatch.setattr(stop, "signum", signal.SIGINT)
        return {"status": "KILLED", "reason": "interrupted"}

    line = ["lora.r=4,8", RATE, "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2"]
    stopped = search(*line, outcome=interrupted)
    assert states(tmp_path) == ["RUNNING", "RUNNING"]
    monkeypatch.setattr(stop, "signum", 0)
    assert search(*line).ran[:2] == stopped.ran
    assert states(tmp_path) == ["COMPLETE"] * 3


@pytest.mark.slow
def test_the_best_is_the_least_of_what_is_finite(search: Type, tmp_path: Path) -> None:
    """NaN, infinity, no number and a failure, killed in the third trial and typed again: each point once, none left running."""
    outcomes: dict[str, dict[str, Any]] = {
        "2": {"status": "FINISHED", "objective": math.nan},
        "4": {"status": "FINISHED", "objective": -math.inf},
        "8": {"status": "FINISHED", "objective": None},
        "16": {"status": "FAILED", "reason": "step 1: the loss is nan"},
        "32": {"status": "FINISHED", "objective": 1.5},
        "64": {"status": "FINISHED", "objective": 1.2},
    }
    line = [f"lora.r={','.join(outcomes)}", "hydra.sweeper.n_trials=6", "sweep.retry_failed=false"]
    begun: list[str] = []

    def outcome(values: dict[str, str]) -> dict[str, Any]:
        begun.append(values["lora.r"])
        if len(begun) == 3:
            raise Killed
        return outcomes[values["lora.r"]]

    with pytest.raises(Killed):
        search(*line, outcome=outcome)
    search(*line, outcome=outcome)
    assert begun.count(begun[2]) == 2  # the killed one went on
    assert sorted(begun) == sorted([*outcomes, begun[2]])
    assert len(SweepFile.load(tmp_path / "sweep").points) == 6
    study = study_of(tmp_path)
    ends = {trial.params["lora.r"]: trial.state.name for trial in study.get_trials(deepcopy=False)}
    assert ends == {rank: "COMPLETE" if rank in ("32", "64") else "FAIL" for rank in outcomes}
    assert "RUNNING" not in states(tmp_path)
    assert (study.best_trial.params["lora.r"], study.best_value) == ("64", 1.2)
    before = list(begun)
    search(*line, outcome=outcome)
    assert begun == before


@pytest.mark.slow
def test_a_range_is_the_same_in_a_grid_and_in_a_search() -> None:
    """`range(0,4)` is 0, 1, 2, 3: its end is left out in both, with steps and without."""
    for text, wanted in (("range(0,4)", [0, 1, 2, 3]), ("range(0,4,3)", [0, 3]), ("range(1,4,3)", [1])):
        axis = f"trainer.warmup_steps={text}"
        points = make_plan([axis, "seed=1,2"], multirun=True).points
        grid = {override for point in points for override in point.overrides if "warmup" in override}
        assert grid == {f"trainer.warmup_steps={value}" for value in wanted}
        space = (
            make_plan([axis, "lora.r=4,8", "hydra/sweeper=optuna"], multirun=True).space if len(wanted) > 1 else None
        )
        assert space is None or space.axes[0].values() == wanted


@pytest.mark.slow
def test_another_space_needs_another_name(search: Type) -> None:
    """What was learned in one space says nothing about another."""
    search("lora.r=4,8", "hydra.sweeper.n_trials=1")
    with pytest.raises(ConfigError, match=r"holds a sweep over lora\.r with other settings or axes"):
        search("lora.r=4,8,16", "hydra.sweeper.n_trials=1")


def test_an_engine_that_does_not_run_ends_the_search(search: Type) -> None:
    """It is not asked to run all trials, one after another, in vain."""

    def broken(values: dict[str, str]) -> dict[str, Any]:
        raise RuntimeError("no cluster")

    assert len(search("lora.r=4,8,16", RATE, outcome=broken).ran) == 1


@pytest.mark.slow
def test_a_poor_point_is_pruned(tmp_path: Path) -> None:
    """A point's process finds its trial by the folder; what is above the median of the others is given up."""
    axes = make_plan(["lora.r=2,4", RATE, "hydra/sweeper=optuna"], multirun=True).space.axes  # type: ignore[union-attr]
    conf = SearchConf()
    conf.median.n_startup_trials = 2
    study = open_study(tmp_path, "search", conf)
    for number, loss in enumerate([1.0, 1.1, 2.0, 0.5]):
        trial = ask(study, conf)
        assert suggest(trial, axes) == suggest(trial, axes)
        trial.set_user_attr(POINT, f"point-{number}")
        report = reporter(tmp_path / f"point-{number}")
        assert report is not None
        assert report(4, loss) is (loss == 2.0)
        study.tell(trial.number, loss)
    assert reporter(tmp_path / "point-0") is None
    ask(study, conf).set_user_attr(POINT, "late")
    conf.median.n_warmup_steps = 10
    open_study(tmp_path, "search", conf)
    report = reporter(tmp_path / "late")
    assert report is not None
    assert not report(4, 9.0)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["trainer.learning_rate=interval(0,1)"], r"trainer\.learning_rate=0\.0: is out of range"),
        (["trainer.learning_rate=interval(0.1,2)"], r"trainer\.learning_rate=2\.0: is out of range"),
        (["trainer.learning_rate=tag(log,interval(0,1))"], "cannot be logarithmic"),
        (["trainer.learning_rate=interval(1e-3,1e-4)"], "holds nothing to search"),
        (["trainer.learning_rate=tag(logarithm,interval(1e-4,1e-3))"], "tag that means nothing here"),
        (["lora.r=tag(log,choice(2,4))"], "these are choices"),
        (["lora.r=tag(log,range(2,16,2))"], "logarithmic and in steps"),
        (["lora.r=range(0,5)"], r"lora\.r=0: is out of range"),
        (["lora.r=interval(2,5)"], "allowed: a whole number"),
        (["lora.r=4,8,0"], r"lora\.r=0: is out of range"),
        (["lora.rr=4,8"], r"did you mean lora\.r"),
        (["lora=default,nothing"], "no such option"),
        (["tracking.experiment_name=a,b"], "has no effect on what is trained"),
        (["lora.r=4,8", "sweep.seeds=2"], "cannot repeat the points of a search"),
        (["lora.r=4"], "needs something to search"),
        (["lora.r=4,8", "hydra.sweeper.n_trials=0"], r"hydra\.sweeper\.n_trials=0: is out of range"),
        (["lora.r=4,8", "hydra.sweeper.tpe.n_startup_trials=-1"], r"tpe\.n_startup_trials=-1: is out of range"),
        (["lora.r=4,8", "hydra.sweeper.pruner=best"], "allowed: median, none"),
        (["lora.r=4,8", "hydra.sweeper.n_trails=3"], "no such key"),
    ],
)
def test_a_bad_space_is_refused(line: list[str], expected: str) -> None:
    """Every choice and both ends of every interval are composed and checked before anything runs."""
    with pytest.raises(ConfigError, match=expected):
        make_plan([*line, "hydra/sweeper=optuna"], multirun=True)


@pytest.mark.slow
def test_the_space_is_read_as_written() -> None:
    """Choices, whole numbers, real numbers; the grid of a preset; all of it part of the sweep's identity."""
    line = ["lora.r=4,8,16", RATE, "trainer.warmup_steps=range(0,10,2)", "hydra/sweeper=optuna"]
    plan = make_plan(line, multirun=True)
    assert plan.space is not None
    assert [str(axis) for axis in plan.space.axes] == [
        "one of 4, 8, 16",
        "1e-06 to 0.1 on a logarithmic scale",
        "whole numbers 0 to 8 in steps of 2",
    ]
    assert plan.axes == ("lora.r", "trainer.learning_rate", "trainer.warmup_steps")
    assert plan.space.size == math.inf
    other = make_plan([*line, "lora.r=4,8"], multirun=True)
    assert other.base_key != plan.base_key
    assert make_plan([*line, "hydra.sweeper.n_trials=99"], multirun=True).base_key == plan.base_key
    preset = make_plan(["sweep=rank_learning_rate", "hydra/sweeper=optuna"], multirun=True).space
    assert preset is not None
    assert preset.size == 6


@pytest.mark.slow
def test_a_dry_run_writes_nothing(train: Callable[..., Any], tiny_overrides: list[str], tmp_path: Path) -> None:
    """It tells the space, the number of trials and what a point takes; an axis without effect is refused."""
    (tmp_path / "mlflow.db").unlink()
    own = [*sweep_overrides(tiny_overrides, tmp_path), "generation.sample_prompts=[]", "hydra/sweeper=optuna", RATE]
    done = train(*own, "lora.r=2,4", "sweep.dry_run=true", "-m", MEDLLM_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert "search of 20 trials, 1 at once" in done.stderr
    assert "one of 2, 4" in done.stderr
    assert "from two measured steps" in done.stderr
    assert not (tmp_path / "sweep").exists()
    assert not (tmp_path / "mlflow.db").exists()
    idle = train(*own, "trainer.num_train_epochs=1,2", "-m")
    assert idle.returncode == 2
    assert "trainer.num_train_epochs=2 / 1: has no effect" in idle.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", [[], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]], ids=["basic", "joblib"])
def test_the_contract(engine: list[str], tiny_overrides: list[str], tmp_path: Path) -> None:
    """A search with a failing point, killed once: typed again, it ends with all its points, each run once.

    Poor points are pruned and count as done; the point that always fails is why the exit code is 1.
    """
    own = sweep_overrides(tiny_overrides, tmp_path)
    line = [*own, *engine, f"name='{tmp_path}/marker'", "generation.sample_prompts=[]", "hydra/sweeper=optuna"]
    line += ["trainer.max_steps=6", "trainer.eval_steps=2", "trainer.save_strategy=steps", "trainer.save_steps=1"]
    line += ["seed=67,68", "lora.r=2,4,8", RATE, "hydra.sweeper.n_trials=10", "hydra.sweeper.median.n_startup_trials=2"]
    script = Path(__file__).with_name("faulty_train.py")
    finished: dict[Path, int] = {}
    for _ in range(4):
        done = subprocess.run(
            [sys.executable, str(script), *line, "-m"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "160"},
        )
        for path in (tmp_path / "sweep").glob("*/result.json"):
            if read_result(path.parent)["status"] in ("FINISHED", "PRUNED"):
                assert finished.setdefault(path, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
        if done.returncode >= 0 and len(list((tmp_path / "sweep").glob("*/result.json"))) == 10:
            break
    assert (tmp_path / "marker").exists()  # the kill has happened
    points = SweepFile.load(tmp_path / "sweep").points
    assert len(points) == 10, done.stderr[-3000:]
    found = {point.label: read_result(tmp_path / "sweep" / point.folder)["status"] for point in points}
    failed = [label for label, status in found.items() if status == "FAILED"]
    assert set(found.values()) <= {"FINISHED", "PRUNED", "FAILED"}
    assert all("seed=68, lora.r=4" in label for label in failed)
    assert failed
    assert done.returncode == 1
    assert "PRUNED" in found.values(), found
    parent, children = runs_of(tmp_path)
    assert len(children) == 10
    ends = {"FINISHED": "FINISHED", "PRUNED": "KILLED", "FAILED": "FAILED"}
    for child in children:
        status = read_result(Path(child.data.tags["folder"]))["status"]
        assert child.info.status == ends[status]
        assert ("pruned" in child.data.tags) is (status == "PRUNED")
    assert parent.info.status == "FAILED"
    trials = study_of(tmp_path).get_trials(deepcopy=False)
    assert sum(trial.state is TrialState.PRUNED for trial in trials) == list(found.values()).count("PRUNED")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kill_9(tiny_overrides: list[str], tmp_path: Path) -> None:
    """Killed in the middle of a point, the same line goes on from its checkpoint in its record, and adds the rest."""
    root = Path(__file__).parents[2]
    own = [*sweep_overrides(tiny_overrides, tmp_path), "generation.sample_prompts=[]", "hydra/sweeper=optuna"]
    line = [sys.executable, str(root / "train.py"), *own, "trainer.max_steps=150", "trainer.eval_strategy=no"]
    line += ["trainer.save_strategy=steps", "trainer.save_steps=5", RATE, "hydra.sweeper.n_trials=2", "-m"]
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL, cwd=tmp_path)
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("sweep/*/checkpoints/*/manifest.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    (point,) = SweepFile.load(tmp_path / "sweep").points
    record = (tmp_path / "sweep" / point.folder / "record_id").read_text()
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert SweepFile.load(tmp_path / "sweep").points[0].key == point.key
    assert json.loads((tmp_path / "sweep" / point.folder / "result.json").read_text())["run_id"] == record
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    steps = [metric.step for metric in client.get_metric_history(record, "train/loss")]
    assert set(steps) == set(range(1, 151))
    assert [run.info.status for run in runs_of(tmp_path)[1]] == ["FINISHED"] * 2
    assert states(tmp_path) == ["COMPLETE"] * 2
