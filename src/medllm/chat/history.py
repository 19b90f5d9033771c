"""What was said: turns that can be undone, cut to what a model reads, saved and loaded."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medllm.conversation import Conversation, Message, Renderer
from medllm.errors import ChatError

FORMAT = 1
MOST_TURNS = 50


@dataclass
class History:
    """A conversation under way.

    Attributes:
        system: What stands in front of it instead of the artifact's system prompt; None for that one.
        messages: User and assistant in turn.
    """

    system: str | None = None
    messages: list[Message] = field(default_factory=list)

    @property
    def conversation(self) -> Conversation:
        """All of it."""
        system = [] if self.system is None else [Message("system", self.system)]
        return Conversation((*system, *self.messages))

    def undo(self) -> bool:
        """Takes the newest question back, with its answer; false if there is none."""
        while self.messages and self.messages[-1].role == "assistant":
            self.messages.pop()
        return bool(self.messages and self.messages.pop())

    def save(self, path: Path, artifact: str) -> None:
        """Writes it, readable by its owner only; never over a file that is there.

        Args:
            path: Of a new file.
            artifact: SHA-256 of the manifest of who answered.

        Raises:
            ChatError: if it cannot be written.
        """
        said = {
            "format": FORMAT,
            "artifact": artifact,
            "system": self.system,
            "messages": [{"role": message.role, "content": message.content} for message in self.messages],
        }
        text = json.dumps(said, indent=2, ensure_ascii=False) + "\n"
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise ChatError(f"{path} is there already\n    fix: another name; nothing is overwritten") from None
        except OSError as error:
            raise ChatError(f"{path} cannot be written: {error.strerror}") from None

    @classmethod
    def load(cls, path: Path) -> "History":
        """What `save` wrote.

        Raises:
            ChatError: if it is no such file.
        """
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ChatError(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError):
            raise ChatError(f"{path} is no saved chat: it is no JSON") from None
        fault = _fault(said)
        if fault:
            raise ChatError(f"{path} is no saved chat: {fault}")
        return cls(said.get("system"), [Message(message["role"], message["content"]) for message in said["messages"]])


def _fault(said: Any) -> str:
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        return f"its format is not {FORMAT}"
    messages, system = said.get("messages"), said.get("system")
    if not isinstance(messages, list) or not (system is None or isinstance(system, str)):
        return "messages or system are missing"
    if not all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in messages
    ):
        return "a message without role or content"
    return Conversation(tuple(Message(m["role"], m["content"]) for m in messages)).fault if messages else ""


def fitting(conversation: Conversation, renderer: Renderer, room: int) -> tuple[Conversation, int]:
    """The conversation with its oldest turns left out, whole ones only, so that its prompt has at most `room` tokens.

    Of more than `MOST_TURNS` the newest are read, whatever their length.

    Args:
        conversation: Ends with a user message.
        renderer: Of the model.
        room: Tokens that the model reads in front of an answer.

    Returns:
        What fits, and how many turns (a question with its answer) were left out.

    Raises:
        ChatError: if the newest message alone does not fit.
    """
    messages = conversation.messages
    system = messages[:1] if messages[0].role == "system" else ()
    turns = messages[len(system) :]
    first = max(0, (len(turns) // 2 - MOST_TURNS) * 2)
    counts = [len(renderer.tokenizer(turn.content, add_special_tokens=False).input_ids) for turn in turns[first:]]
    around = 0.0  # tokens of the template to a message, once they have been seen
    for start in range(first, len(turns), 2):
        rest = counts[start - first :]
        if start + 1 < len(turns) and sum(rest) + around * len(rest) > room:
            continue  # rendering what cannot fit takes long
        kept = Conversation((*system, *turns[start:]), conversation.id)
        length = len(renderer.render_prompt(kept))
        if length <= room:
            return kept, start // 2
        around = (length - sum(rest)) / (len(rest) + 1)
    raise ChatError(
        f"the message has {length:,} tokens with what stands around it; the model reads {room:,} in front of an answer\n"
        "    fix: a shorter message, or a shorter answer (max_new_tokens)"
    )
