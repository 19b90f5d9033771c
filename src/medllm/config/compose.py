"""From a command line to checked configurations: one for a run, one per point for a sweep."""

from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medllm.config.chat import ChatConf
from medllm.config.conf import Conf
from medllm.config.credentials import credential_faults, secret_faults
from medllm.config.evaluation import EvaluateConf
from medllm.config.export import ExportConf
from medllm.config.hydra_keys import hydra_faults
from medllm.config.publish import PublishConf
from medllm.config.review import CreateReviewConf
from medllm.config.run import RootConf, RunConf
from medllm.config.serve import ServeConf
from medllm.config.store import SCHEMAS, project_root
from medllm.config.targets import target_faults
from medllm.config.ui import UiConf
from medllm.config.validate import added_whole, choice_faults, explain, to_conf, to_run_conf
from medllm.errors import ConfigError, Fault

Root = TypeVar("Root", bound=Conf)

# What each file at the head of `conf/` composes.
ROOTS: dict[str, type] = {
    "train": RootConf,
    "evaluate": EvaluateConf,
    "review": CreateReviewConf,
    "chat": ChatConf,
    "export": ExportConf,
    "serve": ServeConf,
    "publish": PublishConf,
    "ui": UiConf,
}


def compose_config(
    overrides: list[str], config_dir: Path | None = None, *, multirun: bool = False, config_name: str = "train"
) -> DictConfig:
    """The composed configuration with its `hydra` node, unresolved.

    Raises:
        ConfigError: naming what Hydra refused, what would name Python that does not belong here, what is a secret, or
            what Hydra could not use.
    """
    faults = credential_faults(overrides) or choice_faults(overrides, ROOTS[config_name])
    if faults:
        raise ConfigError(faults)
    running = GlobalHydra.instance().hydra  # a search composes while Hydra runs it
    GlobalHydra.instance().clear()
    # What trains is composed by Hydra itself, from the command line as it stands.
    typed = overrides if config_name == "train" else [added_whole(override) for override in overrides]
    mode = ["hydra.mode=MULTIRUN"] if multirun else []
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(config_dir or project_root() / "conf")):
            config = compose(config_name, overrides=[*typed, *mode], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, overrides, ROOTS[config_name])) from None
    except Exception as error:  # a file that is no YAML; an override without a key; whatever else Hydra did not foresee
        reason = " ".join(str(error).split()) or f"{type(error).__name__} in {' '.join(overrides)}"
        raise ConfigError(
            Fault("", f"cannot be composed: {reason}", fix="correct the file or override it names")
        ) from None
    finally:
        GlobalHydra.instance().hydra = running
    faults = target_faults(config) + secret_faults(config) or hydra_faults(config)
    if faults:
        raise ConfigError(faults)
    return config


def load_run_conf(overrides: list[str], config_dir: Path | None = None) -> RunConf:
    """One run's configuration, composed and checked as the command line `python train.py OVERRIDES` would.

    Raises:
        ConfigError: with every fault found.
    """
    return to_run_conf(compose_config(overrides, config_dir))


def load_conf(root: type[Root], overrides: list[str], config_dir: Path | None = None) -> Root:
    """What a script is to do, composed and checked.

    Args:
        root: Of `ROOTS`.
        overrides: As its command line has them.
        config_dir: Instead of `conf/`.

    Raises:
        ConfigError: with every fault found.
    """
    name = next(name for name, schema in ROOTS.items() if schema is root)
    return to_conf(compose_config(overrides, config_dir, config_name=name), root, root)


def resolved(conf: Conf) -> dict[str, Any]:
    """The whole configuration as plain values, enumerations by name."""
    return {field.name: _plain(getattr(conf, field.name)) for field in fields(conf)}


def _plain(value: Any) -> Any:
    """As `OmegaConf.to_container(OmegaConf.structured(value), enum_to_str=True)`, at a thirtieth of its time."""
    if isinstance(value, Conf):
        return resolved(value)
    if isinstance(value, dict):
        return {key: _plain(held) for key, held in value.items()}
    if isinstance(value, list):
        return [_plain(held) for held in value]
    return value.name if isinstance(value, Enum) else value


def run_conf_from_file(path: Path) -> RunConf:
    """A resolved configuration written by a run, as real objects.

    Each group's schema is recognised by its keys, so the file needs no type names. A key that came later than the file has its
    default.

    Raises:
        ConfigError: if the file is no such configuration.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if "${" in text:  # it would be resolved here, and may come from elsewhere: `${oc.env:HF_TOKEN}` in an address
            raise ConfigError(Fault(str(path), "is no resolved configuration: it holds an interpolation", "${...}"))
        if not text.endswith("\n"):
            raise ValueError("it is empty or cut off")
        values = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(text)))
        config = OmegaConf.structured(RunConf)
        for name, value in values.items():
            known = {kind: {f.name for f in fields(kind)} for kind in SCHEMAS.get(name, {}).values()}
            kinds = [kind for kind in known if set(value) <= known[kind]]
            nearest = min(kinds, key=lambda kind: len(known[kind]), default=None)
            config[name] = OmegaConf.merge(OmegaConf.structured(nearest), value) if nearest else value
        return to_run_conf(config)
    except (OSError, OmegaConfBaseException, AttributeError, TypeError, ValueError, yaml.YAMLError) as error:
        reason = str(error).strip().split("\n")[0]
        fix = "copy the run's artifact/config.yaml, or that of its run record, to its place"
        raise ConfigError(Fault(str(path), f"is no resolved configuration: {reason}", fix=fix)) from None
