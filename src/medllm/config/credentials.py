"""Tokens and passwords come from the environment: on a command line others read them, and shells keep them."""

import re

from medllm.errors import Fault

# A user access token of the Hugging Face hub, as in a text.
HUB_TOKEN = re.compile(r"\bhf_(?:oauth_)?[A-Za-z0-9]{30,}")

# Last parts of keys under which people would give a token.
KEYS = ("token", "hf_token", "hub_token", "access_token", "api_key", "password")


def credential_faults(overrides: list[str]) -> list[Fault]:
    """Overrides that give a credential; their values are not repeated."""
    found = []
    for override in overrides:
        key, equals, _ = override.lstrip("+~").partition("=")
        typed = equals and key.rpartition(".")[2].lower() in KEYS
        if not typed and not HUB_TOKEN.search(override):
            continue
        fix = (
            "set HF_TOKEN in the environment; a token that was typed here stands in the shell's history: make a new one"
        )
        found.append(Fault("" if HUB_TOKEN.search(key) else key, "is no place for a credential", fix=fix))
    return found
