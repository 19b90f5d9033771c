"""Two processes train as one does: the same losses, gradients and weights, each conversation once, one record, one end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM

from medllm import ranks
from medllm.artifact import load_artifact
from medllm.data.shares import Share
from medllm.errors import ConfigError
from medllm.training.checkpoint import fault
from tests.training.cases_of_ranks import trained

ROOT = Path(__file__).parents[2]
# 22 conversations in optimizer batches of 8: the last step of an epoch has 6, which two ranks cannot share evenly.
COMMON = (
    "data.eval_fraction=0.1",
    "trainer.max_steps=5",
    "trainer.eval_steps=2",
    "trainer.max_grad_norm=0.5",
    "trainer.optim=sgd",  # an adaptive one blows rounding up where gradients are small
    "trainer.learning_rate=0.5",
    "trainer.per_device_train_batch_size=2",
    "trainer.per_device_eval_batch_size=1",
)
CASES = {
    f"{engine}-{batching}": (*COMMON, f"trainer.engine={engine}", f"data.batching={batching}", "data.max_length=128")
    for engine, batching in (("plain", "packed"), ("plain", "length_grouped"), ("fused", "packed"), ("fused", "padded"))
}
SAVED = ("trainer.save_strategy=steps", "trainer.save_steps=2", "trainer.save_total_limit=null")
SHARDED = (*COMMON, *SAVED, "lora=none", "trainer.gradient_checkpointing=true")
DROPPING = (
    *COMMON,
    *SAVED,
    "lora.lora_dropout=0.2",
    "trainer.optim=adamw_torch",
    "trainer.gradient_accumulation_steps=1",
)


def torchrun(*arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Two processes on this machine, a thread each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=ROOT, env=environment)


@pytest.fixture(scope="module")
def found(dialogues: Path, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> dict[str, Any]:
    """By case, what each of two ranks came to; and the folder of it all. Made once, by whichever of pytest's workers is first."""
    if worker_id == "master":
        return made(dialogues, tmp_path_factory.mktemp("ranks"))
    folder = tmp_path_factory.getbasetemp().parent / "ranks"
    with FileLock(f"{folder}.lock"):
        folder.mkdir(exist_ok=True)
        return made(dialogues, folder)


def made(dialogues: Path, folder: Path) -> dict[str, Any]:
    """All cases, trained by two ranks if they have not been yet."""
    (folder / "dialogues.csv").write_bytes(dialogues.read_bytes())
    cases = {name: [*overrides, "trainer.gradient_accumulation_steps=2"] for name, overrides in CASES.items()}
    for engine in ("plain", "fused"):
        whole = [*DROPPING, f"trainer.engine={engine}"]
        cases[f"{engine}-whole"] = whole
        checkpoint = folder / f"{engine}-whole" / "checkpoint-2"
        cases[f"{engine}-resumed"] = [*whole, f"trainer.resume_from_checkpoint={checkpoint}"]
    cases["sharded"] = [*SHARDED, "trainer.fsdp=true", "trainer.gradient_accumulation_steps=2"]
    checkpoint = folder / "sharded" / "checkpoint-2"
    cases["sharded-resumed"] = [*cases["sharded"], f"trainer.resume_from_checkpoint={checkpoint}"]
    for engine in ("plain", "fused"):
        cases[f"poisoned-{engine}"] = [*COMMON, f"trainer.engine={engine}"]
    if not all((folder / f"{name}.pt").is_file() for name in cases):
        done = torchrun("-m", "tests.training.cases_of_ranks", json.dumps(cases), str(folder))
        assert done.returncode == 0, done.stderr[-3000:]
    return {"folder": folder, **{name: torch.load(folder / f"{name}.pt") for name in cases}}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_take_the_steps_of_one(found: Any, dialogues: Path, tmp_path: Path, case: str) -> None:
    """With the same global batch, whatever computes the step and however the data lies: losses, norms, weights, counts."""
    first, second = found[case]
    alone = trained(dialogues, [*CASES[case], "trainer.gradient_accumulation_steps=4"], tmp_path)
    for name in ("loss", "grad_norm", "eval_loss", "losses"):
        assert first[name] == pytest.approx(alone[name], rel=2e-5), name
    assert first["eval_num_tokens"] == alone["eval_num_tokens"]
    assert first["eval_token_accuracy"] == pytest.approx(alone["eval_token_accuracy"])
    for mine, other, wanted in zip(first["weights"], second["weights"], alone["weights"], strict=True):
        assert torch.equal(mine, other)
        assert torch.allclose(mine, wanted, atol=1e-6)
    assert first["supervised"] == alone["supervised"]
    assert 0 <= first["tokens"] - alone["tokens"] <= 2 * 8  # a blank row is one token
    assert first["loss"] == second["loss"] and first["losses"] == second["losses"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["plain", "fused"])
