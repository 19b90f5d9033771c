"""From a command line to the checked points of a sweep, or to the one of a run."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medllm.config.compose import compose_config, load_run_conf
from medllm.config.credentials import credential_faults
from medllm.config.run import RunConf
from medllm.config.search import Space, build_space, is_search
from medllm.config.store import project_root, slug
from medllm.config.sweep import SweepConf
from medllm.config.validate import explain, resolution_fault, to_run_conf, to_sweep_conf
from medllm.errors import ConfigError, Fault

# Of a file or folder, on every common file system.
LONGEST_NAME = 255


@dataclass(frozen=True)
class Point:
    """One run of a plan.

    Attributes:
        overrides: What distinguishes it from the plan's other points: `("lora.r=8",)`; empty if it is the only one.
        conf: The whole of it, checked.
        command: The command line that makes it alone; empty for a single run.
    """

    overrides: tuple[str, ...]
    conf: RunConf
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What a command line asks for.

    Attributes:
        points: One for a run, one per combination for a sweep; for a search a representative one, and those that show
            whether its values are right.
        sweep: How the sweep is run.
        sweep_dir: The sweep's folder.
        axes: Keys with several values, in the order of the command line.
        base_key: Identifies what all points share, whatever the values of the axes; seeds left out.
        space: What a search draws its points from; None for any other sweep.
        processes: How many at most run points at once on this machine, where the launcher says so.
        run_dir: The folder of a run; None for a sweep, and where only Hydra can tell.
        elsewhere: Whether the launcher may run points on other machines, of which nothing is known here.
    """

    points: tuple[Point, ...]
    sweep: SweepConf = field(default_factory=SweepConf)
    sweep_dir: Path = Path()
    axes: tuple[str, ...] = ()
    base_key: str = ""
    space: Space | None = None
    processes: int = 1
    run_dir: Path | None = None
    elsewhere: bool = False


def make_plan(overrides: list[str], *, multirun: bool, config_dir: Path | None = None) -> Plan:
    """Expands a command line into points and checks every one of them.

    Raises:
        ConfigError: with the faults of all points, each once.
    """
    if not multirun:
        _refuse_sweep_values(overrides)
        config = compose_config(overrides, config_dir)
        point = Point((), to_run_conf(config))
        return Plan((point,), run_dir=_folder(config, "hydra.run.dir"))
    # What selects a group may itself carry a grid (`sweep=...`), so the grid is read from the composed hydra node. As in
    # Hydra's sweeper, the command line comes after it and wins.
    parsed = _parse(overrides)
    fixed = [override.input_line for override in parsed if not override.is_sweep_override()]
    config = compose_config(fixed, config_dir, multirun=True)
    _refuse_other_sweepers(config)
    sweep = to_sweep_conf(config)
    grid = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    swept = _parse([*grid, *overrides])
    last = {override.get_key_element(): override for override in swept}
    axes = [key for key, override in last.items() if override.is_sweep_override()]
    _refuse_axes(axes, sweep)
    space = _space(config, list(last.values()), sweep) if is_search(config) else None
    if space is None:
        try:
            combinations = BasicSweeper.split_arguments(swept, None)[0]
        except HydraException as error:
            raise ConfigError(explain(error, overrides)) from None
        combinations = [[o for o in combination if not _is_hydras(o)] for combination in combinations]
    else:
        combinations = [[*space.fixed, *probe] for probe in space.probes()]
    points, faults = [], []
    for combination in combinations:
        try:
            own = [override for override in combination if override.partition("=")[0] in axes]
            points += _repeats(combination, own, sweep.seeds, config_dir)
        except ConfigError as error:
            faults += [fault for fault in error.faults if fault not in faults]
    if faults:
        raise ConfigError(faults)
    if sweep.seeds > 1:
        axes = [*axes, "seed"]
    base_key = _base_key(config, axes if space is None else [f"{axis.key}: {axis}" for axis in space.axes])
    if sweep.name is None:
        config.sweep.name = sweep.name = f"{slug(str(config.name))}-{base_key[:6]}"
    _folder(config, "hydra.sweep.dir")
    sweep_dir = Path(_resolved(config, "hydra.sweep.dir"))
    processes = min(_processes(config), len(points) if space is None else space.n_jobs)
    elsewhere = str(config.hydra.launcher._target_).endswith((".SlurmLauncher", ".RayLauncher"))
    return Plan(tuple(points), sweep, sweep_dir, tuple(axes), base_key, space, processes, elsewhere=elsewhere)


def _folder(config: DictConfig, key: str) -> Path | None:
    """A folder that can be made and written to, before anything is loaded; None where Hydra names it as it runs."""
    try:
        text = str(OmegaConf.select(config, key))
    except OmegaConfBaseException:  # such as ${hydra.job.id}
        return None
    if not text:
        raise ConfigError(Fault(key, "needs a value", allowed="a folder, there or not"))
    path = Path(text).absolute()
    # Unlike Path.exists, this answers for names that no folder can have.
    above = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if not above.is_dir():
        problem = "is no folder" if above == path else f"lies below {above}, which is no folder"
    elif not os.access(above, os.W_OK | os.X_OK):
        problem = "cannot be written to" if above == path else f"cannot be made: {above} cannot be written to"
    elif any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
        problem = f"has a name of more than {LONGEST_NAME} bytes in it"
    else:
        return path
    raise ConfigError(Fault(key, problem, str(path), fix="name another folder"))


