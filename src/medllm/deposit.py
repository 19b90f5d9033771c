"""What a run tells and leaves behind: in its record, in its folder, and in the artifact."""

import json
from dataclasses import asdict
from pathlib import Path

from medllm import ranks
from medllm.artifact import seal, sha256, write_json
from medllm.config.data import sources_of
from medllm.config.lora import NoAdapterConf
from medllm.config.model import PretrainedModelConf, WheelModelConf
from medllm.config.run import RunConf
from medllm.console import say
from medllm.conversation import Renderer
from medllm.data.pipeline import Datasets
from medllm.data_view import data_view, write_data_report
from medllm.inference.generate import build_generation_config
from medllm.models.base import Tokenizer
from medllm.plots import plot_loss
from medllm.result import Result, result_metrics
from medllm.run_folder import write_history
from medllm.tracking.lineage import versions
from medllm.tracking.record import Record
from medllm.training.label_proof import LabelProof
from medllm.training.metrics import EvalMetrics
from medllm.training.trainer import MedTrainer


def record_data(datasets: Datasets, conf: RunConf, renderer: Renderer, folder: Path, record: Record) -> None:
    """What was trained on: the report, and where it came from."""
    batch_size = conf.trainer.per_device_train_batch_size
    page, numbers = write_data_report(data_view(datasets, conf.data, renderer, batch_size, conf.seed), folder)
    record.log_texts(page)
    record.log_artifact(numbers)
    places = [str(source.path or source.dataset) for source in sources_of(conf.data).values()]
    source, name = ", ".join(places), "+".join(Path(place).stem or place for place in places)
    for context, side in (("training", datasets.train), ("evaluation", datasets.eval)):
        if side is not None:
            record.log_data(name, side.conversations.fingerprint, source, context, len(side.conversations))
    record.set_tags(
        {
            "data.fingerprint": datasets.fingerprint,
            "data.batching": datasets.batching.name,
            "data.counts": json.dumps(datasets.counts),
            "data.rejected": json.dumps(datasets.report.rejected),
        }
    )


def record_proof(proof: LabelProof, folder: Path, record: Record) -> None:
    """What was proven of the labels."""
    path = folder / "label_proof.json"
    write_json(path, proof.as_dict())
    record.log_artifact(path)
    record.log_metrics({f"labels/supervised_share_{role}": s for role, s in proof.supervised_share.items()}, 0)
    record.set_tags({"labels": "proven"})


def say_plan(conf: RunConf, datasets: Datasets, proof: LabelProof, trainable: int, total: int, device: str) -> None:
    """Tells what is about to be trained, on what."""
    held_out = len(datasets.eval.samples.rows) if datasets.eval else 0
    counts = ", ".join(f"{count} {fate}" for fate, count in datasets.counts.items() if count and fate != "kept")
    together = f"{datasets.batching.name} loss {proof.together_loss:.4f} = {proof.alone_loss:.4f} one by one"
    rows = f"{len(datasets.train.samples.rows)} conversations to train on, {held_out} held out"
    say(
        "data",
        f"{rows}, {datasets.train.num_tokens:,} tokens, {datasets.batching.name}{f'; {counts}' if counts else ''}",
    )
    proven = f"proven on {proof.conversations} conversations: answers and their end of turn supervised, nothing else"
    say("labels", f"{proven}; {together}")
    trained = f"{trainable:,} of {total:,} parameters trained ({100 * trainable / total:.2f} %)"
    say("model", f"{base_name(conf)} on {device}, {trained}")
    if ranks.world_size() > 1:
        count, each = (
            ranks.world_size(),
            conf.trainer.per_device_train_batch_size * conf.trainer.gradient_accumulation_steps,
        )
        step = f"an optimizer step takes {each} rows of each, {count * each} in all"
        say("ranks", f"{count} processes with a device each; {step}")


def record_curves(trainer: MedTrainer, before: EvalMetrics | None, conf: RunConf, folder: Path, record: Record) -> None:
    """Loss, held-out loss and the tokens behind them: a picture and a file."""
    history = trainer.state.log_history

    def curve(name: str) -> list[tuple[int, float]]:
        return [(entry["step"], entry[name]) for entry in history if name in entry]

    held_out = [(0, before.loss), *curve("eval_loss")] if before else []
    record.log_artifact(plot_loss(curve("loss"), held_out, conf.name, folder / "loss.png"))
    write_history(folder, curve("loss"), held_out, curve("num_tokens"), curve("elapsed_seconds"))


def save_artifact(
    result: Result,
    folder: Path,
    conf: RunConf,
    tokenizer: Tokenizer,
    renderer: Renderer,
    datasets: Datasets,
    commit: str,
) -> None:
    """Writes what belongs to the weights beside them, and seals the folder."""
    tokenizer.tokenizer.save_pretrained(folder)
    build_generation_config(conf.generation, renderer).save_pretrained(folder)
    (folder / "label_proof.json").write_bytes((result.folder / "label_proof.json").read_bytes())
    write_json(folder / "metrics.json", result_metrics(result))
    answers = {"before": result.answers_before, "after": result.answers_after}
    write_json(folder / "samples.json", {k: [asdict(a) for a in v] for k, v in answers.items()})
    full = isinstance(conf.lora, NoAdapterConf)
    weights = folder / ("model.safetensors" if full else "adapter_model.safetensors")
    seal(
        folder,
        conf,
        {
            "kind": "full" if full else "adapter",
            "weights_sha256": sha256(weights) if weights.is_file() else "",
            "base": _base_description(conf),
            "data": {"fingerprint": datasets.fingerprint, **datasets.counts},
            "code": {"commit": commit},
            "world_size": ranks.world_size(),
            "run_id": result.run_id,
            "versions": versions(),
        },
    )


def base_name(conf: RunConf) -> str:
    """Of the base model, as its adapter names it."""
    if isinstance(conf.model, PretrainedModelConf):
        return conf.model.pretrained_model_name_or_path
    return "tiny_random"


def _base_description(conf: RunConf) -> dict[str, str | None]:
    if isinstance(conf.model, WheelModelConf) and conf.model.source.name == "wheel":
        return {"name": base_name(conf), "wheel": conf.model.wheel, "sha256": conf.model.sha256}
    if isinstance(conf.model, PretrainedModelConf):
        return {"name": base_name(conf), "revision": conf.model.revision}
    return {"name": base_name(conf)}
