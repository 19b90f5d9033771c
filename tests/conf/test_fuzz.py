"""Any command line at all: it is refused with a message, or what it asks for is what would run."""

import math
import os
from enum import Enum
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from medllm.config.compose import ROOTS, load_conf, resolved
from medllm.config.plan import make_plan
from medllm.config.rules import cross_field_faults
from medllm.config.store import SCHEMAS
from medllm.config.validate import known_keys
from medllm.errors import ConfigError
from tests.conf.groups import options

# More of them for a longer search: MEDLLM_FUZZ_EXAMPLES=20000 python -m pytest tests/conf/test_fuzz.py -m slow
EXAMPLES = int(os.environ.get("MEDLLM_FUZZ_EXAMPLES", "100"))

ODD = (
    "",
    " ",
    "'",
    '"',
    "\\",
    "\n",
    "\t",
    "\x00",
    "\u202e",
    "é",
    "ß",
    "漢字",
    "💊",
    "NaN",
    "../..",
    "/",
    "~",
    "$",
    "${",
    "}",
    "[",
    ",,",
    "a=b",
    "=",
)
HYDRAS = (
    "hydra.run.dir",
    "hydra.sweep.dir",
    "hydra.job.name",
    "hydra.searchpath",
    "hydra.mode",
    "hydra/launcher",
    "hydra/sweeper",
    "hydra.launcher",
    "hydra.launcher._target_",
    "hydra.launcher.n_jobs",
    "hydra.sweeper",
    "hydra.sweeper.params",
    "hydra.sweeper.tpe",
    "hydra.sweep",
    "hydra.sweep.subdir",
    "hydra.run",
    "hydra.job",
    "hydra.job.env_set",
    "hydra.output_subdir",
    "sweep.name",
    "sweep.seeds",
)

numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 1, 2**31, 2**63, 10**30, 1e-320, 1e308, -0.0, math.inf, -math.inf, math.nan]),
).map(str)
words = st.one_of(
    st.text(max_size=12),
    st.sampled_from(ODD),
    st.sampled_from(["true", "false", "null", "???", "yes", "off", "1e-4", "0x10"]),
)
quoted = words.map(lambda text: "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'")
interpolations = st.one_of(
    st.sampled_from(["${seed}", "${nowhere}", "${oc.env:NOWHERE}", "${oc.env:HOME}", "${name}", "${oops:1}", "${"]),
    st.sampled_from(["${tracking}", "${hydra.job.num}"]),
)
scalars = st.one_of(numbers, words, quoted, interpolations)
lists = st.one_of(
    st.lists(scalars, max_size=4).map(lambda items: f"[{','.join(items)}]"),
    st.tuples(st.sampled_from(["q_proj", "1", "0.5", "null", "a b"]), st.sampled_from([1, 300, 5000])).map(
        lambda pair: f"[{','.join([pair[0]] * pair[1])}]"
    ),
)
mappings = st.dictionaries(st.text("abr_.é-", min_size=1, max_size=5), scalars, max_size=3).map(
    lambda items: "{" + ",".join(f"{key}: {value}" for key, value in items.items()) + "}"
)
values = st.one_of(scalars, scalars, lists, mappings)
prefixes = st.sampled_from(["", "", "", "", "+", "++", "~"])


def keys(root: str) -> st.SearchStrategy[str]:
    """Of that root, most of them real, some with a letter changed, some of no world."""
    real = st.sampled_from(known_keys(ROOTS[root]))
    odd = st.tuples(real, st.integers(0, 30), st.text(max_size=2)).map(lambda t: t[0][: t[1]] + t[2] + t[0][t[1] + 1 :])
    return st.one_of(real, real, real, odd, st.sampled_from(HYDRAS), st.text(max_size=8))


def overrides(root: str) -> st.SearchStrategy[list[str]]:
    """A command line of up to four overrides, some of which choose an option of a group."""
    typed = st.tuples(prefixes, keys(root), values).map(lambda t: f"{t[0]}{t[1]}={t[2]}")
    groups = sorted(set(SCHEMAS) & set(ROOTS[root].__dataclass_fields__))
    chosen = st.sampled_from([f"{group}={option}" for group in groups for option in options(group)])
    deleted = keys(root).map(lambda key: f"~{key}")
    return st.lists(st.one_of(typed, typed, typed, chosen, deleted), min_size=1, max_size=4)