def test_a_resumed_run_is_an_uninterrupted_one(found: Any, engine: str) -> None:
    """Bit for bit, each rank with its own dropout."""
    for whole, resumed in zip(found[f"{engine}-whole"], found[f"{engine}-resumed"], strict=True):
        assert resumed["loss"] == whole["loss"]
        assert resumed["losses"] == whole["losses"]
        assert all(torch.equal(a, b) for a, b in zip(resumed["weights"], whole["weights"], strict=True))
        assert (resumed["tokens"], resumed["supervised"]) == (whole["tokens"], whole["supervised"])


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["plain", "fused"])
def test_one_rank_that_diverges_stops_all_before_the_step(found: Any, engine: str) -> None:
    """They name the same step, and hold the same finite weights."""
    first, second = found[f"poisoned-{engine}"]
    assert first["error"] == second["error"]
    assert "step 3: the loss is nan" in first["error"]
    assert first["step"] == second["step"] == 2
    assert all(
        torch.equal(a, b) and a.isfinite().all() for a, b in zip(first["weights"], second["weights"], strict=True)
    )


@pytest.mark.slow
def test_sharded_weights_take_the_steps_of_whole_ones(found: Any, dialogues: Path, tmp_path: Path) -> None:
    """Full fine-tuning whose weights no rank holds alone: as one process, resumable, and saved whole by rank 0."""
    first, second = found["sharded"]
    alone = trained(dialogues, [*SHARDED, "trainer.gradient_accumulation_steps=4"], tmp_path)
    for name in ("loss", "grad_norm", "eval_loss", "losses"):
        assert first[name] == pytest.approx(alone[name], rel=2e-5), name
    assert (first["loss"], first["losses"]) == (second["loss"], second["losses"])
    assert found["sharded-resumed"][0]["loss"] == first["loss"]
    assert found["sharded-resumed"][0]["losses"] == first["losses"]
    model = AutoModelForCausalLM.from_pretrained(found["folder"] / "sharded" / "artifact")
    assert type(model).__name__ == "LlamaForCausalLM"
    for got, wanted in zip(model.parameters(), alone["weights"], strict=True):
        assert torch.allclose(got, wanted, atol=1e-6)
    assert not second["whole"]


