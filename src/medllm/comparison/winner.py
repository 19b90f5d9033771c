"""The winner as an experiment: a file that makes the same run again, proved before it is kept."""

from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf

from medllm.comparison.runs import leaves
from medllm.comparison.statistics import Candidate, Comparison
from medllm.config.compose import compose_config, load_run_conf, resolved, run_conf_from_file
from medllm.config.store import project_root, slug
from medllm.errors import ConfigError, Fault, MedLLMError
from medllm.intervals import Interval

# Where a run is recorded and uploaded belongs to the machine and to the person, not to the experiment.
NOT_THE_EXPERIMENTS = ("name", "tracking", "hub")


def require_name(name: str) -> None:
    """Refuses what is no name of an experiment.

    Raises:
        ConfigError: naming what a name may hold.
    """
    if not name or slug(name) != name:
        allowed = "at most 120 letters, digits, '.', '-', '_', '=' and ',', the first and the last no '.' or '-'"
        raise ConfigError(Fault("winner", "is no name of an experiment", name, allowed=allowed, fix="winner=best"))


def write_winner(comparison: Comparison, name: str, config_dir: Path | None = None) -> Path:
    """Writes `conf/experiment/<name>.yaml`, and composes it to prove that it is the winner's configuration.

    Args:
        comparison: With a winner.
        name: Of the experiment.
        config_dir: Instead of the project's `conf/`.

    Raises:
        ConfigError: if the name is none.
        MedLLMError: if there is no winner, if the file holds something else, or if it does not compose to the winner.
    """
    if comparison.winner is None:
        raise MedLLMError("there is no winner: no run has finished")
    require_name(name)
    config_dir = config_dir or project_root() / "conf"
    path = config_dir / "experiment" / f"{name}.yaml"
    run = comparison.winner.runs[0]
    if not run.choices:
        raise MedLLMError(f"{run.folder}: its result names no options of groups, so no experiment can be made of it")
    target = _comparable(resolved(run_conf_from_file(run.folder / "config.yaml")))
    text = _header(comparison, comparison.winner, name) + _body(run.choices, target, name, config_dir)
    if path.exists():
        if path.read_text(encoding="utf-8") != text:
            raise MedLLMError(f"{path}: exists and holds something else; choose another name")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        try:
            _prove(name, target, config_dir)
        except BaseException:
            path.unlink()
            raise
        return path
    _prove(name, target, config_dir)
    return path


def _prove(name: str, target: dict[str, Any], config_dir: Path) -> None:
    """Without the machine's own values, which the file must not depend on."""
    made = _comparable(resolved(load_run_conf([f"experiment={name}", "~local"], config_dir)))
    wrong = [key for key in {**target, **made} if made.get(key) != target.get(key) or (key in made) != (key in target)]
    if wrong:
        shown = "; ".join(f"{key} is {made.get(key)!r} and was {target.get(key)!r}" for key in wrong[:5])
        raise MedLLMError(f"experiment={name} does not compose to the run it was made from: {shown}")


def _comparable(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in leaves(config).items() if key.partition(".")[0] not in NOT_THE_EXPERIMENTS}


def _body(choices: dict[str, str], target: dict[str, Any], name: str, config_dir: Path) -> str:
    """Options of groups, and then only what they do not say already."""
    options = {group: option for group, option in choices.items() if group not in NOT_THE_EXPERIMENTS}
    composed = compose_config([*(f"{group}={option}" for group, option in options.items()), "~local"], config_dir)
    plain = OmegaConf.masked_copy(composed, [str(key) for key in composed if key not in ("hydra", "sweep")])
    base = leaves(cast(dict[str, Any], OmegaConf.to_container(plain, resolve=True, enum_to_str=True)))
    nested: dict[str, Any] = {"name": name}
    for key, value in target.items():
        if key not in base or base[key] != value:
            *parents, last = key.split(".")
            node = nested
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = value
    defaults = "".join(f"  - override /{group}: {option}\n" for group, option in options.items())
    return f"defaults:\n{defaults}" + yaml.safe_dump(nested, sort_keys=False, allow_unicode=True, width=110)


def _header(comparison: Comparison, winner: Candidate, name: str) -> str:
    def shown(interval: Interval | None, by: str) -> str:
        return f", 95 % {interval.low:.4f} to {interval.high:.4f} by {by}" if interval else ""

    loss = f"{winner.loss:.4f}{shown(winner.interval, 'conversations')}{shown(winner.seed_interval, 'seeds')}"
    tied = 1 + sum(bool(candidate.tied) for candidate in comparison.candidates[1:])
    chosen = f"the smallest of {tied} that cannot be told from the best" if tied > 1 else "the lowest loss"
    lines = [
        f"Chosen out of {len(comparison.candidates)} candidates of {comparison.runs.name}: {chosen}.",
        f"{winner.label}",
        f"Held-out loss {loss}.",
        f"python train.py experiment={name}",
    ]
    return "# @package _global_\n" + "".join(f"# {' '.join(line.split())}\n" for line in lines)
