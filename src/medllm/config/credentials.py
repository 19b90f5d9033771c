"""Tokens and passwords come from the environment: on a command line others read them, shells keep them, and runs write them."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medllm.config.targets import leaves
from medllm.errors import Fault
from medllm.redaction import redacted, secrets_in

# Last parts of keys under which people would give one.
KEY = re.compile(
    r"(?:.*_)?(?:token|secret|password|passwd|credentials?|(?:api|access|private|secret)_?key(?:_id)?)", re.I
)

# Where the environment has a place for it, by the beginning of the key.
FIXES = {
    "tracking": "MLFLOW_TRACKING_USERNAME with MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment for a "
    "server, PGPASSWORD for PostgreSQL, and the address without them",
    "": "set HF_TOKEN in the environment, or whatever variable its reader takes (AWS_SECRET_ACCESS_KEY ...)",
}
TYPED = "; what was typed here stands in the shell's history: make a new one"


def credential_faults(overrides: list[str]) -> list[Fault]:
    """Overrides that give a credential; their values are not repeated."""
    found = []
    for override in overrides:
        key, equals, _ = override.lstrip("+~").partition("=")
        held = secrets_in(override)
        if held or (equals and KEY.fullmatch(key.rpartition(".")[2])):
            found.append(_fault(key, held, TYPED))
    return found


def secret_faults(config: DictConfig) -> list[Fault]:
    """Values of a composed configuration, as written and as resolved, that are secrets, whatever file or variable they are from.

    What is resolved is written into the run's folder, its record and its artifact.
    """
    texts: dict[str, list[str]] = {}
    for key, text in (*leaves(OmegaConf.to_container(config)), *_resolved(config)):
        if isinstance(text, str) and text and not key.startswith("hydra.overrides."):  # refused as they are typed
            texts.setdefault(key, []).append(f"{key}={text}")
    named = {key for key in texts if KEY.fullmatch(key.rpartition(".")[2])}
    if not named and not secrets_in("\n".join(text for both in texts.values() for text in both)):
        return []
    held = {key: secrets_in("\n".join(both)) for key, both in texts.items()}
    return [_fault(key, held[key]) for key in texts if held[key] or key in named]


def _fault(key: str, held: list[str], more: str = "") -> Fault:
    problem = "is no place for a credential" + (f", and holds {' and '.join(held)}" if held else "")
    fix = next(fix for beginning, fix in FIXES.items() if key.startswith(beginning))
    return Fault(redacted(key), problem, fix=fix + more)


def _resolved(node: DictConfig | ListConfig, key: str = "") -> Iterator[tuple[str, str]]:
    """What interpolations come to, by dotted key; what cannot be resolved yet is not written either."""
    names: Iterable[Any] = node if isinstance(node, DictConfig) else range(len(node))
    for name in names:
        path = f"{key}.{name}" if key else str(name)
        try:
            value = None if OmegaConf.is_missing(node, name) else node[name]
        except OmegaConfBaseException:
            continue
        refers = OmegaConf.is_interpolation(node, name)
        if isinstance(value, DictConfig | ListConfig):
            if not refers:  # else its values are looked at where they stand
                yield from _resolved(value, path)
        elif refers:
            yield path, str(value)
