"""Writes an artifact's other forms, each whole or not at all."""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medllm.artifact import MANIFEST, Artifact, load_artifact, sha256, write_json
from medllm.config.export import ExportConf, Format
from medllm.config.paths import path_exists
from medllm.errors import ConfigError, Fault
from medllm.export.gguf_file import About, check_convertible, check_ids, file_name, load_config, load_gguf, write_gguf
from medllm.export.merged import BESIDE, copy, seal_merged, whole_model, write_merged
from medllm.export.ollama import modelfile
from medllm.export.proof import Proof
from medllm.export.reference import Reference
from medllm.licences import Licence, base_licence, base_name, lawful_name
from medllm.models.base import build_model_config, load_full_model
from medllm.models.merge import check_mergeable
from medllm.review.approval import review_status
from medllm.run_folder import lock_folder
from medllm.storage import whole_folder
from medllm.tracking.saved_model import load_saved_model, save_model

ADAPTER = ("adapter_model.safetensors", "adapter_config.json")
GGUF = (Format.gguf_f16, Format.gguf_q8_0)
# What a form that is no artifact says of where it comes from.
EXPORTED = "export.json"


def export(conf: ExportConf, artifact_folder: Path, output: Path) -> dict[str, tuple[Path, Proof | None]]:
    """Writes the forms asked for; returns where each is, and its proof where something was computed.

    Args:
        conf: What is asked for.
        artifact_folder: The artifact's own.
        output: Gets a folder for each form.

    Raises:
        ArtifactError: if the artifact is damaged.
        ConfigError: if a form cannot be made of this artifact, or its folder exists.
        ExportError: if what came out is not the same model; nothing is left of that form then.
        ModelError: if the base cannot be found, or is of a kind that a form cannot hold.
    """
    artifact = load_artifact(artifact_folder)
    reference = Reference(conf, artifact)
    _check(conf, artifact, reference, output)
    found: dict[str, tuple[Path, Proof | None]] = {}
    with _alone(output), contextlib.ExitStack() as stack:
        whole = functools.cache(
            lambda: stack.enter_context(whole_model(artifact, reference.tokenizer, conf.onto, output))
        )
        for kind in (kind for kind in Format if kind in conf.formats):  # merged first: others are made of it
            with whole_folder(output / kind.value) as work:
                proof = None
                if kind is Format.merged:
                    proof = _merged(conf, artifact, reference, work)
                elif kind is Format.adapter:
                    copy(artifact, (*ADAPTER, *BESIDE), work)
                elif kind in GGUF:
                    proof = _gguf(conf, artifact, whole(), reference, kind, work)
                else:
                    proof = _mlflow(conf, artifact, whole(), reference, work)
            found[kind.value] = (output / kind.value, proof)
    return found


@contextlib.contextmanager
def _alone(output: Path) -> Iterator[None]:
    """The folder for this process.

    Raises:
        ConfigError: if it cannot be written to, or another process does.
    """
    fix = "wait for it, or name another folder: output=FOLDER"
    lock = lock_folder(output, Fault("output", "is being written by another process", str(output), fix=fix))
    try:
        yield
    finally:
        lock.release()
        (output / ".lock").unlink(missing_ok=True)


def _check(conf: ExportConf, artifact: Artifact, reference: Reference, output: Path) -> None:
    """Before anything is loaded."""
    faults = []
    for kind in conf.formats:
        if path_exists(output / kind.value):
            fix = "remove it, or name another folder: output=FOLDER"
            faults.append(Fault("output", "exists", str(output / kind.value), fix=fix))
    if not artifact.is_adapter:
        asked = [kind.value for kind in conf.formats if kind in (Format.merged, Format.adapter)]
        allowed = ", ".join(kind.value for kind in (*GGUF, Format.mlflow))
        if asked:
            problem = "the artifact is a whole model already, in the form that `merged` would have"
            faults.append(Fault("formats", problem, f"[{','.join(asked)}]", allowed=allowed))
    if faults:
        raise ConfigError(faults)
    if artifact.is_adapter and set(conf.formats) != {Format.adapter}:
        check_mergeable(artifact.conf)
    if set(conf.formats) & set(GGUF):
        check_convertible(build_model_config(artifact.conf.model), reference.tokenizer.tokenizer)


