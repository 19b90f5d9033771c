"""The text of the bundled dialogues, cut to given numbers of tokens: for benchmarks whose speed hangs on lengths."""

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

BUNDLED = Path(__file__).parents[1] / "data" / "dialogues.jsonl"
DIALOGUES = 900
# Characters of English a token of a large vocabulary, and tokens of a chat template around a message.
CHARACTERS_PER_TOKEN, TEMPLATE_TOKENS = 4.6, 6


def bundled_lengths() -> list[tuple[int, int]]:
    """Prompt and all tokens of the bundled dialogues, as a large vocabulary has them."""
    pairs = []
    for line in BUNDLED.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        prompt, answer = (round(len(row[side]) / CHARACTERS_PER_TOKEN) for side in ("Patient", "Doctor"))
        pairs.append((prompt + TEMPLATE_TOKENS, min(prompt + answer + 2 * TEMPLATE_TOKENS, 512)))
    return pairs


def read_lengths(path: Path | None, tiny: bool) -> list[tuple[int, int]]:
    """One pair a dialogue, as many as an epoch has, from the beginning again where the file is shorter.

    Raises:
        SystemExit: if the file holds anything else.
    """
    pairs = bundled_lengths()
    if path is not None:
        try:
            pairs = [(int(prompt), int(total)) for prompt, total in json.loads(path.read_text())]
        except (OSError, ValueError, TypeError) as error:
            raise SystemExit(f"--lengths {path}: no list of [prompt tokens, all tokens] ({error})") from None
        if not pairs or any(not 0 < prompt < total for prompt, total in pairs):
            raise SystemExit(f"--lengths {path}: every prompt must have a token, and fewer than the whole dialogue")
    if tiny:
        pairs = [(max(20, prompt // 6), max(40, total // 6)) for prompt, total in pairs[:40]]
    return [pairs[i % len(pairs)] for i in range(len(pairs) if tiny else DIALOGUES)]


def write_dialogues(pairs: Sequence[tuple[int, int]], path: Path) -> list[int]:
    """Writes the bundled dialogues' text, cut so that each one has its lengths; returns the tokens of each."""
    from medllm.conversation import Conversation, Message, Renderer
    from medllm.models.tiny import build_tiny_tokenizer

    tokenizer = build_tiny_tokenizer()
    renderer = Renderer(tokenizer)
    rows = [json.loads(line) for line in BUNDLED.read_text(encoding="utf-8").splitlines()]
    ids = {
        side: tokenizer(" ".join(row[side] for row in rows), add_special_tokens=False)["input_ids"]
        for side in ("Patient", "Doctor")
    }
    places = dict.fromkeys(ids, 0)

    def cut(side: str, count: int) -> str:
        """The next text of exactly `count` tokens: not every piece of one is encoded as it was inside."""
        while True:
            start = places[side] % max(len(ids[side]) - count, 1)
            text = str(tokenizer.decode(ids[side][start : start + count])).strip()
            places[side] += 1
            if len(tokenizer(text, add_special_tokens=False)["input_ids"]) == count and text.isprintable():
                places[side] += count
                return text

    def rendered(patient: str, doctor: str) -> tuple[int, int]:
        talk = Conversation((Message("user", patient), Message("assistant", doctor)), "")
        prompt = Conversation(talk.messages[:1], "")
        return len(renderer.render_prompt(prompt)), len(renderer.render(talk).input_ids)

    one = len(tokenizer("a", add_special_tokens=False)["input_ids"])
    prompt_extra, extra = (count - n * one for n, count in enumerate(rendered("a", "a"), 1))
    found = []
    with path.open("w", encoding="utf-8") as file:
        for prompt, total in pairs:
            asked = max(prompt - prompt_extra, 1)
            patient, doctor = cut("Patient", asked), cut("Doctor", max(total - extra - asked, 1))
            found.append(rendered(patient, doctor)[1])
            file.write(json.dumps({"Patient": patient, "Doctor": doctor}) + "\n")
    return found


def as_they_are() -> list[str]:
    """Overrides that leave the dialogues as they are: every step of preparation off."""
    from medllm.config.preparation import Action, CleaningConf

    found = []
    for item in fields(CleaningConf):
        if isinstance(item.default, bool):
            found.append(f"data.cleaning.{item.name}=false")
        elif isinstance(item.default, Action):
            found.append(f"data.cleaning.{item.name}=keep")
    found += ["data.deidentification.mode=off", "data.deduplication.exact=false", "data.deduplication.near=false"]
    return [*found, "data.deduplication.split_threshold=null"]
