"""How vLLM serves an artifact on GPUs that are busy all day."""

import json
import shlex

from medllm.artifact import Artifact
from medllm.config.lora import Bias, LoraConf
from medllm.deposit import base_name

# What vLLM takes for --max-lora-rank.
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def fleet_command(artifact: Artifact) -> str:
    """The command line: the base with the adapter beside it, both by name, or the merged form where that cannot be.

    Source: https://docs.vllm.ai/en/latest/features/lora.html
    """
    folder, run = artifact.folder, artifact.conf
    own = ["--chat-template", f"{folder}/chat_template.jinja", "--generation-config", str(folder)]
    if not artifact.is_adapter:
        return shlex.join(["vllm", "serve", str(folder), "--served-model-name", run.name, *own])
    adapter = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    rank = max([adapter.get("r") or 0, *(adapter.get("rank_pattern") or {}).values()])
    beside = (
        isinstance(run.lora, LoraConf)
        and not adapter.get("use_dora")
        and not adapter.get("trainable_token_indices")
        and run.lora.bias is Bias.none
        and rank <= RANKS[-1]
    )
    if not beside:
        merged = shlex.join(["python", "scripts/export.py", f"artifact={folder}"])
        form = folder.parent / "export" / "merged"
        return f"{merged} && {shlex.join(['vllm', 'serve', str(form), '--served-model-name', run.name])}"
    revision = getattr(run.model, "revision", "")
    return shlex.join(
        [
            "vllm",
            "serve",
            base_name(run),
            *(["--revision", str(revision)] if revision else []),
            "--enable-lora",
            "--max-lora-rank",
            str(next(r for r in RANKS if r >= rank)),
            "--lora-modules",
            f"{run.name}={folder}",
            *own,
        ]
    )
