"""`card.yaml`: what only a person can say, in a file that is theirs. It is written once and never again."""

from dataclasses import fields
from pathlib import Path
from typing import cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medllm.config.card import CardConf
from medllm.errors import ConfigError, Fault
from medllm.run_folder import write_whole

CARD_YAML = "card.yaml"

HEAD = """\
# What only a person can say of this model. Replace null where you know; what stays null is listed as missing in the card.
# Nothing here is filled in by the software, and nothing of it is guessed. Then: python scripts/card.py artifact=...
"""


def template() -> str:
    """The file before anybody has filled it in, each field under its explanation."""
    about = _explanations()
    lines = [HEAD]
    for f in fields(CardConf):
        default = "null" if f.default is None else str(f.default)
        lines.append(f"# {about[f.name]}\n{f.name}: {default}\n")
    return "\n".join(lines)


def load_card_conf(folder: Path) -> CardConf:
    """Reads `card.yaml`; writes the template where there is none.

    Raises:
        ConfigError: for a key that does not exist, or a value that is no text.
    """
    path = folder / CARD_YAML
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, template())
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        unknown = [str(key) for key in values if str(key) not in {f.name for f in fields(CardConf)}]
        if unknown:
            allowed = ", ".join(f.name for f in fields(CardConf))
            raise ConfigError([Fault(f"{path.name}: {key}", "no such key", allowed=allowed) for key in unknown])
        words = {k: v if v is None else str(v) for k, v in values.items() if not isinstance(v, list | dict)}
        wrong = [str(key) for key in values if key not in words]
        if wrong:
            raise ConfigError([Fault(f"{path.name}: {key}", "is no text", fix="one text, or null") for key in wrong])
        return cast(CardConf, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(CardConf), words)))
    except (OSError, UnicodeDecodeError, AttributeError, TypeError, yaml.YAMLError, OmegaConfBaseException) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(
            Fault(str(path), f"cannot be read: {reason}", fix="correct it, or delete it for a new one")
        ) from None


def _explanations() -> dict[str, str]:
    """By field, from the schema's docstring."""
    found: dict[str, str] = {}
    for line in str(CardConf.__doc__).partition("Attributes:")[2].splitlines():
        name, colon, text = line.strip().partition(": ")
        if colon and name in CardConf.__dataclass_fields__:
            found[name] = text
    return found
