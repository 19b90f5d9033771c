"""Whole runs in this process, on the tiny model."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from medllm import foundation
from medllm.artifact import load_artifact, resolved_yaml, sha256
from medllm.config.compose import load_run_conf
from medllm.config.plan import Point
from medllm.config.run import RunConf
from medllm.errors import ArtifactError, ConfigError, DeviceMemoryError, MedLLMError, NonFiniteError
from medllm.experiment import check, run_training
from medllm.models.adapter import load_adapter
from medllm.models.base import build_base_model, build_tokenizer
from medllm.run_folder import read_history
from tests.conf.groups import options


def conf_of(tiny_overrides: list[str], *more: str) -> RunConf:
    """A tiny run."""
    own = [override for override in tiny_overrides if not override.startswith("hydra.")]
    if any("tracking=none" in item for item in more):
        own = [override for override in own if not override.startswith("tracking.")]
    if any(item.startswith("generation=") for item in more):
        own = [override for override in own if not override.startswith("generation.")]
    return load_run_conf([*own, *more])


@pytest.mark.parametrize("option", options("lora"))
def test_every_method_trains_and_its_artifact_loads(option: str, tiny_overrides: list[str], tmp_path: Path) -> None:
    """From configuration to an artifact that answers, for each method of the group."""
    conf = conf_of(tiny_overrides, f"lora={option}", "tracking=none", "trainer.max_steps=2")
    check([Point((), conf)])
    result = run_training(conf, tmp_path / "run")
    artifact = load_artifact(tmp_path / "run")
    assert artifact.conf == conf
    assert artifact.is_adapter == (option != "none")
    assert result.steps == 2
    assert result.before is not None
    assert result.after is not None
    assert len(result.answers_after) == 2
    if artifact.is_adapter:
        base = build_base_model(conf.model, conf.quantization, build_tokenizer(conf.model))
        load_adapter(base, artifact.folder)
    assert not list(artifact.folder.rglob("*.bin")) + list(artifact.folder.rglob("*.pt"))


def test_record_and_artifact_of_a_run(tiny_overrides: list[str], tmp_path: Path) -> None:
    """Every leaf of the configuration, the metrics by step, lineage, files; what the manifest says is so. And no other run."""
    odd = "Größe 身長 \U0001f600 = [x]@{y}: '#\n"
    conf = conf_of(tiny_overrides, "lora.r=4", "trainer.eval_steps=2", "generation.sample_at_evaluation=true")
    conf = replace(conf, generation=replace(conf.generation, system_prompt=odd))
    result = run_training(conf, tmp_path / "run")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run = client.get_run(result.run_id)
    everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
    assert [one.info.run_id for one in client.search_runs(everywhere)] == [result.run_id]
    assert run.data.params["generation.system_prompt"] == odd
    recorded = Path(client.download_artifacts(result.run_id, "config.yaml", str(tmp_path))).read_bytes()
    assert recorded == resolved_yaml(conf).encode() and yaml.safe_load(recorded)["generation"]["system_prompt"] == odd
    assert run.info.status == "FINISHED"
    assert (run.data.params["lora"], run.data.params["quantization"]) == ("lora", "none")
    assert (run.data.params["lora.r"], run.data.params["trainer.learning_rate"]) == ("4", "0.0002")
    assert {key.split(".")[0] for key in run.data.params} == set(RunConf.__dataclass_fields__)
    for metric in (
        "train/loss",
        "eval/loss",
        "eval/perplexity",
        "eval/token_accuracy",
        "base/loss",
        "perf/tokens_per_second",
        "perf/supervised_tokens_per_second",
        "perf/peak_memory_gib",
        "labels/supervised_share_assistant",
    ):
        assert metric in run.data.metrics, metric
    assert [m.step for m in client.get_metric_history(result.run_id, "train/loss")] == [1, 2, 3, 4]
    assert [m.step for m in client.get_metric_history(result.run_id, "eval/loss")] == [2, 4]
    for tag in ("data.fingerprint", "git.dirty", "version.torch", "hardware.cpu", "labels"):
        assert run.data.tags[tag]
    assert len(run.inputs.dataset_inputs) == 2
    files = {file.path for file in client.list_artifacts(result.run_id)}
    assert {"config.yaml", "loss.png", "data_report.json", "label_proof.json"} <= files
    assert not {"samples.json", "data_report.html"} & files  # they hold texts, see test_texts.py
    history = read_history(result.folder)
    assert {name: [step for step, _ in curve] for name, curve in history.items()} == {
        "train": [1, 2, 3, 4],
        "eval": [0, 2, 4],
        "tokens": [1, 2, 3, 4],
        "seconds": [1, 2, 3, 4],
    }
    assert all(history[name] == sorted(history[name], key=lambda point: point[1]) for name in ("tokens", "seconds"))
    folder = result.artifact
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["data"]["fingerprint"] == run.data.tags["data.fingerprint"]
    assert manifest["weights_sha256"] == sha256(folder / "adapter_model.safetensors")
    assert set(manifest["files"]) == {p.name for p in folder.iterdir()} - {"manifest.json"}
    assert manifest["base"] == {"name": "tiny_random"}
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny_random"


def test_two_runs_of_one_configuration_give_one_hash(tiny_overrides: list[str], tmp_path: Path) -> None:
    """Dropout, data order and the adapter's first weights included; another seed gives another."""
    hashes = []
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        conf = conf_of(tiny_overrides, f"seed={seed}", "tracking=none")
        artifact = run_training(conf, tmp_path / name).artifact
        hashes.append(sha256(artifact / "adapter_model.safetensors"))
    assert hashes[0] == hashes[1] != hashes[2]


