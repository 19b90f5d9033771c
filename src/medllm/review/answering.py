"""Answers to prompts of one's own, by an artifact and by its base, as the artifact generates."""

import json
from pathlib import Path

from medllm.console import counting
from medllm.errors import ReviewError
from medllm.inference.generate import ask, generate
from medllm.inference.load import open_artifact

BATCH_SIZE = 4


def read_prompts(path: Path) -> dict[str, str]:
    """Prompts by line, from a JSONL file.

    Raises:
        ReviewError: if it cannot be read, or a line has no `prompt`.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ReviewError(f"prompts={path} cannot be read: {error}") from None
    found = {}
    for number, text in enumerate(lines, 1):
        try:
            prompt = json.loads(text)["prompt"] if text.strip() else None
        except (ValueError, KeyError, TypeError):
            raise ReviewError(f'{path}, line {number}: has no prompt\n    allowed: {{"prompt": "..."}}') from None
        if isinstance(prompt, str) and prompt.strip():
            found[f"line {number}"] = prompt
    if not found:
        raise ReviewError(f"{path} holds no prompt")
    return found


def answer_prompts(artifact_folder: Path, prompts: dict[str, str], *, tuned: bool) -> dict[str, tuple[str, str]]:
    """Prompt and answer by line.

    Args:
        artifact_folder: The artifact's.
        prompts: By line.
        tuned: Whether the artifact answers, or its base.

    Raises:
        ModelError: if the base cannot be found.
    """
    loaded = open_artifact(artifact_folder)
    names, found = list(prompts), {}
    with (
        loaded.model(tuned=tuned) as model,
        counting("answers of the tuned model" if tuned else "of the base") as advance,
    ):
        for start in range(0, len(names), BATCH_SIZE):
            batch = names[start : start + BATCH_SIZE]
            conversations = [ask(prompts[name]) for name in batch]
            answers = generate(model, loaded.renderer, conversations, loaded.artifact.conf.generation)
            found |= {name: (prompts[name], answer.text) for name, answer in zip(batch, answers, strict=True)}
            advance(len(batch))
    return found
