"""The `data` group."""

from pathlib import Path

import pytest

from medllm.config.data import HubDataConf, LocalDataConf
from medllm.data.pipeline import load_conversations
from tests.conf.groups import assert_round_trips, load, options, refusal


@pytest.mark.parametrize("option", options("data"))
def test_composes_and_round_trips(option: str, tmp_path: Path) -> None:
    """Each option composes, validates, is of a kind that has a reader, and survives YAML."""
    conf = load("data", option)
    assert isinstance(conf.data, LocalDataConf | HubDataConf)
    assert_round_trips(conf, tmp_path)


def test_bundled_dialogues_load() -> None:
    """Every bundled row is a conversation."""
    conversations, rejected = load_conversations(load("data", "dialogues_bundled").data)
    assert len(conversations) >= 240
    assert rejected == {}


def test_refusals() -> None:
    """Unknown key, wrong type, out of range, missing value."""
    assert "data.max_lenght=512: no such key" in refusal("data.max_lenght=512")
    assert "did you mean data.max_length?" in refusal("data.max_lenght=512")
    assert refusal("data.eval_fraction=1") == (
        "1 fault in the configuration:\n  data.eval_fraction=1.0: is out of range\n      allowed: >= 0 and < 1"
    )
    assert refusal("data.over_length=cut") == (
        "1 fault in the configuration:\n  data.over_length=cut: no such value\n      allowed: drop, truncate, error"
    )
    assert refusal("data=local") == (
        "1 fault in the configuration:\n  data.path: needs a value\n      fix: give it one: data.path=..."
    )
    assert "data.columns.patients=x: no such key" in refusal("data.columns.patients=x")
