"""A run that was ended before its time goes on by the same line, as what it began as, and alone in its folder."""

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from mlflow import MlflowClient
from omegaconf import open_dict

from medllm import summary
from medllm.artifact import resolved_yaml, sha256
from medllm.config.compose import compose_config, load_run_conf
from medllm.config.plan import make_plan
from medllm.errors import ConfigError
from medllm.models.base import build_base_model, build_tokenizer
from medllm.point import run_point
from medllm.run_folder import UNSENT, read_result, write_whole
from medllm.sameness import refuse_other_run
from medllm.stopping import stop
from medllm.sweep.run import Sweep
from medllm.tracking import mlflow_record
from medllm.tracking.mlflow_record import MlflowRecord
from medllm.training.checkpoint import checkpoints
from medllm.training.trainer import MedTrainer

SAVING = ["trainer.max_steps=6", "trainer.save_strategy=steps", "trainer.save_steps=2", "trainer.eval_strategy=no"]
SAVING += ["generation.sample_prompts=[]", "trainer.save_total_limit=null"]


class Killed(BaseException):
    """Stands for a process that dies."""


@pytest.fixture
def line(tiny_overrides: list[str]) -> list[str]:
    """A tiny run with a checkpoint at every second of its six steps."""
    own = [o for o in tiny_overrides if not o.startswith(("hydra.", "trainer.max_steps"))]
    return [*own, *SAVING]


def typed(line: list[str], folder: Path) -> None:
    """What `python train.py LINE hydra.run.dir=FOLDER` does inside Hydra; raises what it would tell before it exits."""
    config = compose_config(line)
    with open_dict(config):
        config.hydra.runtime.output_dir = str(folder)
    HydraConfig.instance().set_config(config)
    try:
        run_point(config)
    except SystemExit as exit:
        raise exit.__cause__ or exit from None


