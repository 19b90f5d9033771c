"""Files of a run's or a sweep's folder, read whole or refused: a process may have died over them, and people edit them.

A parser raises what its conversions raise; `read_file` makes one message of it.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from safetensors import SafetensorError

from medllm.errors import FolderError

Thing = TypeVar("Thing")

# Ids that MLflow gives, and names of folders that are given like them.
ID = re.compile(r"[0-9a-f]{32}")
UNPARSED = (ValueError, TypeError, LookupError, AttributeError, RecursionError, yaml.YAMLError, SafetensorError)


def read_file(path: Path, parse: Callable[[bytes], Thing], fix: str) -> Thing:
    """What a file holds.

    Args:
        path: It must exist.
        parse: Makes something of its bytes.
        fix: What to do about one that is damaged.

    Raises:
        FolderError: if it cannot be read, is damaged, or is of something else.
    """
    try:
        return parse(path.read_bytes())
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except UNPARSED:
        reason = "is damaged, or another program's"
    raise FolderError(f"{path} {reason}\n    fix: {fix}")


def expect(kind: type[Thing], value: Any) -> Thing:
    """A value of that type; raises TypeError for one of another, also one that could be converted."""
    if not isinstance(value, kind):
        raise TypeError
    return value


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object, in UTF-8."""
    return expect(dict, json.loads(data.decode()))


def parse_mapping(data: bytes) -> dict[str, Any]:
    """A YAML mapping, in UTF-8."""
    return expect(dict, yaml.safe_load(data.decode()))


def parse_result(data: bytes) -> dict[str, Any]:
    """What became of a run; its numbers may be null, which is what is written for one that is not finite."""
    values = parse_object(data)
    for text in (values["status"], values.get("reason", ""), *expect(dict, values.get("choices", {})).values()):
        expect(str, text)
    if values["status"] == "FINISHED" and "objective" not in values:
        raise ValueError
    for number in (values.get("objective"), *expect(dict, values.get("metrics", {})).values()):
        if number is not None:
            _number(number)
    return values


def parse_history(data: bytes) -> dict[str, list[tuple[int, float]]]:
    """Curves, `train` and `eval` among them: pairs of step and value."""
    curves = parse_object(data)
    found = {name: [(expect(int, step), _number(value)) for step, value in curve] for name, curve in curves.items()}
    return {"train": found.pop("train"), "eval": found.pop("eval"), **found}


def parse_data_report(data: bytes) -> dict[str, Any]:
    """Numbers of what was trained on, which its fingerprint names."""
    values = parse_object(data)
    expect(str, values["fingerprint"])
    for count in expect(dict, values.get("fates", {})).values():
        expect(int, count)
    return values


def parse_id(data: bytes) -> str:
    """32 digits of base 16."""
    text = data.decode().strip()
    if not ID.fullmatch(text):
        raise ValueError
    return text


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return float(value)
