"""The `lora` group."""

from dataclasses import fields
from pathlib import Path

import peft
import pytest

from medllm.config.lora import AdapterLayersConf, Ia3Conf, LoraConf, PrefixTuningConf
from medllm.models.adapter import attach_adapter, build_peft_config, count_parameters
from medllm.models.preflight import meta_model
from tests.conf.groups import assert_round_trips, load, options, refusal

UPSTREAM = {
    LoraConf: peft.LoraConfig,
    Ia3Conf: peft.IA3Config,
    PrefixTuningConf: peft.PrefixTuningConfig,
    AdapterLayersConf: peft.AdaptionPromptConfig,
}


@pytest.mark.parametrize("option", options("lora"))
def test_composes_and_round_trips(option: str, tmp_path: Path) -> None:
    """Each option composes, validates and survives YAML."""
    assert_round_trips(load("lora", option), tmp_path)


@pytest.mark.parametrize("option", options("lora"))
def test_builds_the_upstream_object(option: str) -> None:
    """Each option becomes the peft config of its method, and attaches on the meta device."""
    run = load("lora", option, "model=tiny_random")
    config = build_peft_config(run.lora, num_hidden_layers=2)
    if option == "none":
        assert config is None
    else:
        assert type(config) is UPSTREAM[type(run.lora)]
    if option != "pissa":  # its initialisation decomposes weights, which the meta device does not have
        trainable, total = count_parameters(attach_adapter(meta_model(run.model), run.lora))
        assert (trainable == total) if option == "none" else (0 < trainable < total)


@pytest.mark.parametrize("schema", list(UPSTREAM))
def test_field_names_are_upstream_names(schema: type) -> None:
    """Our keys are peft's keys, so that peft's documentation is ours."""
    assert {f.name for f in fields(schema)} <= {f.name for f in fields(UPSTREAM[schema])}


def test_default_is_the_guide() -> None:
    """R 16, alpha 32, dropout 0.05, all seven projections."""
    conf = load("lora", "default").lora
    assert isinstance(conf, LoraConf)
    assert (conf.r, conf.lora_alpha, conf.lora_dropout, len(conf.target_modules)) == (16, 32, 0.05, 7)


def test_alpha_follows_the_rank() -> None:
    """By an option and by the documented interpolation; the default does not follow."""
    assert load("lora", "tied_alpha", "lora.r=8").lora.lora_alpha == 16  # type: ignore[attr-defined]
    tied = load("lora", "default", "lora.r=8", 'lora.lora_alpha="${mul:2,${lora.r}}"').lora
    assert tied.lora_alpha == 16  # type: ignore[attr-defined]
    assert load("lora", "default", "lora.r=8").lora.lora_alpha == 32  # type: ignore[attr-defined]


def test_refusals() -> None:
    """Unknown key, wrong type, out of range, and a key of another method."""
    assert refusal("lora.rank=8") == (
        "1 fault in the configuration:\n"
        "  lora.rank=8: no such key\n"
        "      allowed: target_modules, r, lora_alpha, lora_dropout, bias, use_dora, use_rslora, init_lora_weights\n"
        "      fix: did you mean lora.r?"
    )
    assert refusal("lora.r=many") == (
        "1 fault in the configuration:\n  lora.r=many: has the wrong type\n      allowed: a whole number"
    )
    assert refusal("lora.r=0") == (
        "1 fault in the configuration:\n  lora.r=0: is out of range\n      allowed: >= 1 and <= 4096"
    )
    assert "not in the chosen option of lora" in refusal("lora=ia3", "lora.r=8")
    assert "lora.target_modules=[]: is empty" in refusal("lora.target_modules=[]")
    assert "feedforward_modules" in refusal("lora=ia3", "lora.feedforward_modules=[up_proj]")
