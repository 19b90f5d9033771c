"""Fixtures: a private cache and project-independent places, small data, and a way to run train.py as people do."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hub_server import TOKEN, Hub, serving

ROOT = Path(__file__).parents[1]

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # as many tests run at once as there are cores
if not Path("/dev/nvidia0").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported, which torch does by itself


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`-m gpu` on a machine without a GPU skips instead of failing: these tests measure the device itself."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples are cached per session; prepared base models stay where `make demo` put them."""
    from medllm.cache import cache_dir

    shared, private = cache_dir(), tmp_path_factory.mktemp("cache")
    (private / "models").parent.mkdir(parents=True, exist_ok=True)
    (shared / "models").mkdir(parents=True, exist_ok=True)
    (private / "models").symlink_to(shared / "models")
    os.environ["MEDLLM_CACHE"] = str(private)
    return private


@pytest.fixture(scope="session")
def dialogues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 24 short dialogues, for runs of seconds."""
    complaints = ("headache", "cough", "rash", "fever", "back pain", "dizziness", "sore throat", "nausea")
    path = tmp_path_factory.mktemp("data") / "dialogues.csv"
    lines = ["Patient,Doctor"]
    for i in range(24):
        complaint = complaints[i % len(complaints)]
        lines.append(
            f'"I have had a {complaint} for {i + 2} days, what should I do?",'
            f'"A {complaint} of {i + 2} days is common. Rest and drink water. See a doctor if it gets worse after {i} days."'
        )
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run record's, as MLflow makes it, which takes seconds."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    SqlAlchemyStore(f"sqlite:///{path}", str(path.parent / "mlruns"))
    return path


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> Path:
    """The test's own `mlflow.db`, empty. Who tests how one is made does not ask for it."""
    return shutil.copy(empty_database, tmp_path / "mlflow.db")


@pytest.fixture
def tiny_overrides(dialogues: Path, tmp_path: Path, database: Path) -> list[str]:
    """A run of seconds in a folder of its own."""
    return [
        "model=tiny_random",
        "quantization=none",
        "data=local",
        f"data.path={dialogues}",
        "data.max_length=256",
        "trainer=cpu",
        "trainer.bf16=false",
        "trainer.max_steps=4",
        "generation.max_new_tokens=4",
        f"tracking.tracking_uri=sqlite:///{database}",
        f"tracking.artifact_location={tmp_path}/mlruns",
        f"hydra.run.dir={tmp_path}/run",
    ]


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Types `python train.py ...` from an unrelated folder."""

    def run(*arguments: str, timeout: float = 280, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "train.py"), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "160", **environment},
        )

    return run


@pytest.fixture
def lose_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Makes bitsandbytes one that is not installed, until the test's end."""
    from medllm.models.quantization import bitsandbytes_fault

    def lose() -> None:
        monkeypatch.setitem(sys.modules, "bitsandbytes", None)
        bitsandbytes_fault.cache_clear()

    yield lose
    bitsandbytes_fault.cache_clear()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, and the client pointed at it; between its trials it does not wait."""
    from huggingface_hub import constants

    with serving() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.endpoint)
        template = served.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the server speaks git-lfs, and no Xet
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield served


HOLD = """
import sys
from pathlib import Path
from medllm.errors import Fault
from medllm.run_folder import lock_folder
lock = lock_folder(Path(sys.argv[1]), Fault("folder", "in use"))
print("held", flush=True)
input()
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """A folder that another process works in."""
    folder = tmp_path / "held"
    command = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield folder
    process.communicate("\n")
