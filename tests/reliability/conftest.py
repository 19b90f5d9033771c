"""The tiny run that is ended again and again, and its undisturbed twin."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.reliability.trace import Runs, outcome

Line = Callable[..., list[str]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Where runs are started."""
    made = Runs(tmp_path_factory.mktemp("runs"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def line(dialogues: Path, empty_database: Path) -> Line:
    """The line of a tiny run: dropout, two micro-batches a step, 12 steps in two epochs, a checkpoint at each."""

    def typed(folder: Path, *more: str) -> list[str]:
        if not folder.exists():
            shutil.copy(empty_database, f"{folder}.db")
        own = ["model=tiny_random", "quantization=none", "data=local", f"data.path={dialogues}", "data.max_length=128"]
        own += [
            "trainer=cpu",
            "trainer.bf16=false",
            "trainer.max_steps=12",
            "trainer.engine=plain",
            "lora.lora_dropout=0.1",
        ]
        own += [
            "trainer.per_device_train_batch_size=2",
            "trainer.gradient_accumulation_steps=2",
            "trainer.learning_rate=1e-2",
        ]
        own += ["generation.max_new_tokens=4", "trainer.save_strategy=steps", "trainer.save_steps=1"]
        own += [f"tracking.tracking_uri=sqlite:///{folder}.db", f"tracking.artifact_location={folder}.mlruns"]
        return [*own, f"hydra.run.dir={folder}", *more]

    return typed


@pytest.fixture(scope="module")
def undisturbed(runs: Runs, line: Line, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, float]:
    """What the tiny run comes to, and the seconds it takes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run = runs.run(line(folder / "run"), folder / "trace")
    assert run.code == 0, run.log.read_text()
    return outcome(folder / "run", folder / "trace"), run.seconds
