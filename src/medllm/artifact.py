"""The artifact: a self-contained folder that chat, evaluation, serving and export start from.

artifact/
  adapter_model.safetensors, adapter_config.json    or, after full fine-tuning, model.safetensors, config.json
  tokenizer.json, tokenizer_config.json, chat_template.jinja
  generation_config.json    sampling defaults and stop tokens
  config.yaml               the run's whole configuration, resolved
  metrics.json              held-out metrics before and after, throughput
  samples.json              answers before and after
  label_proof.json          what was proven of the labels
  manifest.json             what it is, where it comes from, SHA-256 of every other file
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from medllm import __version__
from medllm.config.compose import resolved, run_conf_from_file
from medllm.config.paths import path_exists
from medllm.config.run import RunConf
from medllm.errors import ArtifactError, FolderError
from medllm.intact import parse_object, read_file
from medllm.run_folder import as_json

FORMAT = 1
MANIFEST = "manifest.json"

# Files that a library takes up by their names: each must be one that the manifest lists.
LOADED = (".safetensors", ".json", ".jinja", ".model", ".yaml", ".gguf")

# Files that run code when they are read: torch's and joblib's pickles, and Python itself. Nothing here writes any.
RUNNABLE = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".dill", ".py", ".pyc", ".so")

# What a manifest must say besides its format, for cards, exports and evaluations rely on it.
SAID: dict[str, type] = {
    "files": dict,
    "kind": str,
    "created": str,
    "weights_sha256": str,
    "run_id": str,
    "base": dict,
    "data.fingerprint": str,
    "code.commit": str,
    "versions": dict,
}


@dataclass(frozen=True)
class Artifact:
    """A verified artifact folder.

    Attributes:
        folder: Where it is.
        manifest: Kind, base, data, code, versions, files.
        conf: The configuration it was made with.
    """

    folder: Path
    manifest: dict[str, Any]
    conf: RunConf

    @property
    def is_adapter(self) -> bool:
        """Whether it needs its base model; otherwise it is a full model."""
        return bool(self.manifest["kind"] == "adapter")


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_text(value: Any) -> str:
    """Indented, sorted JSON; null for what is no finite number."""
    return json.dumps(as_json(value), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """A file of `json_text`."""
    path.write_text(json_text(value), encoding="utf-8")


def resolved_yaml(conf: RunConf) -> str:
    """The whole configuration as YAML, without interpolations."""
    return yaml.safe_dump(resolved(conf), sort_keys=False, allow_unicode=True)


def seal(folder: Path, conf: RunConf, description: dict[str, Any]) -> Path:
    """Writes config and manifest into a folder whose other files are complete.

    Args:
        folder: Holds model, tokenizer and the JSON files.
        conf: The run's configuration.
        description: `kind` (adapter or full), `base`, `data`, `code`, `versions`.
    """
    (folder / "config.yaml").write_text(resolved_yaml(conf), encoding="utf-8")
    files = {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    created = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = {"format": FORMAT, "medllm": __version__, "created": created, **description, "files": files}
    write_json(folder / MANIFEST, manifest)
    return folder


def load_artifact(folder: Path | str) -> Artifact:
    """Opens an artifact and verifies every byte of it.

    Raises:
        ArtifactError: if it is none, or naming each file that is missing, damaged, not listed, or of a kind that runs code.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file() and (folder / "artifact" / MANIFEST).is_file():
        folder = folder / "artifact"
    if not (folder / MANIFEST).is_file():
        raise ArtifactError(f"{folder} is no artifact: it has no {MANIFEST}")
    manifest = _read_manifest(folder / MANIFEST)
    files = manifest["files"]
    damaged = [name for name, digest in sorted(files.items()) if not _intact(folder, name, digest)]
    if damaged:
        raise ArtifactError(f"{folder} is damaged: {', '.join(damaged)}")
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())
    loaded = [
        x for x in found if Path(x).suffix.lower() in LOADED and not x.startswith(".")
    ]  # the hub's client keeps .cache/
    unlisted = [name for name in loaded if name not in files and name != MANIFEST]
    if unlisted:
        raise ArtifactError(
            f"{folder} holds what its {MANIFEST} does not list: {', '.join(unlisted)}\n    fix: move it elsewhere"
        )
    runnable = [name for name in found if Path(name).suffix.lower() in RUNNABLE]
    if runnable:
        raise ArtifactError(
            f"{folder} holds what may run code when it is read: {', '.join(runnable)}\n"
            "    allowed: safetensors, JSON, YAML and text\n    fix: take the artifact from who trained it, or train it again"
        )
    return Artifact(folder, manifest, run_conf_from_file(folder / "config.yaml"))


def _read_manifest(path: Path) -> dict[str, Any]:
    """A manifest that says all of `SAID`."""
    fix = "take the artifact from who trained it, or train it again"
    try:
        manifest = read_file(path, parse_object, fix)
    except FolderError as error:
        raise ArtifactError(str(error)) from None
    if manifest.get("format") != FORMAT:
        raise ArtifactError(
            f"{path.parent}: format {manifest.get('format')} is not {FORMAT}; it was written by another version"
        )
    lacking = [key for key, kind in SAID.items() if not isinstance(_of(manifest, key), kind)]
    if lacking:
        raise ArtifactError(f"{path} is damaged: it does not say {', '.join(lacking)}\n    fix: {fix}")
    return manifest


def _of(manifest: dict[str, Any], key: str) -> Any:
    """The value of a dotted key; None where there is none."""
    value: Any = manifest
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _intact(folder: Path, name: str, digest: str) -> bool:
    path = folder / name
    inside = not Path(name).is_absolute() and ".." not in Path(name).parts
    return inside and path_exists(path) and path.is_file() and sha256(path) == digest
