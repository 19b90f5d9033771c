"""Points in several processes of a machine with several GPUs each have their own."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from medllm import gpus
from medllm.config.plan import make_plan
from medllm.errors import ConfigError, PointFailedError
from medllm.gpus import claim_gpu, refuse_sharing, visible_gpus

CLAIM = """
import os, sys, torch
torch.cuda.device_count = lambda: 2
from medllm.gpus import claim_gpu
claim_gpu(lambda: False)
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
input()
"""


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache without locks, no GPU hidden, nothing claimed, and no claim left behind."""
    monkeypatch.setenv("MEDLLM_CACHE", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # put back afterwards, whatever a claim made of it
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(gpus, "_held", [])


def start() -> Any:
    """A process that claims one of two GPUs, prints which, and keeps it until its input ends."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", CLAIM], text=True, **pipes)


@pytest.mark.slow
@pytest.mark.usefixtures("places")
def test_processes_take_different_gpus_and_a_third_waits() -> None:
    """It gets the one of a process that was killed."""
    holders = [start(), start()]
    taken = [holder.stdout.readline().strip() for holder in holders]
    assert sorted(taken) == ["0", "1"]
    third = start()
    assert "waiting for one of 2 GPUs" in third.stderr.readline()
    holders[1].kill()
    assert third.stdout.readline().strip() == taken[1]
    for process in (*holders, third):
        process.communicate("\n")


@pytest.mark.usefixtures("places")
def test_names_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own choice of GPUs stays; those that are not there do not count."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-b, GPU-a,GPU-c")
    assert visible_gpus() == ["GPU-b", "GPU-a"]
    claim_gpu(lambda: False)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-b"


@pytest.mark.usefixtures("places")
@pytest.mark.parametrize("count", [0, 1])
def test_nothing_is_claimed_without_a_choice(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither without a GPU nor with one, which points may share."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    claim_gpu(lambda: False)
    refuse_sharing(8)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert not (tmp_path / "gpus").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("places")
def test_who_waits_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep that is stopped does not wait for a GPU first."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    holders = [start(), start()]
    for holder in holders:
        holder.stdout.readline()
    until = time.monotonic() + 0.5
    claim_gpu(lambda: time.monotonic() > until)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    for holder in holders:
        holder.communicate("\n")


@pytest.mark.slow
@pytest.mark.usefixtures("places")
def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Said while planning, with the number that fits; never more processes than points count."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    joblib = ["lora.r=2,4,8", "hydra/launcher=joblib"]
    counts = {n: make_plan([*joblib, f"hydra.launcher.n_jobs={n}"], multirun=True).processes for n in (2, 8, -1, -15)}
    assert counts == {2: 2, 8: 3, -1: 3, -15: 2}
    assert make_plan(["lora.r=2,4,8"], multirun=True).processes == 1
    refuse_sharing(2)
    with pytest.raises(ConfigError, match=r"(?s)n_jobs: is 3 processes for 2 GPUs.*fix: hydra\.launcher\.n_jobs=2"):
        refuse_sharing(3)


def test_a_point_claims_before_it_trains(
    tiny_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process that a sweep started, and only on GPUs."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    from medllm import point
    from medllm.config.compose import compose_config
    from medllm.run_folder import STOP
    from medllm.stopping import OWNER, stop

    claims: list[str] = []
    monkeypatch.setattr(point, "claim_gpu", lambda stopped: claims.append(os.environ[OWNER]))
    monkeypatch.setattr(stop, "file", None)
    (tmp_path / STOP).touch()
    own = [override for override in tiny_overrides if not override.startswith("hydra.")]
    config = compose_config([*own, "trainer.use_cpu=false"], multirun=True)
    with open_dict(config):
        config.hydra.runtime.output_dir = str(tmp_path / "point")
    HydraConfig.instance().set_config(config)
    for owner, use_cpu in ((os.getpid(), False), (1, True), (1, False)):
        monkeypatch.setenv(OWNER, str(owner))
        config.trainer.use_cpu = use_cpu
        with pytest.raises(PointFailedError, match="stopped before this point"):
            point.run_point(config)
    assert claims == ["1"]
