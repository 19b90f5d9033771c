"""The `data` group."""

from pathlib import Path

import pytest

from medllm.config.compose import load_run_conf
from medllm.config.data import HubDataConf, LocalDataConf, MixDataConf
from medllm.config.rules import cross_field_faults
from medllm.data.pipeline import load_conversations
from tests.conf.groups import assert_round_trips, load, options, refusal


@pytest.mark.parametrize("option", options("data"))
def test_composes_and_round_trips(option: str, tmp_path: Path) -> None:
    """Each option composes, validates, is of a kind that has a reader, and survives YAML."""
    conf = load("data", option)
    assert isinstance(conf.data, LocalDataConf | HubDataConf | MixDataConf)
    assert_round_trips(conf, tmp_path)


def test_bundled_dialogues_load() -> None:
    """Every bundled row is a conversation, clean already, and no copy of another."""
    drawn = load_conversations(load("data", "dialogues_bundled").data)
    assert len(drawn.conversations) >= 240
    assert drawn.report.rejected == {}
    assert [
        step for step in drawn.report.steps if step.dropped or (step.changed and step.name.startswith("cleaning"))
    ] == []
    assert sum(len(c.messages) > 2 for c in drawn.conversations) >= 40


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


def test_nested_refusals_give_the_whole_key() -> None:
    """Faults of a schema within a schema name the way to it."""
    assert "data.deduplication.split_threshold=0.9: is above the threshold" in refusal(
        "data.deduplication.split_threshold=0.9"
    )
    assert "data.columns.roles.nurse=boss: is no role" in refusal("+data.columns.roles.nurse=boss")
    assert "data.columns.roles.nurse=user: a new key\n      fix: put a plus in front of it" in refusal(
        "data.columns.roles.nurse=user"
    )
    assert "data.cleaning.min_words=0: is out of range" in refusal("data.cleaning.min_words=0")
    assert "data.cleaning.stub=maybe: no such value\n      allowed: keep, flag, drop" in refusal(
        "data.cleaning.stub=maybe"
    )


def test_a_mix_has_weights_for_all_or_for_none() -> None:
    """And each of its sources one place to read from."""
    mix = ["data=mix_bundled", "data.sources.yours.path=a.csv"]
    assert "data.sources.bundled.weight=null: is missing while others have one" in refusal(
        *mix, "data.sources.bundled.weight=null"
    )
    assert "data.sources.yours.path=both: and dataset: a source needs one of them" in refusal(
        *mix, "data.sources.yours.dataset=owner/name"
    )


def test_a_missing_file_is_found_before_anything_runs() -> None:
    """In each place that names one."""
    for overrides, key in (
        (["data=local", "data.path=none.csv"], "data.path"),
        (["data=mix_bundled", "data.sources.yours.path=none.csv"], "data.sources.yours.path"),
        (["data.contamination.benchmarks=[none.csv]"], "data.contamination.benchmarks"),
    ):
        (fault,) = cross_field_faults(load_run_conf(overrides))
        assert (fault.key, fault.value) == (key, "none.csv")
