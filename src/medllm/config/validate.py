"""The gates that need no torch: unknown keys, wrong types, ranges, and rules between groups.

Gate 0 is Hydra's own typed composition; `explain` turns its exceptions into faults. Gate 1 finds keys that `+` and `++`
smuggle past it. Gate 2 builds the dataclasses, whose ranges are checked on the way. `cross_field_faults` sees the whole.
"""

import difflib
import re
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, cast, get_args, get_type_hints

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from medllm.config.chat import ChatConf
from medllm.config.conf import Conf, range_faults
from medllm.config.evaluation import EvaluateConf
from medllm.config.export import ExportConf
from medllm.config.publish import PublishConf
from medllm.config.review import CreateReviewConf
from medllm.config.run import RootConf, RunConf
from medllm.config.serve import ServeConf
from medllm.config.store import PARTS, SCHEMAS
from medllm.config.sweep import SweepConf
from medllm.config.ui import UiConf
from medllm.errors import ConfigError, Fault

Root = TypeVar("Root", bound=Conf)

# Nodes whose keys are names people give.
OPEN_KEYS = ("data.columns.roles", "data.sources", "evaluation.gate.rules", "lexicon", "review.questions")

# Where a reader finds all keys.
COMMANDS: dict[type, str] = {
    RootConf: "python train.py",
    EvaluateConf: "python scripts/evaluate.py",
    CreateReviewConf: "python scripts/review.py",
    ChatConf: "python scripts/chat.py",
    ExportConf: "python scripts/export.py",
    ServeConf: "python scripts/serve.py",
    PublishConf: "python scripts/publish.py",
    UiConf: "python scripts/ui.py",
}

# What a script takes beside the keys.
SHORTHANDS: dict[type, list[str]] = {EvaluateConf: ["suite", "limit"]}

# What Hydra puts into a composed configuration beside its and our schemas.
HYDRAS_OWN = (("", "hydra"), ("hydra.", "env"))


def nearest(key: str, candidates: list[str]) -> str:
    """The candidate most like `key`, by its whole path or by its last part; empty if none comes close."""
    match = difflib.get_close_matches(key, candidates, n=1, cutoff=0.6)
    if not match:
        last = {candidate.rpartition(".")[2]: candidate for candidate in candidates}
        match = [last[name] for name in difflib.get_close_matches(key.rpartition(".")[2], list(last), n=1, cutoff=0.7)]
    return match[0] if match else ""


def schema_keys(schema: type, prefix: str = "") -> list[str]:
    """Every dotted key below a schema class."""
    hints, keys = get_type_hints(schema), []
    for f in fields(schema):
        keys.append(prefix + f.name)
        if is_dataclass(hints[f.name]):
            keys += schema_keys(hints[f.name], f"{prefix}{f.name}.")
    return keys


def known_keys(root: type = RootConf) -> list[str]:
    """Every key that any option of any group below this root has."""
    keys = schema_keys(root)
    groups = {f.name for f in fields(root)}
    for group, kinds in SCHEMAS.items():
        for schema in kinds.values() if group in groups else ():
            keys += schema_keys(schema, f"{group}.")
    return sorted(set(keys))


def unknown_key_fault(key: str, value: str = "", siblings: list[str] | None = None, root: type = RootConf) -> Fault:
    """A key that does not exist, with its nearest relative; `siblings` are the keys of the node it was put into."""
    known = known_keys(root)
    if key in known:
        group = key.partition(".")[0]
        fix = f"{key} belongs to another option of {group}; name that one: {group}=..."
        return Fault(key, f"not in the chosen option of {group}", value, ", ".join(siblings or []), fix)
    parent = key.rpartition(".")[0]
    if parent in OPEN_KEYS:
        return Fault(key, "a new key", value, fix=f"put a plus in front of it: '+{key}=...'")
    if not parent:
        siblings = [*(siblings or []), *SHORTHANDS.get(root, [])]
    near = nearest(key, [f"{parent}.{name}" if parent else name for name in siblings or []] or known)
    near = near or nearest(key, known)
    return Fault(
        key,
        "no such key",
        value,
        allowed=", ".join(siblings or []),
        fix=f"did you mean {near}?" if near else f"see `{COMMANDS[root]} --help` for all keys",
    )