def _merged(conf: ExportConf, artifact: Artifact, reference: Reference, folder: Path) -> Proof:
    write_merged(artifact, reference.tokenizer, conf.onto, folder)
    model = artifact.conf.model
    proof = reference.prove("merged", lambda: load_full_model(folder, model, reference.device), conf.tolerance)
    seal_merged(artifact, conf.onto, proof, conf.tolerance, folder)
    return proof


def _gguf(conf: ExportConf, artifact: Artifact, whole: Path, reference: Reference, kind: Format, folder: Path) -> Proof:
    """The file, and the Modelfile by which Ollama takes it."""
    licence, name = _licence(artifact), _name(artifact)
    file = folder / file_name(name, kind)
    write_gguf(whole, reference.renderer, kind, About(name, licence.id), file)
    check_ids(file, reference.renderer, reference.prompts)
    tolerance = conf.q8_0_tolerance if kind is Format.gguf_q8_0 else conf.tolerance
    model = artifact.conf.model
    proof = reference.prove(kind.value, lambda: load_gguf(file, whole, model, reference.device), tolerance)
    status = review_status(artifact.folder)
    notice = f"{status.decision.upper()}: {'; '.join(status.reasons)}."
    context_length = load_config(whole).max_position_embeddings
    text = modelfile(file.name, reference.renderer, artifact.conf.generation, context_length, licence, notice)
    (folder / "Modelfile").write_text(text, encoding="utf-8")
    _describe(conf, artifact, kind, proof, tolerance, folder)
    return proof


def _mlflow(conf: ExportConf, artifact: Artifact, whole: Path, reference: Reference, folder: Path) -> Proof:
    """A folder that `mlflow.transformers.load_model` loads, and `mlflow models serve` serves."""
    licence = _licence(artifact)
    text = "\n".join([f"{licence.title} {licence.link}".strip(), *licence.duties]) + "\n"
    model, tokenizer = load_full_model(whole, artifact.conf.model), reference.renderer.tokenizer
    save_model(model, tokenizer, base_name(artifact.conf.model), text, folder)
    del model  # the proof loads what was saved
    proof = reference.prove("mlflow", lambda: load_saved_model(folder)[0].to(reference.device), conf.tolerance)
    _describe(conf, artifact, Format.mlflow, proof, conf.tolerance, folder)
    return proof


def _describe(conf: ExportConf, artifact: Artifact, kind: Format, proof: Proof, tolerance: float, folder: Path) -> None:
    """Where a form comes from, what was proven of it, and the SHA-256 of each of its files."""
    files = {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    description = {
        "form": kind.value,
        "name": artifact.conf.name,
        "base": artifact.manifest["base"],
        "from_manifest_sha256": sha256(artifact.folder / MANIFEST),
        "onto": conf.onto.value,
        "proof": {**asdict(proof), "tolerance": tolerance},
        "files": files,
    }
    write_json(folder / EXPORTED, description)


def _licence(artifact: Artifact) -> Licence:
    return base_licence(base_name(artifact.conf.model))


def _name(artifact: Artifact) -> str:
    return lawful_name(_licence(artifact), artifact.conf.name, None)


def as_rows(proof: Proof) -> list[tuple[str, Any]]:
    """A proof, to show."""
    return [
        (
            "kl",
            f"{proof.kl_mean:.2e} nats in the mean, {proof.kl_max:.2e} at most, of {proof.positions} places",
        ),
        ("logprob", f"{proof.log_probability_max:.3f} apart at most, of tokens above 1 %"),
        ("next", f"the same token at {proof.same_next} of {proof.positions} places"),
        ("answers", f"the same word for word at {proof.same_answers} of {proof.prompts} prompts"),
    ]