def ended(line: list[str], folder: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, ended in its sixth step."""
    step = MedTrainer.training_step

    def harmed(self: Any, *arguments: Any, **more: Any) -> Any:
        if self.state.global_step == 5:
            raise error
        return step(self, *arguments, **more)

    with monkeypatch.context() as patched:
        patched.setattr(MedTrainer, "training_step", harmed)
        with pytest.raises(type(error)):
            typed(line, folder)


def files(folder: Path) -> dict[str, str]:
    """Everything in a folder but its lock, by content."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): sha256(path) for path in found}


def test_the_same_line_goes_on(
    line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed, and interrupted with its newest checkpoint damaged: the weights of an uninterrupted run, bit for bit.

    In the same run record, which has every step; what has finished is not run again.
    """
    typed(line, tmp_path / "whole")
    wanted = sha256(tmp_path / "whole" / "artifact" / "adapter_model.safetensors")
    for name, error, newest in (("killed", Killed(), 4), ("interrupted", KeyboardInterrupt(), 2)):
        folder = tmp_path / name
        ended(line, folder, error, monkeypatch)
        checkpoints = folder / "checkpoints"
        assert {path.name for path in checkpoints.iterdir()} == {"checkpoint-2", "checkpoint-4"}
        if newest == 2:
            assert json.loads((folder / "result.json").read_text())["status"] == "KILLED"
            with (checkpoints / "checkpoint-4" / "optimizer.pt").open("r+b") as file:
                file.write(b"damaged")
        capsys.readouterr()
        typed([*line, "trainer.logging_steps=1"], folder)  # which changes nothing of what is trained
        said = capsys.readouterr().err
        assert ("checkpoint-4 has a damaged optimizer.pt; going back" in said) == (newest == 2)
        assert f"checkpoints/checkpoint-{newest}" in said.replace("\n", "")
        assert sha256(folder / "artifact" / "adapter_model.safetensors") == wanted
        assert json.loads((folder / "result.json").read_text())["status"] == "FINISHED"
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("medllm").experiment_id])
    assert [run.info.status for run in found] == ["FINISHED"] * 3
    for run in found:
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")]
        assert sorted(steps) == list(range(1, 7))  # those done again count once
    before = files(tmp_path / "killed")
    with pytest.raises(ConfigError, match="holds a run already"):
        typed(line, tmp_path / "killed")
    assert files(tmp_path / "killed") == before


@pytest.mark.parametrize(
    ("place", "signals", "status"),
    [pytest.param("end", 1, "FINISHED", marks=pytest.mark.slow), ("settle", 1, "FINISHED"), ("end", 2, "KILLED")],
)
def test_a_late_signal_leaves_one_truth(
    line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, signals: int, status: str
) -> None:
    """When all is computed the first signal changes nothing, and the second ends the run; record and folder agree."""
    monkeypatch.setattr(stop, "signum", 0)
    owner: Any = MlflowRecord if place == "end" else mlflow_record
    function, left = getattr(owner, place), [signal.SIGTERM] * signals

    def struck(*arguments: Any) -> None:
        function(*arguments)
        while left:
            signal.raise_signal(left.pop())

    monkeypatch.setattr(owner, place, struck)
    line = [*(o for o in line if not o.startswith("trainer.max_steps")), "trainer.max_steps=1"]
    with pytest.raises(SystemExit) if status == "KILLED" else contextlib.nullcontext():
        typed(line, tmp_path / "run")
    assert not left
    assert read_result(tmp_path / "run")["status"] == status
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("medllm").experiment_id])
    assert run.info.status == status
    assert not (tmp_path / "run" / UNSENT).exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BrokenPipeError()])
def test_what_ends_the_last_words_of_a_run_leaves_it_finished(
    line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """A signal, or a reader that has gone, while its table is printed: record and folder are as they were."""
    monkeypatch.setattr(summary, "print_run", Mock(side_effect=error))
    line = [*(o for o in line if not o.startswith("trainer.max_steps")), "trainer.max_steps=1"]
    with pytest.raises(type(error)):
        typed(line, tmp_path / "run")
    assert read_result(tmp_path / "run")["status"] == "FINISHED"
    assert not (tmp_path / "run" / "traceback.txt").exists()
    with pytest.raises(ConfigError, match="holds a run already"):
        typed(line, tmp_path / "run")


def test_it_goes_on_as_memory_allowed(line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after memory ran out, the same line is not refused for it, nor fails again; the record says what was done."""
    line = [
        *line,
        "trainer.engine=plain",
        "trainer.per_device_train_batch_size=2",
        "trainer.gradient_accumulation_steps=1",
    ]
    compute, failed = MedTrainer.compute_loss, []

    def full(self: Any, model: Any, inputs: Any, *arguments: Any, **more: Any) -> Any:
        if self.state.global_step == 2 and len(inputs["labels"]) > 1:
            failed.append(self.state.global_step)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return compute(self, model, inputs, *arguments, **more)

    monkeypatch.setattr(MedTrainer, "compute_loss", full)
    ended(line, tmp_path / "run", Killed(), monkeypatch)
    newest = tmp_path / "run" / "checkpoints" / "checkpoint-4"
    shutil.rmtree(newest)  # so that the step is taken once more
    typed(line, tmp_path / "run")
    assert failed == [2]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("medllm").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["memory.retries"] == "step 3: CUDA out of memory: 1 x 2 rows become 2 x 1 row"
    assert run.data.params["trainer.per_device_train_batch_size"] == "2"  # as it was written


def test_another_run_does_not_go_on(line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key that matters with both values; nothing of the run that is there changes; nor does it go on with other data."""
    data = tmp_path / "dialogues.csv"
    given = next(o for o in line if o.startswith("data.path=")).partition("=")[2]
    data.write_text(Path(given).read_text())
    line = [*(o for o in line if not o.startswith(("data.path", "tracking."))), f"data.path={data}", "tracking=none"]
    folder = tmp_path / "run"
    ended(line, folder, Killed(), monkeypatch)
    before = files(folder)
    with pytest.raises(ConfigError) as refused:
        typed([*line, "lora.r=4", "seed=3"], folder)
    assert [(fault.key, fault.value) for fault in refused.value.faults] == [
        ("lora.r", "4"),
        ("seed", "3"),
    ]
    assert f"lora.r=4: was 16 when the run in {folder} began" in str(refused.value)
    assert "fix: hydra.run.dir=<another folder>" in str(refused.value)
    assert files(folder) == before
    data.write_text(data.read_text().replace("headache", "toothache"))
    with pytest.raises(ConfigError, match=r"data=.*: was .* when the run in"):
        typed(line, folder)
    with pytest.raises(ConfigError, match=r"data=\w{12}, \d+ kept: was \w{12}, \d+ kept when the run in"):
        typed(line, folder)
    assert (folder / "checkpoints" / "checkpoint-4" / "manifest.json").is_file()
    damaged = folder / "checkpoints" / "checkpoint-2"
    (damaged / "optimizer.pt").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=r"(?s)trainer\.resume_from_checkpoint=.*has a damaged optimizer\.pt"):
        typed([*line, f"trainer.resume_from_checkpoint={damaged}"], tmp_path / "other")
    assert not (tmp_path / "other" / "config.yaml").exists()
    whole = folder / "checkpoints" / "checkpoint-4"
    with pytest.raises(ConfigError) as refused:
        typed(
            [*line, f"trainer.resume_from_checkpoint={whole}", "lora.r=4", "model.hidden_size=32"], tmp_path / "other"
        )
    assert [(fault.key, fault.value) for fault in refused.value.faults] == [
        ("lora.r", "4"),
        ("model.hidden_size", "32"),
    ]
    assert f"lora.r=4: was 16 in the run of {whole}" in str(refused.value)
    assert not (tmp_path / "other" / "config.yaml").exists()
    (folder / "config.yaml").unlink()
    before = files(folder)
    with pytest.raises(ConfigError, match=r"hydra\.run\.dir=.*: holds checkpoints, and no config\.yaml says of what"):
        typed(line, folder)
    assert files(folder) == before


def test_a_folder_takes_one_process(line: list[str], tmp_path: Path, held: Path) -> None:
    """The second run, or sweep, is refused and leaves no trace; when the first process has ended, the folder is free."""
    (tmp_path / "mlflow.db").unlink()  # whoever records something makes one
    with pytest.raises(ConfigError, match=r"hydra\.run\.dir=.*is in use by another process"):
        typed([*line], held)
    sweep_line = [*(o for o in line if not o.startswith("tracking.")), "tracking=none", f"hydra.sweep.dir={held}"]
    plan = make_plan([*sweep_line, "sweep.name=mine", "lora.r=2,4"], multirun=True)
    sweep = Sweep(plan, [SimpleNamespace(key=f"{number:016}") for number in range(2)])  # type: ignore[misc]
    with (
        pytest.raises(ConfigError, match=r"sweep\.name=mine: is being run by another process"),
        sweep.open(plan.points[0].conf),
    ):
        pytest.fail("is not reached")
    assert files(held) == {}
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize("where", ["the same folder", "another folder"])
def test_another_base_behind_the_same_name_does_not_go_on(
    line: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """One layer of a local base was merged with something since; a copy of the same base elsewhere in time is the same."""
    base, folder = tmp_path / "base", tmp_path / "run"
    conf = load_run_conf(["model=tiny_random", "quantization=none"])
    tokenizer = build_tokenizer(conf.model)
    model = build_base_model(conf.model, conf.quantization, tokenizer)
    model.save_pretrained(base)
    tokenizer.tokenizer.save_pretrained(base)
    own = ["model=pretrained", f"model.pretrained_model_name_or_path={base}", "model.dtype=float32", "tracking=none"]
    line = [*(o for o in line if not o.startswith(("model", "tracking"))), *own, "quantization=none"]
    ended(line, folder, Killed(), monkeypatch)
    for path in base.iterdir():
        os.utime(path, (1, 1))
    kept = folder / "checkpoints"
    if where == "another folder":
        line, folder = [*line, f"trainer.resume_from_checkpoint={kept}/checkpoint-4"], tmp_path / "other"
    with torch.no_grad():
        model.get_submodule("model.layers.1.mlp.up_proj").weight.mul_(1.01)
    model.save_pretrained(tmp_path / "merged")
    whole = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes((tmp_path / "merged" / "model.safetensors").read_bytes())
    with pytest.raises(ConfigError, match=r"model=\w{12}: had other weights \(\w{12}\) when the run in"):
        typed(line, folder)
    assert [path.name for path in checkpoints(kept)] == ["checkpoint-2", "checkpoint-4"]
    (base / "model.safetensors").write_bytes(whole)
    typed(line, folder)
    assert read_result(folder)["status"] == "FINISHED"


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("trainer.per_device_train_batch_size=4", "trainer.per_device_train_batch_size"),
        ("trainer.gradient_accumulation_steps=3", "trainer.gradient_accumulation_steps"),
        ("trainer.learning_rate=3e-5", "trainer.learning_rate"),
        ("model.hidden_size=32", "model.hidden_size"),
        ("data.max_length=64", "data.max_length"),
        ("trainer.optim=sgd", "trainer.optim"),
    ],
)
def test_each_thing_that_matters_is_compared(line: list[str], tmp_path: Path, change: str, key: str) -> None:
    """Batch, rate, base, data: refused with both values."""
    write_whole(tmp_path / "config.yaml", resolved_yaml(load_run_conf(line)))
    with pytest.raises(ConfigError) as refused:
        refuse_other_run(load_run_conf([*line, change]), tmp_path)
    assert [fault.key for fault in refused.value.faults] == [key]
    assert "was " in refused.value.faults[0].problem


def test_another_commit_of_a_base_on_the_hub_does_not_go_on(line: list[str], tmp_path: Path) -> None:
    """Nor another name."""
    hub = [
        *(o for o in line if not o.startswith(("model", "quantization"))),
        "model=llama3_8b_instruct",
        "quantization=none",
    ]
    write_whole(tmp_path / "config.yaml", resolved_yaml(load_run_conf(hub)))
    for other in ("model.revision=abc", "model.pretrained_model_name_or_path=a/b"):
        with pytest.raises(ConfigError, match=other.partition("=")[0]):
            refuse_other_run(load_run_conf([*hub, other]), tmp_path)
