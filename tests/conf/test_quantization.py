"""The `quantization` group."""

import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from medllm.config.compose import load_run_conf
from medllm.config.plan import Point
from medllm.errors import ConfigError
from medllm.experiment import check
from medllm.models import preflight
from medllm.models.quantization import backend_fault, build_quantization_config
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


def test_what_this_machine_cannot_do_is_told_before_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """No bitsandbytes, or fp16 without a GPU: one fault with its way out in less than 2 s, nothing looked up; that way passes."""

    def download(*arguments: Any, **more: Any) -> None:
        raise AssertionError("the base model was looked at")

    hub_model = ["model=llama3_8b_instruct", "trainer=gpu_80gb", "trainer.engine=plain"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    refused = {
        "quantization: bitsandbytes does not work on cpu": ["quantization=nf4_double"],
        "trainer.fp16=true: needs a GPU": ["quantization=none", "trainer.bf16=false", "trainer.fp16=true"],
    }
    for said, overrides in refused.items():
        point = Point((), load_run_conf([*hub_model, *overrides]))
        with monkeypatch.context() as patched, pytest.raises(ConfigError) as raised:
            patched.setattr(preflight, "skeleton", download)
            began = time.perf_counter()
            check([point])
        assert time.perf_counter() - began < 2
        (fault,) = raised.value.faults
        assert str(fault).startswith(said)
        assert fault.fix
    check([Point((), load_run_conf(["model=tiny_random", "trainer=gpu_80gb", "quantization=none"]))])


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