def unknown_key_faults(config: DictConfig, prefix: str = "", root: type = RootConf) -> list[Fault]:
    """Gate 1: keys present in a composed config but absent from its schemas."""
    schema, found = OmegaConf.get_type(config), []
    allowed = [f.name for f in fields(schema)] if is_dataclass(schema) else None
    for key in config:
        name = str(key)
        if allowed is not None and name not in allowed and (prefix, name) not in HYDRAS_OWN:
            value = "?" if OmegaConf.is_interpolation(config, name) else str(config[name])
            found.append(unknown_key_fault(prefix + name, value, allowed, root))
        elif not OmegaConf.is_missing(config, name) and not OmegaConf.is_interpolation(config, name):
            child = config[name]
            if isinstance(child, DictConfig):
                found += unknown_key_faults(child, f"{prefix}{name}.", root)
    return found


def resolution_fault(error: OmegaConfBaseException, group: str) -> Fault:
    """A value that is missing, or an interpolation that comes to none; of `group`, where the error names no key."""
    key = str(error.full_key or group)
    if isinstance(error, MissingMandatoryValue):
        return Fault(key, "needs a value", fix=f"give it one: {key}=...")
    return Fault(key, _first_line(error))


def to_run_conf(config: DictConfig) -> RunConf:
    """Gates 1 and 2 for a run; see `to_conf`."""
    return to_conf(config, RunConf)


def to_conf(config: DictConfig, schema: type[Root], root: type = RootConf) -> Root:
    """Gates 1 and 2: a composed config as real objects, resolved and range-checked.

    Args:
        config: Composed.
        schema: Of what is returned: the root, or what a root adds something to.
        root: Whose keys are suggested.

    Raises:
        ConfigError: with every unknown key, missing value and range fault of every group.
    """
    faults = unknown_key_faults(config, root=root)
    values: dict[str, Any] = {}
    for f in fields(schema):
        try:
            if OmegaConf.is_missing(config, f.name):
                faults.append(Fault(f.name, "needs a value", fix=f"give it one: {f.name}=..."))
                continue
            node = config[f.name]
            if not isinstance(node, DictConfig):
                values[f.name] = OmegaConf.to_object(node) if isinstance(node, ListConfig) else node
                faults += range_faults(f, node)
                continue
            missing = sorted(key if "." in key else f"{f.name}.{key}" for key in OmegaConf.missing_keys(node))
            faults += [Fault(key, "needs a value", fix=f"give it one: {key}=...") for key in missing]
            if not missing:
                below = _nested_faults(node)
                faults += [_below(fault, f.name) for fault in below]
                values[f.name] = None if below else OmegaConf.to_object(node)
        except ConfigError as error:
            faults += [_below(fault, f.name) for fault in error.faults]
        except OmegaConfBaseException as error:
            faults.append(resolution_fault(error, f.name))
    if faults:
        raise ConfigError(faults)
    return schema(**values)


def to_sweep_conf(config: DictConfig) -> SweepConf:
    """The `sweep` node of a composed config as a real object.

    Raises:
        ConfigError: if a value is out of range, or cannot be told.
    """
    try:
        return cast(SweepConf, OmegaConf.to_object(config.sweep))
    except ConfigError as error:
        raise ConfigError([_below(fault, "sweep") for fault in error.faults]) from None
    except OmegaConfBaseException as error:
        raise ConfigError(resolution_fault(error, "sweep")) from None


