"""What a configuration may say of Hydra itself: whatever Hydra or a plan reads there has the form that they expect.

Neither of them looks: it would end in a traceback, or Hydra would write beside the run's folder.
"""

import re
from collections.abc import Iterator
from typing import Any

from hydra.conf import HydraConf
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medllm.config.targets import PLUGINS
from medllm.errors import Fault

# What Hydra makes part of a path below the run's folder.
NAMES = ("hydra.output_subdir", "hydra.job.name")
PLAIN = re.compile(r"(?!\.{1,2}\Z)[^/\\\x00-\x1f]{1,100}")


def hydra_faults(config: DictConfig) -> list[Fault]:
    """Whatever of a composed configuration's `hydra` node is of another form."""
    schema = OmegaConf.to_container(OmegaConf.structured(HydraConf))
    found = [*_form_faults(schema, OmegaConf.to_container(config.hydra), "hydra"), *_plugin_faults(config)]
    return found or [fault for key in NAMES for fault in _name_faults(config, key)]


def _form_faults(schema: Any, written: Any, key: str) -> Iterator[Fault]:
    """An interpolation, which no schema refuses, where keys or a list belong."""
    if isinstance(schema, dict | list) and not isinstance(written, type(schema)):
        yield _unmapped(key, written) if isinstance(schema, dict) else Fault(key, "is no list", str(written), "[...]")
    elif isinstance(schema, dict):
        for name in schema.keys() & written.keys():
            yield from _form_faults(schema[name], written[name], f"{key}.{name}")


def _plugin_faults(config: DictConfig) -> Iterator[Fault]:
    for key, allowed in PLUGINS.items():
        plugin = OmegaConf.to_container(OmegaConf.select(config, key))
        if isinstance(plugin, dict) and "_target_" not in plugin:
            yield Fault(f"{key}._target_", "needs a value", allowed=", ".join(allowed))
        params = plugin.get("params") if isinstance(plugin, dict) else None
        if params is not None and not isinstance(params, dict):
            yield _unmapped(f"{key}.params", params)


def _unmapped(key: str, value: Any) -> Fault:
    return Fault(key, "needs keys with their values", str(value)[:200], allowed="{key: value, ...}")


def _name_faults(config: DictConfig, key: str) -> list[Fault]:
    try:
        name = OmegaConf.select(config, key)
    except OmegaConfBaseException:  # what only a run would know
        name = ""
    if name is None or PLAIN.fullmatch(name):
        return []
    return [
        Fault(key, "is no plain name", name[:200], allowed="at most 100 characters, and no folder in front of them")
    ]
