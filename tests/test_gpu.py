"""What only a CUDA device can show; run with `python -m pytest -m gpu`."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from medllm.config.compose import load_run_conf
from medllm.config.plan import Point
from medllm.config.run import RunConf
from medllm.experiment import check, run_training
from medllm.run_folder import read_result
from medllm.tracking.memory import device_memory_gib
from medllm.training.checkpoint import checkpoints, fault
from medllm.training.trainer import MedTrainer

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.gpu

SHAPE = [
    "model=tiny_random",
    "model.dtype=bfloat16",
    "model.hidden_size=512",
    "model.intermediate_size=1536",
    "model.num_hidden_layers=8",
    "model.num_attention_heads=8",
]

# Every adapter on every base, but for the pair that the configuration refuses.
ALLOWED = [
    (lora, quantization)
    for lora in ("default", "dora", "rslora", "ia3", "prefix", "adapter_layers")
    for quantization in ("none", "int8", "nf4", "nf4_double")
    if (lora, quantization) != ("dora", "int8")
]


def conf(*overrides: str) -> RunConf:
    """A run of a small Llama on the bundled dialogues."""
    run = load_run_conf(
        [
            *SHAPE,
            "data=dialogues_bundled",
            "trainer=gpu_80gb",
            "trainer.max_steps=6",
            "trainer.per_device_train_batch_size=2",
            "trainer.per_device_eval_batch_size=2",
            "trainer.save_strategy=no",
            "generation.max_new_tokens=8",
            "tracking=none",
            *overrides,
        ]
    )
    check([Point((), run)])
    return run


@pytest.mark.parametrize(("lora", "quantization"), ALLOWED)
def test_every_method_trains_on_every_base(lora: str, quantization: str, tmp_path: Path) -> None:
    """Labels proven, packed, in bfloat16: held-out loss falls."""
    result = run_training(conf(f"lora={lora}", f"quantization={quantization}", "trainer.learning_rate=5e-3"), tmp_path)
    assert result.before is not None
    assert result.after is not None
    assert result.after.loss < result.before.loss
    assert result.peak_memory_gib > 0


def test_recomputing_layers_saves_memory_and_changes_nothing(tmp_path: Path) -> None:
    """gradient_checkpointing: the same loss within rounding, less memory."""
    plain = run_training(conf("lora.lora_dropout=0"), tmp_path / "a")
    saved = run_training(conf("lora.lora_dropout=0", "trainer.gradient_checkpointing=true"), tmp_path / "b")
    assert saved.peak_memory_gib < plain.peak_memory_gib
    assert saved.objective == pytest.approx(plain.objective, rel=1e-3)


@pytest.mark.parametrize("optim", ["paged_adamw_32bit", "paged_adamw_8bit", "adamw_torch_fused"])
def test_optimizers_of_the_presets(optim: str, tmp_path: Path) -> None:
    """Each preset's optimizer takes steps."""
    assert run_training(conf(f"trainer.optim={optim}"), tmp_path).steps == 6


def test_the_notebooks_precision(tmp_path: Path) -> None:
    """float16 weights, eager attention, ChatML, padded to a fixed length: trains and stays finite."""
    overrides = [
        "model.dtype=float16",
        "model.attn_implementation=eager",
        "trainer.bf16=false",
        "data.batching=max_length",
    ]
    result = run_training(
        conf(*overrides, "quantization.bnb_4bit_compute_dtype=float16", "model.chat_format=chatml"), tmp_path
    )
    assert result.after is not None
    assert result.before is not None
    assert result.after.loss < result.before.loss


def test_full_fine_tuning(tmp_path: Path) -> None:
    """Every weight trained, in bfloat16."""
    overrides = ["lora=none", "quantization=none", "trainer.learning_rate=1e-3"]
    result = run_training(conf(*overrides), tmp_path)
    assert result.trainable == result.total
    assert result.after is not None
    assert result.before is not None
    assert result.after.loss < result.before.loss


def test_fp16_autocast_survives_the_scalers_first_overflow(tmp_path: Path) -> None:
    """trainer.fp16: the loss scaler may skip steps; the guard leaves that to it."""
    overrides = ["model.dtype=float32", "quantization=none", "trainer.bf16=false", "trainer.fp16=true"]
    assert run_training(conf(*overrides), tmp_path).steps == 6


