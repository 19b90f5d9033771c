"""The vocabulary of red flags: terms, and the signs that they make together."""

import hashlib
import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from medllm.errors import ConfigError, Fault
from medllm.guard.scope import Scope
from medllm.guard.urgency import Urgency

BUNDLED = Path(__file__).with_name("red_flags.yaml")


class Protocol(Enum):
    """Which fixed text answers a sign."""

    emergency = "emergency"
    poisoning = "poisoning"
    self_harm = "self_harm"
    violence = "violence"


@dataclass(frozen=True)
class Sign:
    """What must be found together.

    Attributes:
        all: One set of terms per thing that must be found; any term of a set will do.
        unless: Terms that must be found nowhere.
        within: Characters between the first and the last, in one message; None for `flags.WINDOW`, and for turns that add to each
            other.
        urgency: C or D.
    """

    all: tuple[tuple[str, ...], ...]
    unless: tuple[str, ...]
    within: int | None
    urgency: Urgency


@dataclass(frozen=True)
class Group:
    """A kind of emergency.

    Attributes:
        name: As in records.
        title: For people, in lower case.
        protocol: Of its fixed text.
        scopes: Which scopes take a mention out.
        signs: Any of them will do.
        sources: The public pages whose signs are meant.
    """

    name: str
    title: str
    protocol: Protocol
    scopes: frozenset[Scope]
    signs: tuple[Sign, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Lexicon:
    """All of it.

    Attributes:
        version: As its file says.
        sha256: Of the file.
        terms: Name to pattern, for `plain` text.
        context: Terms of what somebody is, has or takes, which counts also if it began long ago.
        groups: In the order of the file.
    """

    version: str
    sha256: str
    terms: dict[str, re.Pattern[str]]
    context: frozenset[str]
    groups: tuple[Group, ...]


def load_lexicon(path: Path | None = None) -> Lexicon:
    """Reads a lexicon, the bundled one by default.

    Raises:
        ConfigError: naming everything that is wrong with the file.
    """
    file = path or BUNDLED
    try:
        return _parsed(file, file.read_bytes())
    except OSError as error:
        raise ConfigError(Fault("guard.lexicon", f"cannot be read: {error.strerror}", str(file))) from None


@lru_cache(maxsize=4)  # expressions take a third of a second to compile
def _parsed(file: Path, data: bytes) -> Lexicon:
    try:
        values = yaml.safe_load(data)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(Fault("guard.lexicon", f"cannot be read: {reason}", str(file))) from None
    faults: list[str] = []
    if not isinstance(values, dict) or not {"version", "terms", "groups"} <= set(values):
        raise ConfigError(Fault("guard.lexicon", "is no lexicon", str(file), allowed="version, parts, terms, groups"))
    terms = _terms(values["terms"], values.get("parts") or {}, faults)
    context = frozenset(values.get("context") or ())
    faults += [f"context: no term is called {name}" for name in sorted(context - set(terms))]
    groups = tuple(_group(name, group, terms, faults) for name, group in values["groups"].items())
    if faults:
        raise ConfigError([Fault("guard.lexicon", fault, str(file)) for fault in faults])
    return Lexicon(str(values["version"]), hashlib.sha256(data).hexdigest(), terms, context, groups)


def _terms(written: dict[str, list[str]], parts: dict[str, str], faults: list[str]) -> dict[str, re.Pattern[str]]:
    # A part may hold other parts.
    def spelled(pattern: str) -> str:
        while found := re.search(r"%(\w+)%", pattern):
            if found[1] not in parts:
                faults.append(f"no part is called {found[1]}")
                return ""
            pattern = pattern.replace(found[0], parts[found[1]])
        return pattern

    terms = {}
    for name, patterns in written.items():
        try:
            terms[name] = re.compile("|".join(rf"\b(?:{spelled(pattern)})" for pattern in patterns))
        except (re.error, TypeError) as error:
            faults.append(f"term {name}: {error}")
    return terms


def _group(name: str, written: dict[str, Any], terms: dict[str, re.Pattern[str]], faults: list[str]) -> Group:
    signs = []
    for sign in written.get("signs") or []:
        unknown = set(sign) - {"all", "unless", "within", "urgency"}
        if unknown or "all" not in sign:
            faults.append(f"group {name}: a sign has `all`, `unless`, `within` and `urgency`, not {sorted(sign)}")
            continue
        each = tuple(tuple(entry.split("|")) for entry in sign["all"])
        missing = sorted({term for entry in (*each, sign.get("unless") or ()) for term in entry} - set(terms))
        if missing:
            faults.append(f"group {name}: no term is called {', '.join(missing)}")
        if sign.get("urgency", "D") not in ("C", "D"):
            faults.append(f"group {name}: urgency is C or D, not {sign['urgency']}")
            continue
        urgency = Urgency[sign.get("urgency", "D")]
        signs.append(Sign(each, tuple(sign.get("unless") or ()), sign.get("within"), urgency))
    try:
        protocol = Protocol(written.get("protocol", "emergency"))
        scopes = frozenset(Scope(scope) for scope in written.get("scopes") or [scope.value for scope in Scope])
    except ValueError as error:
        faults.append(f"group {name}: {error}")
        protocol, scopes = Protocol.emergency, frozenset(Scope)
    sources = tuple(written.get("sources") or ())
    if not signs or not sources or not written.get("title"):
        faults.append(f"group {name} needs title, sources and signs")
    return Group(name, str(written.get("title")), protocol, scopes, tuple(signs), sources)