def _nested_faults(node: DictConfig) -> list[Fault]:
    """Faults of the schemas inside a schema, innermost only, with their keys relative to this node."""
    found: list[Fault] = []
    for key in node:
        if OmegaConf.is_missing(node, key) or not isinstance(child := node[key], DictConfig):
            continue
        below = _nested_faults(child)
        if not below and is_dataclass(OmegaConf.get_type(child)):
            try:
                OmegaConf.to_object(child)
            except ConfigError as error:
                below = list(error.faults)
        found += [_below(fault, str(key)) for fault in below]
    return found


def _below(fault: Fault, group: str) -> Fault:
    return Fault(f"{group}.{fault.key}", fault.problem, fault.value, fault.allowed, fault.fix)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


def _written_value(key: str, overrides: list[str]) -> str:
    """The value of `key` as it stands on the command line; empty if it came from a file."""
    for override in reversed(overrides):
        name, _, value = override.partition("=")
        if name.lstrip("+~").partition("@")[0].replace("/", ".") == key:
            return value
    return ""


def added_whole(override: str) -> str:
    """`+rules.mine.margin=1` as `+rules={mine: {margin: 1}}`, below a node whose keys are names people give.

    OmegaConf refuses a plain mapping as a new value of a typed node, but types what it merges into one.
    """
    added = re.fullmatch(rf"(\+\+?({'|'.join(map(re.escape, OPEN_KEYS))}))\.([^=@]+)=(.*)", override, re.S)
    if not added:
        return override
    node, _, below, value = added.groups()
    for name in reversed(below.split(".")):
        value = f"{{{name}: {value}}}"
    return f"{node}={value}"


def choice_faults(overrides: list[str], root: type = RootConf) -> list[Fault]:
    """Groups that are left out, and files that are chosen as an option of their group, though the options only include them."""
    groups = {f.name for f in fields(root)} & set(PARTS)
    chosen = [override.lstrip("+").partition("=") for override in overrides]
    left_out = [group for group in SCHEMAS if any(o.partition("=")[0] == f"~{group}" for o in overrides)]
    return [Fault(group, "cannot be left out", fix=f"another option of it, by {group}=...") for group in left_out] + [
        Fault(
            group,
            f"is a part of {group}'s options, and none itself",
            option,
            fix=f"another one: {option} comes with it",
        )
        for group, _, option in chosen
        if group in groups and option in PARTS[group]
    ]


def _unknown_name_fault(key: str, written: str, value: str, names: list[str], root: type) -> Fault:
    """A key below a name that its node does not have, though it takes new ones.

    Args:
        key: Of the name, as `evaluation.gate.rules.mine`.
        written: The key below it.
        value: It was to have.
        names: That there are.
        root: Whose keys they are.
    """
    node, _, name = key.rpartition(".")
    near, added = nearest(name, names), f"+{written}=..."
    fix = f"'{added_whole(added) if root is RootConf else added}' adds it"
    if near:
        fix = f"did you mean {node}.{near}{written.removeprefix(key)}? {fix}"
    return Fault(written, f"{node} has no {name}", value, ", ".join(names), fix)


def _element(key: str, value: str, root: type) -> str:
    """What a list would hold instead of a lone value: that, or the keys of its schema."""
    kinds = [kind for kind in get_args(get_type_hints(root).get(key)) if is_dataclass(kind)]
    return "".join(f"{{{', '.join(f'{f.name}: ...' for f in fields(kind))}}}" for kind in kinds) or value


def _unmapped_fault(key: str, value: str, overrides: list[str], root: type) -> Fault:
    """Something other than a mapping, or in a run a new one, where a schema's keys belong."""
    for override in overrides if root is RootConf else ():
        if added_whole(override) != override:  # a run is composed by Hydra itself, which takes no other form
            name, _, given = override.lstrip("+").partition("=")
            return Fault(name, "cannot be added by its own name", given, fix=f"'{added_whole(override)}'")
    return Fault(key, "needs keys with their values", value, allowed="{key: value, ...}")


