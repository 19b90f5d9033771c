"""What the tests of the config groups share: finding options, and refusing bad ones."""

from pathlib import Path

import pytest

from medllm.artifact import resolved_yaml
from medllm.config.compose import load_run_conf, run_conf_from_file
from medllm.config.run import RunConf
from medllm.config.store import PARTS
from medllm.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf"

# What options need besides their name to be complete.
REQUIRED = {
    "model=pretrained": ["model.pretrained_model_name_or_path=owner/name"],
    "data=local": ["data.path=data/dialogues.jsonl"],
    "data=visits": ["data.path=data/dialogues.jsonl"],
    "data=mix_bundled": ["data.sources.yours.path=data/dialogues.jsonl"],
}


def options(group: str) -> list[str]:
    """Every option of a group, found recursively; never an empty list."""
    files = {str(p.relative_to(CONF / group).with_suffix("")) for p in (CONF / group).rglob("*.yaml")}
    found = sorted(files - set(PARTS.get(group, ())))
    assert found, f"conf/{group} has no options"
    return found


def load(group: str, option: str, *overrides: str) -> RunConf:
    """A run with that option, composed and checked."""
    choice = f"{group}={option}"
    return load_run_conf([choice, *REQUIRED.get(choice, []), *overrides])


def assert_round_trips(conf: RunConf, folder: Path) -> None:
    """Resolved YAML reads back as equal objects of the same types."""
    path = folder / "config.yaml"
    path.write_text(resolved_yaml(conf))
    assert run_conf_from_file(path) == conf


def refusal(*overrides: str) -> str:
    """The message that refuses these overrides."""
    with pytest.raises(ConfigError) as caught:
        load_run_conf(list(overrides))
    return str(caught.value)