def test_an_artifact_of_a_killed_process_gives_way(tiny_overrides: list[str], tmp_path: Path) -> None:
    """Killed when the artifact was sealed and the result was not written, a run goes on to a whole artifact, and the same one."""
    conf = conf_of(tiny_overrides, "tracking=none")
    first = load_artifact(run_training(conf, tmp_path / "run").artifact)
    (first.folder / "stray.json").write_text("{}")
    again = load_artifact(run_training(conf, tmp_path / "run").artifact)
    assert again.manifest["weights_sha256"] == first.manifest["weights_sha256"]
    assert again.manifest["files"].keys() == first.manifest["files"].keys()


def test_sample_answers_do_not_change_the_result(tiny_overrides: list[str], tmp_path: Path) -> None:
    """A run that samples at each evaluation trains the same adapter as one that never does."""
    hashes = set()
    for name, more in (
        ("a", ["generation.do_sample=true"]),
        ("b", ["generation.sample_prompts=[]", "generation.sample_at_evaluation=false"]),
    ):
        artifact = run_training(conf_of(tiny_overrides, "tracking=none", *more), tmp_path / name).artifact
        hashes.add(sha256(artifact / "adapter_model.safetensors"))
    assert len(hashes) == 1


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "tokenizer.json", "config.yaml"])
def test_a_damaged_artifact_is_refused_by_file_name(file: str, tiny_overrides: list[str], tmp_path: Path) -> None:
    """One flipped bit, a truncated and a missing file are found."""
    conf = conf_of(tiny_overrides, "tracking=none", "trainer.max_steps=1", "trainer.eval_strategy=no")
    folder = run_training(conf, tmp_path / "run").artifact
    path = folder / file
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 1
    for content in (bytes(flipped), whole[:-5]):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=f"is damaged: {file}"):
            load_artifact(folder)
    path.unlink()
    with pytest.raises(ArtifactError, match=f"is damaged: {file}"):
        load_artifact(folder)
    path.write_bytes(whole)
    load_artifact(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"manifest.json is damaged"):
        load_artifact(folder)
    with pytest.raises(ArtifactError, match="is no artifact"):
        load_artifact(tmp_path)


def test_a_failing_run_is_recorded_and_leaves_nothing_behind(tiny_overrides: list[str], tmp_path: Path) -> None:
    """FAILED with its traceback; the two runs after it, in the same process, equal one that runs alone."""
    alone = run_training(conf_of(tiny_overrides, "tracking=none"), tmp_path / "alone").artifact
    bad = conf_of(tiny_overrides, "data.over_length=error", "data.max_length=64")
    with pytest.raises(MedLLMError):
        run_training(bad, tmp_path / "bad")
    for name in ("after", "after that"):
        after = run_training(conf_of(tiny_overrides), tmp_path / name)
        assert sha256(after.artifact / "adapter_model.safetensors") == sha256(alone / "adapter_model.safetensors")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("medllm").experiment_id])
    assert sorted(run.info.status for run in runs) == ["FAILED", "FINISHED", "FINISHED"]


def test_a_run_that_cannot_fit_is_refused_before_its_base_is_loaded(
    tiny_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the need, the limit and what would make it smaller."""

    def load(*arguments: object) -> None:
        raise AssertionError("the base was loaded")

    monkeypatch.setattr(foundation, "build_base_model", load)
    with pytest.raises(ConfigError) as error:
        run_training(conf_of(tiny_overrides, "tracking=none", "trainer.max_memory_gib=0.2"), tmp_path / "run")
    assert re.search(
        r"trainer: needs about \d\.\d GiB at its peak\n"
        r"      allowed: at most the 0\.2 GiB of trainer\.max_memory_gib\n"
        r"      fix: quantization=nf4_double",
        str(error.value),
    )


def test_a_full_gpu_is_one_message(tiny_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory names what would make the run smaller."""
    import torch

    from medllm.training.trainer import MedTrainer

    def full(*arguments: object, **more: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(MedTrainer, "training_step", full)
    with pytest.raises(DeviceMemoryError, match=r"fix: .*data\.max_length"):
        run_training(conf_of(tiny_overrides, "tracking=none"), tmp_path / "run")


def test_resuming_a_finished_run_trains_nothing_and_ends_well(tiny_overrides: list[str], tmp_path: Path) -> None:
    """Its last checkpoint is the end: same metrics, no division by the time of no step."""
    save = ["tracking=none", "trainer.save_strategy=steps", "trainer.save_steps=4"]
    first = run_training(conf_of(tiny_overrides, *save), tmp_path / "first")
    checkpoint = tmp_path / "first" / "checkpoints" / "checkpoint-4"
    again = run_training(
        conf_of(tiny_overrides, *save, f"trainer.resume_from_checkpoint={checkpoint}"), tmp_path / "again"
    )
    assert again.objective == first.objective


@pytest.mark.parametrize("engine", ["plain", "fused"])
def test_a_diverging_run_fails(
    tiny_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """NaN is not a result, whatever computed it."""
    from medllm.models.fused.engine import FusedEngine
    from medllm.training.trainer import MedTrainer

    owner, name = (MedTrainer, "compute_loss") if engine == "plain" else (FusedEngine, "backward")
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda self, *a, **k: original(self, *a, **k) * float("nan"))
    with pytest.raises(NonFiniteError, match="step 1"):
        run_training(conf_of(tiny_overrides, "tracking=none", f"trainer.engine={engine}"), tmp_path / "run")
    assert not (tmp_path / "run" / "artifact").exists()