def _space(config: DictConfig, overrides: Sequence[Override], sweep: SweepConf) -> Space:
    if sweep.seeds > 1:
        fix = "leave it out; repeat the best points afterwards, as a sweep of their own"
        raise ConfigError(Fault("sweep.seeds", "cannot repeat the points of a search", str(sweep.seeds), "1", fix))
    fixed = [o.input_line or "" for o in overrides if not o.is_sweep_override()]
    axes = [override for override in overrides if override.is_sweep_override()]
    return build_space(config, axes, [override for override in fixed if not _is_hydras(override)])


def _processes(config: DictConfig) -> int:
    """Of the joblib launcher, which counts negative numbers back from all cores; others bring their own GPUs or have none."""
    jobs = _resolved(config, "hydra.launcher.n_jobs") or 1
    if not isinstance(jobs, int):
        raise ConfigError(Fault("hydra.launcher.n_jobs", "has the wrong type", str(jobs), allowed="a whole number"))
    return jobs if jobs > 0 else max((os.cpu_count() or 1) + 1 + jobs, 1)


def _resolved(config: DictConfig, key: str) -> Any:
    """What the plan itself needs to know of Hydra's node, before any point runs; None if there is no such key."""
    try:
        return OmegaConf.select(config, key)
    except OmegaConfBaseException as error:
        raise ConfigError(resolution_fault(error, key)) from None


def _is_hydras(override: str) -> bool:
    """Overrides of Hydra itself are in force for the whole sweep already; `sweep.*` is no part of a point."""
    return override.lstrip("+~").startswith(("hydra.", "hydra/", "sweep."))


def _repeats(combination: list[str], own: list[str], seeds: int, config_dir: Path | None) -> list[Point]:
    """A combination once per seed."""
    conf = load_run_conf(combination, config_dir)
    if seeds == 1:
        return [Point(tuple(own), conf, tuple(combination))]
    points = []
    for seed in range(conf.seed, conf.seed + seeds):
        command = [*(override for override in combination if not override.startswith("seed=")), f"seed={seed}"]
        points.append(Point((*own, f"seed={seed}"), replace(conf, seed=seed), tuple(command)))
    return points


def _base_key(config: DictConfig, axes: Sequence[str]) -> str:
    """A hash of what is composed without any axis, interpolations as they stand, so that it names no machine."""
    kept = [str(key) for key in config if key not in ("hydra", "sweep", "seed")]
    config = OmegaConf.masked_copy(config, kept)
    values = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
    names = sorted(axis for axis in axes if axis != "seed")
    return hashlib.sha256(json.dumps([values, names], sort_keys=True, default=str).encode()).hexdigest()[:16]


# Keys that change nothing of what is trained or measured.
WITHOUT_EFFECT = ("name", "tracking", "hub", "generation", "hydra", "sweep")


def _refuse_axes(axes: Sequence[str], sweep: SweepConf) -> None:
    """Axes that say nothing about the model, and seeds asked for twice."""
    faults = [
        Fault(axis, "has no effect on what is trained, so its points would be the same", fix="give it one value")
        for axis in axes
        if axis.lstrip("+").replace("/", ".").partition(".")[0] in WITHOUT_EFFECT
    ]
    if "seed" in axes and sweep.seeds > 1:
        faults.append(Fault("sweep.seeds", "and an axis `seed` repeat points twice", str(sweep.seeds), fix="keep one"))
    if faults:
        raise ConfigError(faults)


def _parse(overrides: list[str]) -> list[Override]:
    if faults := credential_faults(overrides):  # before anything quotes them
        raise ConfigError(faults)
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
    """Other sweepers know neither the sweep's folder nor its record."""
    target = str(config.hydra.sweeper._target_)
    if not target.endswith(".PlannedSweeper") and not is_search(config):
        fix = "leave out hydra/sweeper, or hydra/sweeper=optuna"
        raise ConfigError(Fault("hydra/sweeper", "cannot be planned", target, allowed="planned, optuna", fix=fix))


def _refuse_sweep_values(overrides: list[str]) -> None:
    parsed = _parse(overrides)
    swept = [override.input_line.partition("=") for override in parsed if override.is_sweep_override()]
    if not swept:
        swept = [line.partition("=") for line in overrides if line.startswith("sweep.")]
        if swept:
            raise ConfigError([Fault(key, "belongs to a sweep", value, fix="add -m") for key, _, value in swept])
    if swept:
        raise ConfigError([Fault(key, "several values make a sweep", value, fix="add -m") for key, _, value in swept])
