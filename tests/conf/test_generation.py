"""The `generation` group."""

from dataclasses import fields
from pathlib import Path

import pytest
from transformers import GenerationConfig

from medllm.config.generation import GenerationConf
from medllm.conversation import Renderer
from medllm.inference.generate import build_generation_config
from medllm.models.tiny import build_tiny_tokenizer
from tests.conf.groups import assert_round_trips, load, options, refusal

OURS = {"system_prompt", "sample_prompts", "sample_at_evaluation"}


@pytest.mark.parametrize("option", options("generation"))
def test_composes_and_round_trips(option: str, tmp_path: Path) -> None:
    """Each option composes, validates and survives YAML."""
    assert_round_trips(load("generation", option), tmp_path)


@pytest.mark.parametrize("option", options("generation"))
def test_builds_the_upstream_object(option: str) -> None:
    """Each option becomes a GenerationConfig that stops at the end of a turn."""
    renderer = Renderer(build_tiny_tokenizer())
    config = build_generation_config(load("generation", option).generation, renderer)
    assert isinstance(config, GenerationConfig)
    assert renderer.end_of_turn_id in config.eos_token_id


def test_field_names_are_upstream_names() -> None:
    """Sampling keys are transformers' keys."""
    known = set(GenerationConfig().to_dict())
    assert {f.name for f in fields(GenerationConf)} - OURS <= known


def test_system_prompt_of_inference_follows_training_unless_set() -> None:
    """One key for training, another for inference; the second repeats the first by default."""
    assert load("generation", "default", "data.system_prompt=Be kind").generation.system_prompt == "Be kind"
    other = load("generation", "default", "data.system_prompt=Be kind", "generation.system_prompt=Be brief")
    assert (other.data.system_prompt, other.generation.system_prompt) == ("Be kind", "Be brief")


def test_refusals() -> None:
    """Unknown key, wrong type, out of range."""
    assert "did you mean generation.max_new_tokens?" in refusal("generation.max_tokens=5")
    assert "generation.max_new_tokens=x: has the wrong type" in refusal("generation.max_new_tokens=x")
    assert "generation.top_p=2.0: is out of range" in refusal("generation.top_p=2")