def only_run(folder: Path) -> Any:
    """The one run in the record of a tiny run."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("medllm").experiment_id])
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        ([], "adapter"),
        (["lora=none", "trainer.fsdp=true", "trainer.bf16=true"], "full"),
    ],
    ids=["adapter", "sharded"],
)
def test_rank_0_alone_leaves_traces(tiny_overrides: list[str], tmp_path: Path, overrides: list[str], kind: str) -> None:
    """One record, one folder, one whole artifact, each line once; they say how many processes there were."""
    done = torchrun("train.py", *tiny_overrides, "trainer.max_steps=2", *overrides)
    assert done.returncode == 0, done.stderr[-3000:]
    for line in ("ranks     2 processes", "labels    proven", "engine    ", "throughput", "artifact  "):
        assert done.stderr.count(line) == 1, line
    run = only_run(tmp_path)
    assert (run.info.status, run.data.tags["world_size"]) == ("FINISHED", "2")
    manifest = load_artifact(tmp_path / "run").manifest
    assert (manifest["kind"], manifest["world_size"], manifest["run_id"]) == (kind, 2, run.info.run_id)
    assert {path.name for path in tmp_path.iterdir()} <= {"run", "mlruns", "mlflow.db", "mlflow.db.lock"}


@pytest.mark.slow
def test_one_rank_that_fails_ends_all(tiny_overrides: list[str], tmp_path: Path) -> None:
    """Its reason is what people read, what the folder says and what the record says."""
    done = torchrun("-m", "tests.training.failing_train", *tiny_overrides, "trainer.max_steps=100")
    assert done.returncode != 0
    source = Path(__file__).with_name("failing_train.py").read_text().splitlines()
    line = next(number for number, text in enumerate(source, 1) if "the second card fell off" in text)
    reason = f"rank 1: RuntimeError in failing_train.py, line {line}"
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["status"], result["reason"]) == ("FAILED", reason)
    assert f"medllm: {reason}" in done.stderr
    run = only_run(tmp_path)
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", f"RankError: {reason}")


@pytest.mark.slow
def test_a_stopped_run_is_saved_by_all_ranks_at_one_step(tiny_overrides: list[str], tmp_path: Path) -> None:
    """Torchrun hands its signal on; the record says KILLED, and the checkpoint resumes."""
    more = ["trainer.max_steps=100000", "trainer.eval_strategy=no"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "train.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, *tiny_overrides, *more], stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step"):
            break
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert "stopping after this step" in said
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert fault(checkpoint) == ""
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {path.name for path in checkpoint.iterdir()}
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "KILLED"
    assert only_run(tmp_path).info.status == "KILLED"
    step = int(checkpoint.name.partition("-")[2])
    resume = [f"trainer.resume_from_checkpoint={checkpoint}", f"hydra.run.dir={tmp_path}/resumed"]
    done = torchrun("train.py", *tiny_overrides, *more, *resume, f"trainer.max_steps={step + 1}")
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_another_number_of_ranks_does_not_resume(found: Any, dialogues: Path, tmp_path: Path) -> None:
    """Both numbers are named, and the way out."""
    checkpoint = found["folder"] / "fused-whole" / "checkpoint-2"
    wanted = rf"{checkpoint}: was written by 2 processes, this run has 1\n.*fix: torchrun --nproc_per_node=2"
    with pytest.raises(ConfigError, match=wanted):
        trained(dialogues, [*DROPPING, f"trainer.resume_from_checkpoint={checkpoint}"], tmp_path)


def test_a_sweep_in_several_processes_is_refused(train: Callable[..., Any]) -> None:
    """At once, with what to do instead."""
    done = train("lora.r=8,16", "-m", WORLD_SIZE="2")
    assert done.returncode == 2
    assert "-m: a sweep in 2 processes that train together" in done.stderr
    assert "hydra/launcher=joblib" in done.stderr


def test_shares_hold_each_batch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the data, also where they do not come out even or there are fewer batches than ranks."""
    for num_rows, size, world in ((7, 2, 2), (8, 2, 2), (2, 2, 3), (5, 1, 4)):
        monkeypatch.setenv("WORLD_SIZE", str(world))
        shares = []
        for rank in range(world):
            monkeypatch.setenv("RANK", str(rank))
            shares.append(list(Share(num_rows, size)))
        assert len({len(share) for share in shares}) == 1
        monkeypatch.setattr(ranks, "gather", lambda own, shares=shares: shares)
        whole = Share(num_rows, size).gather(shares[0])
        assert [row for batch in whole for row in batch] == list(range(num_rows))
