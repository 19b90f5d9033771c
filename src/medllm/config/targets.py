"""What a configuration may name of Python: the launchers, sweepers and log handlers listed here, and nothing else.

Hydra makes objects of `_target_`, and logging of `class`, `()` and `ext://`: whoever writes a preset would run code with it.
Values are judged as they are written, before any interpolation, and no interpolation makes a mapping or a list that was not
written: so what is judged is what Hydra uses.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

# Private, but the reading that OmegaConf itself resolves: an expression of our own would be another, with gaps between the two.
# `test_no_spelling_hides_a_resolver` notices when it changes.
from omegaconf.grammar_parser import OmegaConfGrammarParser, parse

from medllm.errors import Fault

LAUNCHERS = (
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
    "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
)
SWEEPERS = (
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",  # in every script's configuration; a plan refuses it
    "hydra_plugins.medllm_sweeper.PlannedSweeper",
    "hydra_plugins.medllm_sweeper.OptunaSweeper",
)
HANDLERS = ("logging.StreamHandler", "logging.FileHandler", "logging.NullHandler")
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
PLUGINS = {"hydra.launcher": LAUNCHERS, "hydra.sweeper": SWEEPERS}
LOGGING = ("hydra.job_logging", "hydra.hydra_logging")

# Interpolations that come to text or a number, whatever they are given. References to other keys are free: no target stands
# there.
RESOLVERS = ("oc.env", "now", "mul", "medllm.root", "medllm.slug", "medllm.gpus_per_point", "medllm.fast_dtype")

# A log file stands in the run's folder; whose name must be no address, since `ext://` in front of it would be one.
LOG_FOLDER = "${hydra.runtime.output_dir}/"
FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.runtime.output_dir")
ADDRESS = re.compile(r"\s*[A-Za-z]+:")

# The command line, which Hydra keeps as text; what it asks for is judged where it stands.
TYPED = "hydra.overrides."

NAMING = ("_target_", "_args_", "_partial_")
FIX = "leave it out; code is added in src/, not in a configuration"


def target_faults(config: DictConfig) -> list[Fault]:
    """Whatever of a composed configuration, with its `hydra` node, would name other Python than is listed here."""
    found = [fault for key, value in leaves(OmegaConf.to_container(config)) for fault in _faults(key, value)]
    for key in FOLDERS:
        folder = _resolved(config, key)
        if ADDRESS.match(folder):
            found.append(Fault(key, "is an address", folder, allowed="a folder", fix=f"{key}=/absolute/folder"))
    return found


def _faults(key: str, value: Any) -> list[Fault]:
    name = key.rpartition(".")[2]
    plugin = next((node for node in PLUGINS if f"{key}.".startswith(f"{node}.")), "")
    if plugin and key == f"{plugin}._target_":
        return _unless(value in PLUGINS[plugin], key, "is none that belongs here", value, PLUGINS[plugin])
    if name in NAMING or key == "hydra":
        return _unless(False, key, "names Python where none belongs", value)
    if key.startswith("hydra.callbacks"):
        return _unless(value in (None, {}), key, "is a callback of Hydra", value)
    if key.startswith(LOGGING):
        return _logging_faults(key, name, value)
    if key in PLUGINS:
        return _unless(False, key, "names none", value, PLUGINS[key])
    if not isinstance(value, str) or "${" not in value or key.startswith(TYPED):
        return []
    return _unless(resolvers(value) <= set(RESOLVERS), key, "may resolve to Python", value, RESOLVERS)


@lru_cache(maxsize=4096)  # the points of a sweep are composed one by one, of the same texts
def resolvers(text: str) -> frozenset[str]:
    """The names of all resolvers in a text, as they are written, also of those in the arguments of others.

    A name that is put together, as in `${oc.${name}:...}`, is returned so; a text that cannot be read, as if it were one.
    """
    try:
        return frozenset(_resolvers(parse(text)))
    except GrammarParseError:
        return frozenset([text])


def _resolvers(node: Any) -> Iterator[str]:
    if isinstance(node, OmegaConfGrammarParser.InterpolationResolverContext):
        yield node.resolverName().getText()
    for child in getattr(node, "children", None) or ():
        yield from _resolvers(child)


def _logging_faults(key: str, name: str, value: Any) -> list[Fault]:
    if name == "class":
        return _unless(value in HANDLERS, key, "is no handler that belongs here", value, HANDLERS)
    if name in ("()", "."):
        return _unless(False, key, "names Python where none belongs", value)
    if name == "filename" and str(value).startswith(LOG_FOLDER):
        return []
    plain = "://" not in str(value) and "${" not in str(value)
    return _unless(plain or value in STREAMS, key, "may resolve to Python", value, STREAMS)


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a configuration as it is written, and whole what may be Python's name or arguments."""
    if not isinstance(node, dict | list) or not node or key.rpartition(".")[2] in (*NAMING, "()", ".", "class"):
        yield key, node
        return
    for name, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield from leaves(value, f"{key}.{name}" if key else str(name))


def _resolved(config: DictConfig, key: str) -> str:
    try:
        return str(OmegaConf.select(config, key))
    except OmegaConfBaseException:  # of a single point, which is composed again when its number is known
        return ""


def _unless(right: bool, key: str, problem: str, value: Any, allowed: tuple[str, ...] = ()) -> list[Fault]:
    return [] if right else [Fault(key, problem, str(value)[:200], ", ".join(allowed) or "nothing", FIX)]
