"""Writes an artifact's other forms, each whole or not at all."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from medllm.artifact import MANIFEST, Artifact, load_artifact, seal, sha256, write_json
from medllm.config.export import ExportConf, Format, Onto
from medllm.config.lora import NoAdapterConf
from medllm.config.quantization import NoQuantizationConf
from medllm.config.run import RunConf
from medllm.console import say
from medllm.conversation import Conversation, Renderer
from medllm.data.pipeline import held_out
from medllm.errors import ConfigError, DataError, ExportError, Fault
from medllm.export.proof import Behaviour, Proof, behaviour, compared
from medllm.inference.generate import ask
from medllm.inference.load import LoadedArtifact
from medllm.models.base import Tokenizer, build_tokenizer, pick_device
from medllm.models.merge import check_mergeable, merge

# What goes with the weights, whatever their form.
BESIDE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)
ADAPTER = ("adapter_model.safetensors", "adapter_config.json")


def export(conf: ExportConf, artifact_folder: Path, output: Path) -> dict[str, tuple[Path, Proof | None]]:
    """Writes the forms asked for; returns where each is, and its proof where something was computed.

    Args:
        conf: What is asked for.
        artifact_folder: The artifact's own.
        output: Gets a folder for each form.

    Raises:
        ArtifactError: if the artifact is damaged.
        ConfigError: if a form cannot be made of this artifact, or its folder exists.
        ExportError: if what came out is not the same model; nothing is left then.
        ModelError: if the base cannot be found.
    """
    artifact = load_artifact(artifact_folder)
    _check(conf, artifact, output)
    found: dict[str, tuple[Path, Proof | None]] = {}
    for kind in conf.formats:
        folder = output / kind.value
        work = output / f".{kind.value}.partial"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            proof = None
            if kind is Format.merged:
                proof = _merged(conf, artifact, work)
            else:
                _adapter(artifact, work)
            work.rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        found[kind.value] = (folder, proof)
    return found


def _check(conf: ExportConf, artifact: Artifact, output: Path) -> None:
    """Before anything is loaded."""
    faults = []
    for kind in conf.formats:
        if (output / kind.value).exists():
            fix = "remove it, or name another folder: output=FOLDER"
            faults.append(Fault("output", "exists", str(output / kind.value), fix=fix))
    if not artifact.is_adapter:
        problem = "is a whole model already, in the form that `merged` would have"
        faults.append(Fault("artifact", problem, str(artifact.folder)))
    if faults:
        raise ConfigError(faults)
    if Format.merged in conf.formats:
        check_mergeable(artifact.conf)


def _adapter(artifact: Artifact, folder: Path) -> None:
    """The adapter as peft and vLLM load it, with the tokenizer that it was trained with."""
    for name in (*ADAPTER, *BESIDE):
        if (artifact.folder / name).is_file():
            shutil.copyfile(artifact.folder / name, folder / name)


def _merged(conf: ExportConf, artifact: Artifact, folder: Path) -> Proof:
    """A whole model, itself an artifact."""
    run = artifact.conf
    for name in BESIDE:
        if (artifact.folder / name).is_file():
            shutil.copyfile(artifact.folder / name, folder / name)
    config = merge(run, artifact.folder, folder, conf.onto, lambda done, of: say("merge", f"{done} of {of} files"))
    tokenizer = build_tokenizer(run.model)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(tokenizer.tokenizer, name))
    config.dtype = run.model.dtype.value
    config.save_pretrained(folder)
    merged_conf = replace(run, lora=NoAdapterConf(), quantization=NoQuantizationConf())
    proof = _prove(conf, artifact, folder, merged_conf, tokenizer)
    description = {k: v for k, v in artifact.manifest.items() if k not in ("files", "format", "created", "medllm")}
    single = folder / "model.safetensors"
    description |= {
        "kind": "full",
        "weights_sha256": sha256(single) if single.is_file() else "",
        "merged": {
            "from_manifest_sha256": sha256(artifact.folder / MANIFEST),
            "onto": conf.onto.value,
            "proof": {**asdict(proof), "tolerance": conf.tolerance},
        },
    }
    write_json(folder / "metrics.json", {})  # they were measured on the artifact, and stand there
    seal(folder, merged_conf, description)
    return proof


def _prove(conf: ExportConf, artifact: Artifact, folder: Path, merged_conf: RunConf, tokenizer: Tokenizer) -> Proof:
    """Asks the artifact, then what it became, one in memory at a time.

    Raises:
        ExportError: if they differ by more than is tolerated.
    """
    device, run = pick_device(conf.use_cpu), artifact.conf
    if conf.onto is Onto.original:  # on the base that it was merged into
        run = replace(run, quantization=NoQuantizationConf())
    before = LoadedArtifact(replace(artifact, conf=run), device, tokenizer)
    after = LoadedArtifact(Artifact(folder, {**artifact.manifest, "kind": "full"}, merged_conf), device, tokenizer)
    conversations = _prompts(artifact, before.renderer, conf.proof_prompts)
    say("proof", f"{len(conversations)} conversations, artifact against merged")
    proof = compared(*(_behaviour(loaded, conversations, conf) for loaded in (before, after)))
    if not proof.kl_mean <= conf.tolerance:
        raise ExportError(
            f"the merged model is not the artifact: mean divergence {proof.kl_mean:.4g} nats at {proof.positions} places, "
            f"at most {conf.tolerance:g} is tolerated; nothing was exported\n"
            "    fix: onto=trained, model.dtype=float32 while training, or a larger tolerance if you know why"
        )
    return proof


def _behaviour(loaded: LoadedArtifact, conversations: list[Conversation], conf: ExportConf) -> Behaviour:
    with loaded.model(tuned=True) as model:
        found = behaviour(model, loaded.renderer, conversations, loaded.artifact.conf.generation, conf.proof_tokens)
    del model
    loaded.close()
    return found


def _prompts(artifact: Artifact, renderer: Renderer, count: int) -> list[Conversation]:
    """What the run held out, up to the last answer, the longest first: short ones tell less.

    Where the data are not at hand any more, the prompts of `generation.sample_prompts`.
    """
    conf = artifact.conf
    try:
        conversations = held_out(conf.data, artifact.manifest["data"]["fingerprint"])
    except DataError as error:
        say("proof", f"by the sample prompts, for {str(error).splitlines()[0]}")
        return [ask(prompt) for prompt in conf.generation.sample_prompts]
    asked = [Conversation(c.messages[:-1], c.id) for c in conversations]
    lengths = [len(renderer.render_prompt(c)) for c in asked]
    fitting = sorted((i for i, n in enumerate(lengths) if n <= conf.data.max_length), key=lambda i: -lengths[i])
    return [asked[i] for i in fitting[:count]]


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