def explain(error: Exception, overrides: list[str], root: type = RootConf) -> list[Fault]:
    """The faults behind an exception of Hydra or OmegaConf.

    Args:
        error: What composing raised.
        overrides: The command line, from which the offending value is quoted.
        root: Whose keys are suggested.
    """
    chained = error.__cause__ or error.__context__  # the latter for what Hydra finds in a YAML file
    cause = chained if isinstance(chained, OmegaConfBaseException) else error
    if isinstance(error, MissingConfigException):
        missing = str(error.missing_cfg_file or "")
        group, _, option = missing.rpartition("/")
        options = [str(name) for name in error.options or [] if name not in PARTS.get(group, ())]
        if not group or not options:
            group_near = nearest(group or option, [*SCHEMAS, "experiment", "sweep", "lexicon"])
            fix = f"did you mean {group_near}?" if group_near else ""
            return [Fault(group or option, "no such group or file", option if group else "", fix=fix)]
        near = nearest(option, options)
        fix = f"did you mean {group}={near}?" if near else ""
        return [Fault(group, "no such option", option, allowed=", ".join(options), fix=fix)]
    if isinstance(error, OverrideParseException):
        fix = "quote it for the shell, and once more for Hydra if it holds , { [ or $: 'key=\"value\"'"
        return [Fault("", f"cannot be read ({_first_line(error)})", str(error.override), allowed="key=value", fix=fix)]
    if isinstance(cause, OmegaConfBaseException):
        key = str(cause.full_key or "")
        value = _written_value(key, overrides)
        if isinstance(cause, ConfigAttributeError | ConfigKeyError):
            written = next((o.partition("=")[0].lstrip("+~") for o in overrides if o.lstrip("+~").startswith(key)), key)
            siblings = [f.name for f in fields(cause.object_type)] if is_dataclass(cause.object_type) else None
            file = re.match(r"In '(.+?)'", str(error))
            if file:
                written, value = key, f"... in {file[1]}.yaml"
            if written == key:
                return [unknown_key_fault(key, value or _written_value(written, overrides), siblings, root)]
            if key.rpartition(".")[0] in OPEN_KEYS and isinstance(cause.parent_node, DictConfig):
                others = [str(name) for name in cause.parent_node]
                return [_unknown_name_fault(key, written, _written_value(written, overrides), others, root)]
            near = nearest(written, known_keys(root))
            fix = f"did you mean {near}?" if near else ""
            return [Fault(written, "no such key", _written_value(written, overrides), ", ".join(siblings or []), fix)]
        message = _first_line(cause)
        allowed = re.search(r"expected one of \[(.*)\]", message)
        if allowed:
            near = nearest(value, allowed.group(1).split(", "))
            fix = f"did you mean {near}?" if near else ""
            return [Fault(key, "no such value", value, allowed=allowed.group(1), fix=fix)]
        expected = re.search(r"(?:could not be converted to|is not a valid) (\w+)", message)
        if expected:
            names = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}
            received = re.search(r"Value '(.*)' (?:of type|is not)", message)
            value = value or (received.group(1) if received else "")
            return [Fault(key, "has the wrong type", value, allowed=names.get(expected.group(1), expected.group(1)))]
        if "is not Optional" in message:
            return [Fault(key, "must have a value", value)]
        if "does not support deletion" in message:
            return [Fault(key, "cannot be deleted", fix=f"override it instead: {key}=...")]
        if "is not a ListConfig" in message:
            return [Fault(key, "is no list", value, fix=f"'{key}=[{_element(key, value, root)}]'")]
        if "is not a subclass of" in message:
            return [_unmapped_fault(key, value, overrides, root)]
        return [Fault(key, message[:1].lower() + message[1:], value)]
    if isinstance(error, ConfigCompositionException | HydraException | ValueError):
        return [Fault("", _first_line(error), fix=f"see `{COMMANDS[root]} --help`")]
    raise error
