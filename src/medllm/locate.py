"""From what people type to the folder or file that they mean."""

from pathlib import Path

from medllm.artifact import MANIFEST, sha256
from medllm.config.compose import load_conf
from medllm.config.evaluation import EvaluateConf
from medllm.config.paths import path_exists
from medllm.config.store import expanded, rooted
from medllm.config.tracking import TrackingConf
from medllm.errors import ConfigError, Fault
from medllm.tracking.build import folder_of_record
from medllm.tracking.registry import SCHEME, Registry, Version


def located(text: str) -> Path:
    """A path as it was typed, from where the command was typed; if nothing is there, from the project's root."""
    typed = expanded(text)
    return typed if path_exists(typed) else rooted(text)


def find_artifact(text: str, tracking: TrackingConf | None = None) -> Path:
    """The folder of the artifact that a user means.

    Args:
        text: A run's folder or its `artifact/` folder, relative to where the command was typed or to the project's root; the
            id of a run record; or `models:/name@alias` or `models:/name/version` of the model registry.
        tracking: Where ids and names are looked up, by default where `conf/evaluate.yaml` does.

    Raises:
        ConfigError: if it names none of these.
    """
    if text.startswith(SCHEME):
        store = tracking or _own_store()
        return folder_of_version(Registry(store).find(text), store)
    found = located(text)
    if path_exists(found):
        for place in (found, found / "artifact"):
            if (place / MANIFEST).is_file():
                return place.resolve()
        problem = f"is no artifact: it has no {MANIFEST}, nor has an artifact/ folder in it"
        fix = "a run that has finished: outputs/<date>/<time>-<name>"
        raise ConfigError(Fault("artifact", problem, text, fix=fix))
    recorded = _place_of(text, tracking or _own_store())
    if recorded is not None:
        return recorded
    allowed = "a run's folder, its artifact/ folder, the id of its run record, or models:/name@alias"
    raise ConfigError(Fault("artifact", "names no folder and no run record", text, allowed=allowed))


def _own_store() -> TrackingConf:
    return load_conf(EvaluateConf, ["artifact=any"]).tracking


def folder_of_version(version: Version, store: TrackingConf) -> Path:
    """The folder of a registered artifact.

    Raises:
        ConfigError: if it is gone, or another than the one that was registered.
    """
    name = f"{SCHEME}{version.name}/{version.number}"
    place = _place_of(version.run_id, store)
    if place is None:
        raise ConfigError(Fault("artifact", f"is of run {version.run_id}, whose record is gone", name))
    if sha256(place / MANIFEST) != version.manifest_sha256:
        raise ConfigError(Fault("artifact", f"is not what was registered: {place / MANIFEST} has changed", name))
    return place


def _place_of(run_id: str, store: TrackingConf) -> Path | None:
    """Of a run's artifact; None if the store does not have the run."""
    folder_name = folder_of_record(store, run_id)
    if not folder_name:
        return None
    place = rooted(folder_name) / "artifact"
    if not (place / MANIFEST).is_file():
        raise ConfigError(Fault("artifact", f"is a run without an artifact: {place} is not there", run_id))
    return place.resolve()
