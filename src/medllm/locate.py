"""From what people type to the folder or file that they mean."""

from pathlib import Path

from medllm.artifact import MANIFEST
from medllm.config.compose import load_evaluate_conf
from medllm.config.store import rooted
from medllm.config.tracking import TrackingConf
from medllm.errors import ConfigError, Fault
from medllm.tracking.build import folder_of_record


def located(text: str) -> Path:
    """A path as it was typed, from where the command was typed; if nothing is there, from the project's root."""
    typed = Path(text).expanduser()
    return typed if typed.exists() else rooted(text)


def find_artifact(text: str, tracking: TrackingConf | None = None) -> Path:
    """The folder of the artifact that a user means.

    Args:
        text: A run's folder or its `artifact/` folder, relative to where the command was typed or to the project's root; or the
            id of a run record.
        tracking: Where the id is looked up, by default where `conf/evaluate.yaml` does.

    Raises:
        ConfigError: if it names neither.
    """
    found = located(text)
    for place in (found, found / "artifact"):
        if (place / MANIFEST).is_file():
            return place.resolve()
    if found.exists():
        problem = f"is no artifact: it has no {MANIFEST}, nor has an artifact/ folder in it"
        fix = "a run that has finished: outputs/<date>/<time>-<name>"
        raise ConfigError(Fault("artifact", problem, text, fix=fix))
    folder_name = folder_of_record(tracking or load_evaluate_conf(["artifact=any"]).tracking, text)
    if folder_name:
        place = rooted(folder_name) / "artifact"
        if (place / MANIFEST).is_file():
            return place.resolve()
        raise ConfigError(Fault("artifact", f"is a run without an artifact: {place} is not there", text))
    allowed = "a run's folder, its artifact/ folder, or the id of its run record"
    raise ConfigError(Fault("artifact", "names no folder and no run record", text, allowed=allowed))
