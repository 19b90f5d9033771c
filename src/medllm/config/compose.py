"""From a command line to checked configurations: one for a run, one per point for a sweep."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medllm.config.run import RunConf
from medllm.config.store import SCHEMAS, project_root
from medllm.config.validate import explain, to_run_conf
from medllm.errors import ConfigError, Fault


@dataclass(frozen=True)
class Point:
    """One run of a plan.

    Attributes:
        overrides: What distinguishes it from the plan's other points: `("lora.r=8",)`; empty if it is the only one.
        conf: The whole of it, checked.
    """

    overrides: tuple[str, ...]
    conf: RunConf


@dataclass(frozen=True)
class Plan:
    """What a command line asks for.

    Attributes:
        points: One for a run, one per combination for a sweep.
        sweep_dir: Where Hydra would put a sweep.
    """

    points: tuple[Point, ...]
    sweep_dir: Path


def compose_config(
    overrides: list[str], config_dir: Path | None = None, *, multirun: bool = False, config_name: str = "train"
) -> DictConfig:
    """The composed configuration with its `hydra` node, unresolved.

    Raises:
        ConfigError: naming what Hydra refused.
    """
    GlobalHydra.instance().clear()
    mode = ["hydra.mode=MULTIRUN"] if multirun else []
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(config_dir or project_root() / "conf")):
            return compose(config_name, overrides=[*overrides, *mode], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, overrides)) from None
    except (yaml.YAMLError, ValueError) as error:  # a file that is no YAML; an override without a key
        reason = " ".join(str(error).split())
        raise ConfigError(
            Fault("", f"cannot be composed: {reason}", fix="correct the file or override it names")
        ) from None


def load_run_conf(overrides: list[str], config_dir: Path | None = None) -> RunConf:
    """One run's configuration, composed and checked as the command line `python train.py OVERRIDES` would.

    Raises:
        ConfigError: with every fault found.
    """
    return to_run_conf(compose_config(overrides, config_dir))


def resolved(conf: RunConf) -> dict[str, Any]:
    """The whole configuration as plain values, enumerations by name."""
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(conf), enum_to_str=True))


def run_conf_from_file(path: Path) -> RunConf:
    """A resolved configuration written by a run, as real objects.

    Each group's schema is recognised by its keys, so the file needs no type names.

    Raises:
        ConfigError: if the file is no such configuration.
    """
    try:
        values = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(path)))
        config = OmegaConf.structured(RunConf)
        for name, value in values.items():
            kinds = [kind for kind in SCHEMAS.get(name, {}).values() if {f.name for f in fields(kind)} == set(value)]
            config[name] = OmegaConf.merge(OmegaConf.structured(kinds[0]), value) if kinds else value
        return to_run_conf(config)
    except (OSError, OmegaConfBaseException, AttributeError, TypeError, yaml.YAMLError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(Fault(str(path), f"is no resolved configuration: {reason}")) from None


def make_plan(overrides: list[str], *, multirun: bool, config_dir: Path | None = None) -> Plan:
    """Expands a command line into points and checks every one of them.

    Raises:
        ConfigError: with the faults of all points, each once.
    """
    if not multirun:
        _refuse_sweep_values(overrides)
        return Plan((Point((), load_run_conf(overrides, config_dir)),), Path())
    # What selects a group may itself carry a grid (`sweep=...`), so the grid is read from the composed hydra node. As in
    # Hydra's sweeper, the command line comes after it and wins.
    parsed = _parse(overrides)
    fixed = [override.input_line for override in parsed if not override.is_sweep_override()]
    config = compose_config(fixed, config_dir, multirun=True)
    grid = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    _refuse_other_sweepers(config)
    try:
        combinations = BasicSweeper.split_arguments(_parse([*grid, *overrides]), None)[0]
    except HydraException as error:
        raise ConfigError(explain(error, overrides)) from None
    constant = set.intersection(*(set(combination) for combination in combinations))
    points, faults = [], []
    for combination in combinations:
        try:
            conf = load_run_conf(combination, config_dir)
            points.append(Point(tuple(override for override in combination if override not in constant), conf))
        except ConfigError as error:
            faults += [fault for fault in error.faults if fault not in faults]
    if faults:
        raise ConfigError(faults)
    return Plan(tuple(points), Path(config.hydra.sweep.dir))


def _parse(overrides: list[str]) -> list[Override]:
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(project_root() / "conf")):
            loader = GlobalHydra.instance().config_loader()  # `lora=glob(*)` asks it for the options
            parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides)
            for override in parsed:
                if override.is_sweep_override() and override.is_discrete_sweep():
                    list(override.sweep_string_iterator())
    except (HydraException, ValueError) as error:
        raise ConfigError(explain(error, overrides)) from None
    return list(parsed)


def _refuse_other_sweepers(config: DictConfig) -> None:
    """Other sweepers choose points while they run, so that their points cannot be checked before."""
    target = str(config.hydra.sweeper._target_)
    if not target.endswith(".BasicSweeper"):
        raise ConfigError(
            Fault("hydra/sweeper", "cannot be planned", target, allowed="basic", fix="leave out hydra/sweeper")
        )
    if config.hydra.sweeper.max_batch_size is not None:
        fix = "leave it out; joblib's hydra.launcher.n_jobs limits processes"
        raise ConfigError(
            Fault("hydra.sweeper.max_batch_size", "would end the sweep at the first failed point", fix=fix)
        )


def _refuse_sweep_values(overrides: list[str]) -> None:
    swept = [override.input_line.partition("=") for override in _parse(overrides) if override.is_sweep_override()]
    if swept:
        raise ConfigError([Fault(key, "several values make a sweep", value, fix="add -m") for key, _, value in swept])
