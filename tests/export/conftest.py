"""One tiny artifact in float32 and every whole form of it."""

from pathlib import Path
from typing import Any

import pytest

from medllm.config.compose import load_conf
from medllm.config.export import ExportConf
from medllm.export.write import export
from tests.evaluation.conftest import train_tiny

SMALL = ["proof_prompts=2", "proof_tokens=4", "use_cpu=true", "tracking=none"]


def conf_of(run: Path, *overrides: str) -> Any:
    """What is exported."""
    return load_conf(ExportConf, [f"artifact={run}", *SMALL, *overrides])


@pytest.fixture(scope="session")
def tiny_run(dialogues: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's folder; not to be written to."""
    overrides = ("model.dtype=float32", "data.system_prompt=You are a careful doctor.")
    return train_tiny(dialogues, tmp_path_factory.mktemp("export") / "run", *overrides)


@pytest.fixture(scope="session")
def forms(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Folder and proof of each; not to be written to."""
    conf = conf_of(tiny_run, "formats=[mlflow,gguf_q8_0,gguf_f16,merged]")
    return export(conf, tiny_run / "artifact", tmp_path_factory.mktemp("forms"))
