"""Answers to prompts of one's own, by an artifact and by its base, as the artifact generates."""

import json
from pathlib import Path

from medllm.console import counting
from medllm.errors import ReviewError
from medllm.inference.generate import ask, generate
from medllm.inference.load import open_artifact

BATCH_SIZE = 4

Answers = dict[str, tuple[str, str]]


def read_prompts(path: Path) -> dict[str, str]:
    """Prompts by line, from a JSONL file.

    Raises:
        ReviewError: if it cannot be read, or a line has no `prompt`.
    """
    try:
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
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


def answer_prompts(artifact_folder: Path, prompts: dict[str, str]) -> tuple[Answers, Answers]:
    """Prompt and answer by line, of the artifact and of its base.

    Raises:
        ModelError: if the base cannot be found.
    """
    loaded, names = open_artifact(artifact_folder), list(prompts)
    sides: list[Answers] = []
    with counting("answers") as advance:
        for tuned in (True, False):
            found: Answers = {}
            with loaded.model(tuned=tuned) as model:
                for start in range(0, len(names), BATCH_SIZE):
                    batch = names[start : start + BATCH_SIZE]
                    conversations = [ask(prompts[name]) for name in batch]
                    answers = generate(model, loaded.renderer, conversations, loaded.artifact.conf.generation)
                    found |= {name: (prompts[name], a.text) for name, a in zip(batch, answers, strict=True)}
                    advance(len(batch))
            sides.append(found)
    return sides[0], sides[1]