def agrees(asked: Any, got: Any) -> bool:
    """Whether what is there is what was typed, in the type of the key."""
    if isinstance(got, Enum):
        got = got.name
    if isinstance(asked, dict):
        return isinstance(got, dict) and all(agrees(value, got.get(str(key))) for key, value in asked.items())
    if isinstance(asked, list):
        return isinstance(got, list) and len(asked) == len(got) and all(map(agrees, asked, got))
    if asked is None or got is None:
        return asked is got
    if isinstance(got, bool):
        if isinstance(asked, int):
            return bool(asked) == got  # a number is true unless it is 0
        return str(asked).lower() in (("true", "yes", "on", "y", "1") if got else ("false", "no", "off", "n", "0"))
    if isinstance(got, int | float):
        return float(asked) == got or (math.isnan(float(asked)) and math.isnan(got))
    return str(asked) == str(got)


def assert_as_asked(typed: list[str], conf: Any) -> None:
    """Every key that the line sets last has the value of the line."""
    last: dict[str, Any] = {}
    for override in OverridesParser.create().parse_overrides(typed):
        key = override.key_or_group
        # A later choice of a group, or a mapping above a key, may rightly say something else.
        last = {name: value for name, value in last.items() if not (name + ".").startswith(key + ".")}
        if override.type is not OverrideType.DEL and key not in SCHEMAS and "/" not in key:
            last[key] = override.value()
    found = resolved(conf)
    for key, asked in last.items():
        if asked in ("${seed}", "${name}"):
            asked = found[asked[2:-1]]
        if key.startswith(("hydra.", "sweep.")) or "${" in str(
            asked
        ):  # no part of a run, and what is not told so simply
            continue
        got: Any = found
        for part in key.split("."):
            got = got[part]
        assert agrees(asked, got), f"{key}: asked {asked!r}, got {got!r}"


def judge(root: str, typed: list[str], multirun: bool = False) -> None:
    """The property itself."""
    assume(
        not any("\ud800" <= letter <= "\udfff" for override in typed for letter in override)
    )  # no terminal sends them
    try:
        if root != "train":
            confs = [load_conf(ROOTS[root], typed)]
        else:
            confs = [point.conf for point in make_plan(typed, multirun=multirun).points]
            for conf in confs:
                faults = cross_field_faults(conf)
                if faults:
                    raise ConfigError(faults)
    except ConfigError as error:
        assert str(error).strip() and "Traceback" not in str(error)
        return
    if not multirun:
        assert_as_asked(typed, confs[0])


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["~guard", "~guard.abuse_line"], "guard: cannot be left out\n      fix: another option of it, by guard=..."),
        (["+=[q_proj]"], "cannot be composed: "),
    ],
)
def test_what_a_search_once_found(typed: list[str], expected: str) -> None:
    """Lines that ended in a traceback of Hydra's."""
    with pytest.raises(ConfigError) as caught:
        load_conf(ROOTS["evaluate"], typed)
    assert expected in str(caught.value)


@pytest.mark.parametrize("root", ROOTS)
@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_line_is_refused_or_obeyed(root: str, data: st.DataObject) -> None:
    """Keys, values, types, unicode and lists at random, the same ones at every run."""
    judge(root, data.draw(overrides(root)))


@pytest.mark.slow
@pytest.mark.parametrize("root", ROOTS)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_many_lines_are_refused_or_obeyed(root: str, data: st.DataObject) -> None:
    """The same, new ones at every run."""
    judge(root, data.draw(overrides(root)))


@pytest.mark.slow
@settings(max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_sweep_is_refused_or_planned(data: st.DataObject) -> None:
    """With one or two axes, of at most three values each."""
    axes = data.draw(
        st.lists(st.tuples(keys("train"), st.lists(scalars, min_size=2, max_size=3)), min_size=1, max_size=2)
    )
    typed = [f"{key}={','.join(found)}" for key, found in axes]
    judge("train", [*typed, *data.draw(st.one_of(st.just([]), overrides("train")))], multirun=True)
