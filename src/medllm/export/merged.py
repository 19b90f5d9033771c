"""A whole model: the adapter in its base's weights. Itself an artifact, and what the other whole forms are made of."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from medllm.artifact import MANIFEST, Artifact, load_artifact, seal, sha256, write_json
from medllm.config.export import Format, Onto
from medllm.config.lora import NoAdapterConf
from medllm.config.quantization import NoQuantizationConf
from medllm.console import say
from medllm.errors import ArtifactError
from medllm.export.proof import Proof
from medllm.models.base import Tokenizer
from medllm.models.merge import merge

# What goes with the weights, whatever their form.
BESIDE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)


def copy(artifact: Artifact, names: tuple[str, ...], folder: Path) -> None:
    """Copies those of the artifact's files that it has."""
    for name in names:
        if (artifact.folder / name).is_file():
            shutil.copyfile(artifact.folder / name, folder / name)


def write_merged(artifact: Artifact, tokenizer: Tokenizer, onto: Onto, folder: Path) -> None:
    """A model folder as transformers takes it: merged weights, config, tokenizer, generation defaults."""
    copy(artifact, BESIDE, folder)
    run = artifact.conf
    config = merge(run, artifact.folder, folder, onto, lambda done, of: say("merge", f"{done} of {of} files"))
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(tokenizer.tokenizer, name))
    config.dtype = run.model.dtype.value
    config.save_pretrained(folder)


def seal_merged(artifact: Artifact, onto: Onto, proof: Proof, tolerance: float, folder: Path) -> None:
    """Makes an artifact of a merged model that was proven."""
    description = {k: v for k, v in artifact.manifest.items() if k not in ("files", "format", "created", "medllm")}
    single = folder / "model.safetensors"
    description |= {
        "kind": "full",
        "weights_sha256": sha256(single) if single.is_file() else "",
        "merged": {
            "from_manifest_sha256": sha256(artifact.folder / MANIFEST),
            "onto": onto.value,
            "proof": {**asdict(proof), "tolerance": tolerance},
        },
    }
    write_json(folder / "metrics.json", {})  # they were measured on the artifact, and stand there
    seal(folder, replace(artifact.conf, lora=NoAdapterConf(), quantization=NoQuantizationConf()), description)


@contextlib.contextmanager
def whole_model(artifact: Artifact, tokenizer: Tokenizer, onto: Onto, output: Path) -> Iterator[Path]:
    """The folder of a whole model: the artifact's own, or `merged` beside, or one that is merged for the while."""
    if not artifact.is_adapter:
        yield artifact.folder
        return
    exported = output / Format.merged.value
    if _is_merged_of(artifact, onto, exported):
        yield exported
        return
    work = output / ".whole.partial"
    work.mkdir()
    try:
        write_merged(artifact, tokenizer, onto, work)
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _is_merged_of(artifact: Artifact, onto: Onto, folder: Path) -> bool:
    if not folder.is_dir():
        return False
    try:
        merged = load_artifact(folder).manifest.get("merged", {})
    except ArtifactError:
        return False
    return (merged.get("from_manifest_sha256"), merged.get("onto")) == (sha256(artifact.folder / MANIFEST), onto.value)
