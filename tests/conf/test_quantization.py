"""The `quantization` group."""

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from medllm.artifact import load_artifact
from medllm.config.compose import load_run_conf
from medllm.config.plan import Point
from medllm.config.quantization import NoQuantizationConf
from medllm.config.trainer import Optimizer
from medllm.errors import ConfigError
from medllm.experiment import check
from medllm.models import preflight
from medllm.models.quantization import backend_fault, build_quantization_config
from medllm.run_folder import write_result
from tests.conf.groups import assert_round_trips, load, options, refusal


@pytest.mark.parametrize("option", options("quantization"))
def test_composes_and_round_trips(option: str, tmp_path: Path) -> None:
    """Each option composes, validates and survives YAML."""
    assert_round_trips(load("quantization", option), tmp_path)


@pytest.mark.parametrize("option", options("quantization"))
def test_builds_the_upstream_object(option: str) -> None:
    """Each option becomes the BitsAndBytesConfig that its name says, or None."""
    run = load("quantization", option)
    config = build_quantization_config(run.quantization)
    if option == "none":
        assert config is None
        return
    assert config.load_in_8bit == (option == "int8")
    assert config.load_in_4bit == (option != "int8")
    assert config.bnb_4bit_use_double_quant == (option == "nf4_double")
    if config.load_in_4bit:
        assert (config.bnb_4bit_quant_type, config.bnb_4bit_compute_dtype) == (
            "nf4",
            getattr(torch, run.model.dtype.value),
        )


@pytest.mark.parametrize("option", options("quantization"))
def test_backend_works_here(option: str) -> None:
    """A product runs forward and backward on the CPU for every option."""
    assert backend_fault(load("quantization", option).quantization, "cpu") == ""


def test_what_this_machine_cannot_do_is_told_before_a_download(
    monkeypatch: pytest.MonkeyPatch, lose_bitsandbytes: Callable[[], None]
) -> None:
    """No bitsandbytes, or fp16 without a GPU: one fault with its way out, nothing looked up; that way passes."""

    def download(*arguments: Any, **more: Any) -> None:
        raise AssertionError("the base model was looked at")

    hub_model = ["model=llama3_8b_instruct", "trainer=gpu_80gb", "trainer.engine=plain"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    lose_bitsandbytes()
    refused = {
        "quantization: bitsandbytes does not work on cpu": ["quantization=nf4_double"],
        "trainer.fp16=true: needs a GPU": ["quantization=none", "trainer.bf16=false", "trainer.fp16=true"],
    }
    for said, overrides in refused.items():
        point = Point((), load_run_conf([*hub_model, *overrides]))
        with monkeypatch.context() as patched, pytest.raises(ConfigError) as raised:
            patched.setattr(preflight, "skeleton", download)
            check([point])
        (fault,) = raised.value.faults
        assert str(fault).startswith(said)
        assert fault.fix
    check([Point((), load_run_conf(["model=tiny_random", "trainer=gpu_80gb", "quantization=none"]))])


OPTIMIZER = "trainer.optim=paged_adamw_8bit"
# bitsandbytes is installed, and fails when it is imported.
BROKEN = """
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec

class Broken(MetaPathFinder, Loader):
    def find_spec(self, name, path, target=None):
        return ModuleSpec(name, self) if name == "bitsandbytes" else None

    def exec_module(self, module):
        raise ImportError("not built for this machine")

sys.meta_path.insert(0, Broken())
"""


def test_degrades_where_that_is_allowed(monkeypatch: pytest.MonkeyPatch, lose_bitsandbytes: Callable[[], None]) -> None:
    """`on_missing=degrade`: no quantization and torch's AdamW without bitsandbytes, the run as it was with it, and never else."""
    asked = load_run_conf(
        ["model=tiny_random", "quantization=nf4_double", "quantization.on_missing=degrade", OPTIMIZER]
    )
    refused = load_run_conf(["model=tiny_random", "quantization=nf4_double", OPTIMIZER])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert preflight.degraded(asked) == (asked, "")
    lose_bitsandbytes()
    found, reason = preflight.degraded(asked)
    assert found == replace(
        asked, quantization=NoQuantizationConf(), trainer=replace(asked.trainer, optim=Optimizer.adamw_torch)
    )
    assert "bitsandbytes does not work on cpu" in reason
    check([Point((), found)])
    assert preflight.degraded(refused) == (refused, "")
    with pytest.raises(ConfigError) as raised:
        check([Point((), refused)])
    told = [str(fault).split(":")[0] for fault in raised.value.faults]
    assert told == ["quantization", OPTIMIZER]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("state", ["sys.modules['bitsandbytes'] = None", BROKEN], ids=["missing", "broken"])
def test_what_was_degraded_says_so(
    state: str, train: Callable[..., subprocess.CompletedProcess[str]], tiny_overrides: list[str], tmp_path: Path
) -> None:
    """Without bitsandbytes the line is refused; allowed to degrade it trains unquantized, tagged `quant=none`, and goes on so."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(f"import sys\n{state}\n")
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    folder, asked = (
        tmp_path / "run",
        [*tiny_overrides, "quantization=nf4", "trainer.save_strategy=steps", "trainer.save_steps=2"],
    )

    done = train(*asked, PYTHONPATH=path)
    assert done.returncode == 2, done.stderr
    assert "quantization: bitsandbytes does not work on cpu" in done.stderr
    assert not folder.exists()
    asked.append("quantization.on_missing=degrade")
    for how, left in (
        ("trains", "degraded  quantization=none, as quantization.on_missing allows"),
        ("goes on", "checkpoint-4"),
    ):
        done = train(*asked, PYTHONPATH=path)
        assert (done.returncode, left in done.stderr) == (0, True), f"{how}: {done.stderr}"
        assert load_artifact(folder / "artifact").conf.quantization == NoQuantizationConf()
        write_result(folder, "KILLED")
    store = next(override for override in tiny_overrides if "tracking_uri" in override).partition("=")[2]
    run = MlflowClient(store).get_run((folder / "record_id").read_text())
    assert run.data.tags["quant"] == run.data.params["quantization"] == "none"


def test_refusals() -> None:
    """Unknown key, wrong value, out of range."""
    assert "quantization.bnb_4bit_quant_typ=nf4: no such key" in refusal("quantization.bnb_4bit_quant_typ=nf4")
    assert refusal("quantization.bnb_4bit_quant_type=nf5") == (
        "1 fault in the configuration:\n"
        "  quantization.bnb_4bit_quant_type=nf5: no such value\n"
        "      allowed: nf4, fp4\n"
        "      fix: did you mean nf4?"
    )
    assert refusal("quantization=int8", "quantization.llm_int8_threshold=-1") == (
        "1 fault in the configuration:\n  quantization.llm_int8_threshold=-1.0: is out of range\n      allowed: >= 0"
    )
