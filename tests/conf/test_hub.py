"""The `hub` group."""

from pathlib import Path

import pytest

from tests.conf.groups import assert_round_trips, load, options, refusal


@pytest.mark.parametrize("option", options("hub"))
def test_composes_and_round_trips(option: str, tmp_path: Path) -> None:
    """Each option composes, validates, uploads nothing by itself, and survives YAML."""
    conf = load("hub", option)
    assert not conf.hub.push_to_hub
    assert_round_trips(conf, tmp_path)


def test_refusals() -> None:
    """Unknown key, wrong type, and an upload without a place to go; a token is no key."""
    told = refusal("hub.hub_token=hf_x")
    assert "hub.hub_token: is no place for a credential\n      fix: set HF_TOKEN" in told and "hf_x" not in told
    owned = refusal("hub.push_to_hub=true", "hub.hub_model_id=demo")
    assert "hub.hub_model_id=demo: is no repository of the hub\n      allowed: OWNER/NAME" in owned
    assert "hub.push_to_hub=often: has the wrong type" in refusal("hub.push_to_hub=often")
    assert refusal("hub.push_to_hub=true") == (
        "1 fault in the configuration:\n"
        "  hub.hub_model_id: is missing\n"
        "      allowed: OWNER/NAME\n"
        "      fix: hub.hub_model_id=OWNER/NAME"
    )
