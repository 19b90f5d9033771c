"""The `guard` group."""

from dataclasses import fields

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from medllm.config import store
from medllm.config.guard import GuardConf, NoGuardConf, RedFlagGuardConf
from medllm.errors import ConfigError
from medllm.guard.guard import Guard, NoGuard, build_guard
from tests.conf.groups import CONF, options


def load(option: str, *overrides: str) -> GuardConf:
    """An option by itself, as a real object."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        node = compose(f"guard/{option}", overrides=[f"guard.{override}" for override in overrides]).guard
    conf = OmegaConf.to_object(node)
    assert isinstance(conf, GuardConf)
    return conf


@pytest.mark.parametrize("option", options("guard"))
def test_composes_builds_and_round_trips(option: str) -> None:
    """Each option composes, survives YAML and becomes the guard it names."""
    conf = load(option)
    again = OmegaConf.to_object(
        OmegaConf.merge(OmegaConf.structured(type(conf)), OmegaConf.create(OmegaConf.to_yaml(conf)))
    )
    assert again == conf
    assert type(build_guard(conf)) is (NoGuard if isinstance(conf, NoGuardConf) else Guard)


def test_schemas_are_registered() -> None:
    """Off is an object of its own."""
    assert store.SCHEMAS["guard"] == {"red_flags": RedFlagGuardConf, "none": NoGuardConf}


def test_rules_only_differs_in_the_models_urgency_alone() -> None:
    """A preset states its difference."""
    default, rules = load("default"), load("rules_only")
    assert [f.name for f in fields(default) if getattr(default, f.name) != getattr(rules, f.name)] == ["model_urgency"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_caution": 1.5}, "model_caution=1.5: is out of range"),
        ({"emergency_text": "Call {number}"}, "emergency_text={number}: has a placeholder that is not known"),
        ({"dose_note": "{"}, "dose_note={: cannot be filled in"),
        ({"emergency_number": " "}, "emergency_number: is empty"),
        ({"self_harm_text": ""}, "self_harm_text: is empty"),
    ],
)
def test_refusals(values: dict[str, object], message: str) -> None:
    """Range, placeholders, empty texts."""
    with pytest.raises(ConfigError) as caught:
        RedFlagGuardConf(**values)  # type: ignore[arg-type]
    assert message in str(caught.value)
