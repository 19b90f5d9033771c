"""What is sent: files of the artifact that are on the list, its card, and nothing else.

The configuration is sent without what is this machine's: addresses of stores, folders, and sample prompts of the user's own. Its
manifest, and that of an adapter's base, follow; the published manifest names the one that it was made of, which is the one that
cards, evaluations and reviews name.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import yaml

from medllm.artifact import MANIFEST, json_text
from medllm.card.facts import CARD, Facts
from medllm.card.write import NOTICE, card_texts
from medllm.config.compose import resolved
from medllm.config.hub import HubConf
from medllm.config.model import PretrainedModelConf
from medllm.config.store import project_root
from medllm.hub import HubFile

CONFIG, ADAPTER_CONFIG, LICENSE = "config.yaml", "adapter_config.json", "LICENSE"

# What an artifact may send. Not among them: samples.json, for it holds what patients were answered.
WEIGHTS = re.compile(r"[\w-][\w.-]*\.safetensors(?:\.index\.json)?")
NAMES = (
    ADAPTER_CONFIG,
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    CONFIG,
    "generation_config.json",
    "label_proof.json",
    MANIFEST,
    "merges.txt",
    "metrics.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)

# Keys of a configuration whose values may be places on this machine.
PLACES = ("path", "benchmarks", "resume_from_checkpoint", "pretrained_model_name_or_path", "wheel")


def is_of_an_artifact(name: str) -> bool:
    """Whether a file of this name may be sent, and is removed from a repository whose artifact has it no longer."""
    return name in NAMES or WEIGHTS.fullmatch(name) is not None


def files_to_publish(facts: Facts) -> tuple[list[HubFile], dict[str, str]]:
    """Every file as it is sent, by name; and those that stay here, with the reason."""
    artifact = facts.artifact
    texts = dict(card_texts(facts))
    if NOTICE not in texts and (facts.run_folder / CARD / NOTICE).is_file():
        texts[NOTICE] = (facts.run_folder / CARD / NOTICE).read_text(encoding="utf-8", errors="replace")
    if (license_text := _license_text(facts)) is not None:
        texts[LICENSE] = license_text
    listed = {name: digest for name, digest in artifact.manifest["files"].items() if is_of_an_artifact(name)}
    changed = _changed(facts)
    files = [_of_bytes(name, text.encode()) for name, text in texts.items()]
    files += [_of_bytes(name, content) for name, content in changed.items()]
    files += [
        HubFile(name, artifact.folder / name, (artifact.folder / name).stat().st_size, digest)
        for name, digest in listed.items()
        if name not in changed
    ]
    digests = {file.name: file.sha256 for file in files if file.name in listed}
    files.append(_of_bytes(MANIFEST, json_text(_manifest(facts, digests)).encode()))
    left_out = {}
    for path in sorted(artifact.folder.rglob("*")):
        name = path.relative_to(artifact.folder).as_posix()
        if path.is_file() and name not in listed and name != MANIFEST:
            named = name in artifact.manifest["files"]
            left_out[name] = "is not published" if named else "is no file of the artifact"
    return sorted(files, key=lambda file: file.name), left_out


def has_local_base(facts: Facts) -> bool:
    """Whether the artifact knows its base by a folder of this machine."""
    model = facts.artifact.conf.model
    return isinstance(model, PretrainedModelConf) and _is_place(model.pretrained_model_name_or_path)


def _license_text(facts: Facts) -> str | None:
    """Of the base's licence: as it lies beside the card, or this project's own copy where that is the same licence."""
    beside = facts.run_folder / CARD / LICENSE
    own = project_root() / LICENSE if facts.licence.id == "apache-2.0" else beside
    found = next((path for path in (beside, own) if path.is_file()), None)
    return None if found is None else found.read_text(encoding="utf-8", errors="replace")


def _changed(facts: Facts) -> dict[str, bytes]:
    """Files of the artifact that hold what is this machine's, without it."""
    artifact, base = facts.artifact, facts.base if has_local_base(facts) else None
    values = resolved(artifact.conf)
    shipped = yaml.safe_load((project_root() / "conf/generation/default.yaml").read_text("utf-8"))["sample_prompts"]
    values["tracking"], values["hub"] = {}, resolved(HubConf())
    values["generation"]["sample_prompts"] = [
        prompt for prompt in values["generation"]["sample_prompts"] if prompt in shipped
    ]
    if base:
        values["model"]["pretrained_model_name_or_path"] = base
    found = {CONFIG: yaml.safe_dump(_without_places(values), sort_keys=False, allow_unicode=True).encode()}
    if base and ADAPTER_CONFIG in artifact.manifest["files"]:
        adapter = json.loads((artifact.folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        found[ADAPTER_CONFIG] = json_text({**adapter, "base_model_name_or_path": base}).encode()
    return found


def _manifest(facts: Facts, digests: dict[str, str]) -> dict[str, Any]:
    """Of what is published."""
    manifest = dict(facts.artifact.manifest)
    if has_local_base(facts):
        manifest["base"] = {**manifest["base"], "name": facts.base}
    return {**manifest, "files": digests, "published": {"from_manifest_sha256": facts.manifest_sha256}}


def _without_places(value: Any, key: str = "") -> Any:
    """A configuration whose files are named without their folders, where these are this machine's."""
    if isinstance(value, dict):
        return {name: _without_places(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_places(item, key) for item in value]
    return Path(value).name if key in PLACES and isinstance(value, str) and _is_place(value) else value


def _is_place(text: str) -> bool:
    """Whether this is a path that only this machine has, rather than a hub's id or a file of the project."""
    return text.startswith(("/", "~", ".")) or Path(text).is_dir()


def _of_bytes(name: str, content: bytes) -> HubFile:
    return HubFile(name, content, len(content), hashlib.sha256(content).hexdigest())
