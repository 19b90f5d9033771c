"""Names and values as MLflow takes them."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from medllm.redaction import redacted

ILLEGAL = re.compile(r"[^\w\-. :/]+")
LONGEST_VALUE, LONGEST_NAME = 6000, 250


def legal_name(name: str) -> str:
    """A parameter or metric name that MLflow accepts: what it refuses becomes `_`, parts of a path that say nothing, too."""
    parts = ILLEGAL.sub("_", name).strip("./ ").split("/")
    path = "/".join("_" if part in ("", ".", "..") else part for part in parts)
    return path[:LONGEST_NAME].strip("./ ") or "_"


def legal_names(names: Iterable[str]) -> dict[str, str]:
    """Each name's legal one; where several would have the same, those that were changed end in a hash of what they were."""
    legal = {name: legal_name(name) for name in names}
    taken = Counter(legal.values())
    for name, short in legal.items():
        if taken[short] > 1 and short != name:
            mark = f"_{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"
            legal[name] = short[: LONGEST_NAME - len(mark)] + mark
    return legal


def legal_value(value: Any) -> str:
    """A parameter value as text, marked where MLflow's limit cuts it; the resolved config holds it whole."""
    text = redacted(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
    mark = " ... (cut, see config.yaml)"
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - len(mark)] + mark
