"""Names that people type become folders, and none of them leads out of where its folder belongs."""

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medllm.comparison.winner import write_winner
from medllm.config.compose import compose_config
from medllm.config.evaluation import EvaluationConf
from medllm.config.review import name_faults
from medllm.config.store import project_root, slug
from medllm.config.tracking import MlflowConf
from medllm.errors import ConfigError, MedLLMError, TrackingError
from medllm.tracking.mlflow_store import connect

STEPS = (
    "..",
    "../",
    "/..",
    "../..",
    "..\\",
    "..\\..",
    ".",
    "./",
    "/",
    "//",
    "~",
    "-",
    "-.",
    ".-.",
    "%2e%2e",
    "%2e%2e%2f",
)
STEPS += ("..%2f", "..%5c", "....//", "..;/", "\uff0e\uff0e", "\u2025", "\u2024\u2024/", "..\n", " .. ")
ENDS = ("", "etc", "/etc/cron.d/x", "\\x")
NAMES = [f"{step}{end}" for step in STEPS for end in ENDS]


def inside(path: str | Path, folder: Path) -> bool:
    """Whether a path lies directly in a folder, and is not the folder itself."""
    return Path(path).resolve().parent == folder.resolve()


def test_names_of_runs_and_sweeps() -> None:
    """A run's folder is its day's own, a sweep's the sweeps' own, whatever they are called; each has a name."""
    assert len(NAMES) == 100
    config, outputs = compose_config(["sweep.name=x"], multirun=True), project_root() / "outputs"
    for name in NAMES:
        config.name = config.sweep.name = name
        assert inside(config.hydra.sweep.dir, outputs / "sweeps"), name
        assert inside(Path(config.hydra.run.dir).parent, outputs), name
        assert inside(config.hydra.run.dir, Path(config.hydra.run.dir).parent), name
    assert {slug(name) for name in ("..", ".", "/", "", "-", "~")} == {"unnamed"}
    assert slug("lora.r=8,seed=65") == "lora.r=8,seed=65"


def test_names_of_evaluations_and_reviews(tmp_path: Path) -> None:
    """They are refused, or lie where they belong."""
    for name in NAMES:
        with contextlib.suppress(ConfigError):
            EvaluationConf(name=name)
            assert inside(tmp_path / name, tmp_path), name
        assert name_faults(name) or inside(tmp_path / name, tmp_path), name
    assert EvaluationConf(name="quick").name == "quick"
    assert not name_faults("quick")


def test_names_of_winners(tmp_path: Path) -> None:
    """No file is written, in `conf/experiment/` or elsewhere."""
    run = SimpleNamespace(
        choices={}, folder=tmp_path
    )  # of which no experiment can be made: a name that passes is told that
    comparison: Any = SimpleNamespace(winner=SimpleNamespace(runs=[run]))
    for name in NAMES:
        passed = f"{name}" == slug(name)
        with pytest.raises(MedLLMError, match="names no options" if passed else "is no name of an experiment"):
            write_winner(comparison, name, tmp_path / "conf")
        assert not passed or inside(tmp_path / f"{name}.yaml", tmp_path), name
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_names_of_experiments(tmp_path: Path) -> None:
    """MLflow takes or refuses them; what their runs leave lies in the one folder that is meant for it."""
    for name in NAMES[::7]:  # one of each kind is enough: a database takes its time
        conf = MlflowConf(f"sqlite:///{tmp_path}/store/mlflow.db", name)
        with contextlib.suppress(TrackingError):
            client, experiment_id = connect(conf)
            assert client.get_experiment(experiment_id).artifact_location == (tmp_path / "store" / "mlruns").as_uri()
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert {path.name.partition(".")[0] for path in (tmp_path / "store").iterdir()} <= {"mlflow", "mlruns"}
