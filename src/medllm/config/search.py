"""The space of a search: axes as Hydra writes them, and how the search is run (`hydra/sweeper=optuna`)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medllm.config.conf import Conf, ranged
from medllm.errors import ConfigError, Fault

SWEEPER = ".OptunaSweeper"
DIGITS = 4  # of a number drawn from an interval: more would change nothing but the length of its folder's name
LARGEST_GRID = 10_000


class Pruner(Enum):
    """What stops a point that does worse than the others did."""

    median = "median"
    none = "none"


@dataclass
class TpeConf(Conf):
    """Of `optuna.samplers.TPESampler`.

    Attributes:
        n_startup_trials: Trials drawn at random before it learns from them.
    """

    n_startup_trials: int = ranged(10, ge=0)


@dataclass
class MedianConf(Conf):
    """Of `optuna.pruners.MedianPruner`.

    Attributes:
        n_startup_trials: Trials that end before the first one is pruned.
        n_warmup_steps: Optimizer steps of every trial in which it is not pruned.
    """

    n_startup_trials: int = ranged(5, ge=0)
    n_warmup_steps: int = ranged(0, ge=0)


@dataclass
class SearchConf(Conf):
    """The node `hydra.sweeper` of a search.

    Attributes:
        n_trials: Points in all, those of earlier starts included.
        n_jobs: Points at once; null takes `hydra.launcher.n_jobs` where the launcher has it, else 1.
        seed: Of the sampler.
        tpe: The sampler.
        pruner: `median` or `none`.
        median: The pruner.
        params: Axes kept in a file, as `conf/sweep/` has them.
    """

    n_trials: int = ranged(20, ge=1)
    n_jobs: int | None = ranged(None, ge=1)
    seed: int = ranged(65, ge=0, lt=2**31)
    tpe: TpeConf = field(default_factory=TpeConf)
    pruner: Pruner = Pruner.median
    median: MedianConf = field(default_factory=MedianConf)
    params: dict[str, Any] | None = None


@dataclass(frozen=True)
class Axis:
    """One dimension of the space: choices, or numbers between two ends.

    Attributes:
        key: Dotted path, or a group.
        choices: As written; empty for numbers.
        low: Lower end.
        high: Upper end, inclusive.
        step: Between whole numbers; None for real ones.
        log: Whether equal ratios are equally likely, instead of equal differences.
    """

    key: str
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    step: int | None = None
    log: bool = False

    def text(self, value: Any) -> str:
        """A value as it stands on the command line."""
        if self.choices or self.step is not None:
            return str(value)
        return repr(min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high))

    def values(self) -> list[Any]:
        """All of them; empty where they cannot be counted."""
        if self.step is None:
            return list(self.choices)
        return list(range(int(self.low), int(self.high) + 1, self.step))

    def probes(self) -> list[str]:
        """Values to check before the search starts: one from the middle, then every choice or both ends."""
        found = self.values()
        center = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        middle = found[len(found) // 2] if found else center
        ends = self.choices or (self.low, self.high) if self.step is None else (int(self.low), int(self.high))
        return list(dict.fromkeys(self.text(value) for value in (middle, *ends)))

    def __str__(self) -> str:
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        scale = " on a logarithmic scale" if self.log else ""
        step = f" in steps of {self.step}" if self.step not in (None, 1) else ""
        kind = "" if self.step is None else "whole numbers "
        ends = f"{self.text(self.low)} to {self.text(self.high)}"
        return f"{kind}{ends}{step}{scale}"


@dataclass(frozen=True)
class Space:
    """What a search draws its points from, and how.

    Attributes:
        conf: How.
        axes: In the order of the command line.
        fixed: Overrides that all points share.
        n_jobs: Points at once.
    """

    conf: SearchConf
    axes: tuple[Axis, ...]
    fixed: tuple[str, ...]
    n_jobs: int

    def overrides(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """What distinguishes a point."""
        return tuple(f"{axis.key}={axis.text(values[axis.key])}" for axis in self.axes)

    def probes(self) -> list[tuple[str, ...]]:
        """Points to check before the search starts: a representative one, then each axis at each of its probes."""
        middle = {axis.key: axis.probes()[0] for axis in self.axes}
        others = [{**middle, axis.key: probe} for axis in self.axes for probe in axis.probes()[1:]]
        return [tuple(f"{key}={text}" for key, text in values.items()) for values in (middle, *others)]

    @property
    def size(self) -> float:
        """How many points there are; infinite where an axis is continuous."""
        return math.prod(len(axis.values()) or math.inf for axis in self.axes)


def is_search(config: DictConfig) -> bool:
    """Whether a composed configuration asks for a search."""
    return str(config.hydra.sweeper._target_).endswith(SWEEPER)


def to_search_conf(config: DictConfig) -> SearchConf:
    """The `hydra.sweeper` node of a composed configuration as a real object.

    Raises:
        ConfigError: if a key or a value is wrong.
    """
    node = OmegaConf.to_container(config.hydra.sweeper)
    assert isinstance(node, dict)
    faults: list[Fault] = []
    for name in {"tpe", "median"} & node.keys():  # OmegaConf makes nested objects first and would tell only their names
        try:
            OmegaConf.to_object(OmegaConf.merge(getattr(OmegaConf.structured(SearchConf), name), node[name]))
        except ConfigError as error:
            faults += [_below(fault, f"hydra.sweeper.{name}") for fault in error.faults]
        except (OmegaConfBaseException, ValueError) as error:
            faults.append(_unfit(error, f"hydra.sweeper.{name}"))
    if faults:
        raise ConfigError(faults)
    try:
        values = {str(key): value for key, value in node.items() if key != "_target_"}
        conf = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SearchConf), values))
    except ConfigError as error:
        raise ConfigError([_below(fault, "hydra.sweeper") for fault in error.faults]) from None
    except OmegaConfBaseException as error:
        raise ConfigError(_unfit(error, "hydra.sweeper")) from None
    assert isinstance(conf, SearchConf)
    return conf


def _below(fault: Fault, node: str) -> Fault:
    return Fault(f"{node}.{fault.key}", fault.problem, fault.value, fault.allowed, fault.fix)


def _unfit(error: Exception, node: str) -> Fault:
    name = str(getattr(error, "full_key", "") or "")
    reason = str(error).strip().split("\n")[0]
    allowed = ", ".join(member.name for member in Pruner) if name == "pruner" else ""
    return Fault(f"{node}.{name}".rstrip("."), reason[:1].lower() + reason[1:], allowed=allowed)


def build_space(config: DictConfig, overrides: Sequence[Override], fixed: Sequence[str]) -> Space:
    """Reads the space off a command line.

    Args:
        config: Composed without any axis, with its `hydra` node.
        overrides: The axes.
        fixed: What all points share.

    Raises:
        ConfigError: with the faults of all axes.
    """
    conf = to_search_conf(config)
    axes: list[Axis] = []
    faults: list[Fault] = []
    for override in overrides:
        try:
            axes.append(_axis(override))
        except ConfigError as error:
            faults += error.faults
    if not overrides:
        example = "lora.r=4,8,16 'trainer.learning_rate=tag(log, interval(1e-5, 1e-3))'"
        faults.append(Fault("hydra/sweeper", "needs something to search", "optuna", fix=f"add axes: {example}"))
    if faults:
        raise ConfigError(faults)
    n_jobs = conf.n_jobs
    if n_jobs is None:
        own = OmegaConf.select(config, "hydra.launcher.n_jobs")
        n_jobs = own if isinstance(own, int) and own > 0 else 1
    return Space(conf, tuple(axes), tuple(fixed), n_jobs)


def _axis(override: Override) -> Axis:
    key, value, written = override.get_key_element(), override._value, str(override.input_line).partition("=")[2]
    tags = set(getattr(value, "tags", ()))
    faults = [Fault(key, f"has a tag that means nothing here: {tag}", written, "log") for tag in tags - {"log"}]
    if faults:
        raise ConfigError(faults)
    log = "log" in tags
    axis = None
    if isinstance(value, IntervalSweep):
        assert value.start is not None and value.end is not None
        whole = isinstance(value.start, int) and isinstance(value.end, int)  # int(interval(4, 16))
        axis = Axis(key, low=value.start, high=value.end, step=1 if whole else None, log=log)
    elif isinstance(value, RangeSweep) and isinstance(found := value.range(), range) and found.step > 0 and len(found):
        axis = Axis(key, low=found[0], high=found[-1], step=found.step, log=log)
    if axis is None:
        choices = tuple(dict.fromkeys(override.sweep_string_iterator()))
        if not choices:
            raise ConfigError(Fault(key, "holds no value", written))
        if log:
            fix = "leave the tag out, or write an interval"
            raise ConfigError(Fault(key, "has no logarithmic scale: these are choices", written, fix=fix))
        return Axis(key, choices)
    if not (math.isfinite(axis.low) and math.isfinite(axis.high) and axis.low < axis.high):
        raise ConfigError(Fault(key, "holds nothing to search", written, allowed="a lower end below the upper one"))
    if log and axis.low <= 0:
        raise ConfigError(Fault(key, "cannot be logarithmic", written, allowed="a lower end above 0"))
    if log and axis.step not in (None, 1):
        raise ConfigError(
            Fault(key, "cannot be logarithmic and in steps", written, fix="leave the tag or the step out")
        )
    return axis