@pytest.mark.parametrize("quantization", ["none", "nf4_double"])
def test_the_fused_engine_takes_the_plain_paths_curve(quantization: str, tmp_path: Path) -> None:
    """Sixty steps by either engine, with graphs: losses within the noise of bfloat16."""
    curves = []
    for engine in ("plain", "fused"):
        settings = (
            "trainer.max_steps=60",
            "trainer.learning_rate=1e-3",
            "lora.lora_dropout=0",
            "trainer.logging_steps=1",
        )
        run = conf(f"quantization={quantization}", f"trainer.engine={engine}", *settings)
        run_training(run, tmp_path / engine)
        history = json.loads((tmp_path / engine / "history.json").read_text())
        curves.append([loss for _, loss in history["train"]])
    assert curves[0][-1] < curves[0][0]
    assert curves[1] == pytest.approx(curves[0], abs=0.05)


@pytest.mark.parametrize("engine", ["plain", "fused"])
def test_a_step_that_does_not_fit_begins_again(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With memory capped between the peaks of few and of many rows at once: the curve of the run that had few from the start.

    The fused engine plans within what is free, so its memory is capped only once it has planned.
    """
    shape = ("model.num_hidden_layers=12", "data.max_length=2048", "trainer.max_steps=4", "trainer.logging_steps=1")
    own = (*shape, "lora.lora_dropout=0", "quantization=none", f"trainer.engine={engine}", "trainer.eval_strategy=no")

    def curve(rows: int, folder: str) -> tuple[list[float], float]:
        size = (f"trainer.per_device_train_batch_size={rows}", f"trainer.gradient_accumulation_steps={8 // rows}")
        result = run_training(conf(*own, *size), tmp_path / folder)
        torch.cuda.empty_cache()
        history = json.loads((tmp_path / folder / "history.json").read_text())
        return [loss for _, loss in history["train"]], result.peak_memory_gib

    def cap(gib: float) -> None:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(min(gib / device_memory_gib("cuda"), 1.0))

    few, least = curve(1, "few")
    many, most = curve(8, "many")
    assert many == pytest.approx(few, abs=0.05)
    step = MedTrainer.training_step

    def capped(self: MedTrainer, *arguments: Any, **more: Any) -> Any:
        if self.state.global_step != 2 or self.size is None or self.size["below"] is not None:
            return step(self, *arguments, **more)
        used = torch.cuda.memory_allocated() / 2**30
        cap(used + 0.02 if engine == "fused" else (least + most) / 2)
        try:
            return step(self, *arguments, **more)
        finally:
            if engine == "fused":
                cap(math.inf)

    monkeypatch.setattr(MedTrainer, "training_step", capped)
    capsys.readouterr()
    try:
        found, _ = curve(8, "capped")
    finally:
        cap(math.inf)
    assert "memory    step 3: CUDA out of memory" in capsys.readouterr().err
    assert found == pytest.approx(few, abs=0.05)
    assert found[:2] == pytest.approx(many[:2], abs=1e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("engine", ["plain", "fused"])
def test_a_rank_without_memory_ends_all(engine: str, tmp_path: Path) -> None:
    """In seconds, though the others wait for it, and with its reason; the same line then goes on from the checkpoint before."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    line = [*SHAPE, "quantization=none", "data=dialogues_bundled", "trainer=gpu_80gb", f"trainer.engine={engine}"]
    line += ["trainer.max_steps=4", "trainer.save_strategy=steps", "trainer.save_steps=1", "trainer.eval_strategy=no"]
    line += ["tracking=none", "generation.sample_prompts=[]", f"hydra.run.dir={tmp_path}"]

    def typed(*program: str) -> "subprocess.CompletedProcess[str]":
        own = {**os.environ, "MEDLLM_FAILURE": "memory", "COLUMNS": "160"}
        return subprocess.run(
            [*torchrun, *program, *line], capture_output=True, text=True, timeout=150, cwd=ROOT, env=own
        )

    failed = typed("-m", "tests.training.failing_train")
    assert failed.returncode != 0
    result = read_result(tmp_path)
    assert result["status"] == "FAILED"
    assert result["reason"].startswith("rank 1: ") and "out of memory" in result["reason"], result
    assert "on rank 1 of 2" in failed.stderr and "    fix: " in failed.stderr
    assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == ["checkpoint-1", "checkpoint-2"]
    assert not any(fault(path) for path in checkpoints(tmp_path / "checkpoints"))
    again = typed("train.py")
    assert again.returncode == 0, again.stderr[-3000:]
    assert f"resume    {tmp_path}/checkpoints/checkpoint-2" in again.stderr
    assert read_result(tmp_path)["status"] == "FINISHED"
