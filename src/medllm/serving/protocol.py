"""OpenAI's chat completions, as far as they go here: what a request asks for, and how answers are written.

Source: https://platform.openai.com/docs/api-reference/chat. What cannot be done is refused by name and never ignored, so that
nobody takes an answer for something that it is not. Beside OpenAI's fields every answer has `medllm`, what the guard said.
"""

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from medllm.config.generation import GenerationConf
from medllm.conversation import Conversation, Message
from medllm.guard.guard import Guarded, Verdict
from medllm.serving.batcher import Done

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
# What changes nothing in an answer: names, records, and wishes that are met anyway.
IGNORED = {"user", "metadata", "store", "safety_identifier", "prompt_cache_key", "service_tier", "parallel_tool_calls"}
# What may be said only so, because it is so.
FIXED: dict[str, tuple[Any, ...]] = {
    "n": (1, None),
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "logit_bias": ({}, None),
    "logprobs": (False, None),
    "top_logprobs": (0, None),
    "tools": ([], None),
    "functions": ([], None),
    "tool_choice": ("none", "auto", None),
    "function_call": ("none", "auto", None),
    "response_format": ({"type": "text"}, None),
    "modalities": (["text"], None),
    "reasoning_effort": ("none", None),
}
MAX_STOPS = 4
MAX_MESSAGES = 512
MESSAGE_FIELDS = {"role", "content", "name"}
STREAM_OPTIONS = {"include_usage", "include_obfuscation"}
# A colder temperature, and a smaller share of probability, is the likeliest word.
COLDEST = 0.01


class RequestError(Exception):
    """A request that is refused.

    Attributes:
        status: Of HTTP.
        message: What is wrong and what is allowed.
        param: The field to blame; empty where there is none.
        code: For programs.
    """

    def __init__(self, status: int, message: str, param: str = "", code: str = ""):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @property
    def body(self) -> dict[str, Any]:
        """As OpenAI writes it."""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param or None,
                "code": self.code or None,
            }
        }


@dataclass(frozen=True)
class Wish:
    """What a request asks for.

    Attributes:
        model: As it names it.
        tuned: Or the base.
        conversation: Ends with a user message.
        generation: How to answer.
        stream: Whether piece by piece.
        usage: Whether a stream ends with the number of tokens.
        stop: Texts that end the answer.
        seed: Of what is drawn by chance.
    """

    model: str
    tuned: bool
    conversation: Conversation
    generation: GenerationConf
    stream: bool
    usage: bool
    stop: tuple[str, ...]
    seed: int | None


def read(body: Any, models: Mapping[str, bool], defaults: GenerationConf, limit: int) -> Wish:
    """What the body of a request asks for.

    Args:
        body: Parsed JSON.
        models: Names, and whether each is the tuned side.
        defaults: How the artifact answers where nothing is said.
        limit: Longest answer in tokens that may be asked for.

    Raises:
        RequestError: 400 for what cannot be done, 404 for a model that is not here.
    """
    if not isinstance(body, dict):
        raise RequestError(400, "the body is no JSON object")
    fields = dict(body)
    model = fields.pop("model", None)
    if not isinstance(model, str) or model not in models:
        raise RequestError(
            404, f"no model {model!r} here; allowed: {', '.join(models)}"[:300], "model", "model_not_found"
        )
    for name, allowed in FIXED.items():
        value = fields.pop(name, None)
        if not any(_same(value, one) for one in allowed):
            raise RequestError(400, f"{name} is not supported; leave it out", name, "unsupported_parameter")
    conversation = _conversation(fields.pop("messages", None))
    most = _number(fields, "max_completion_tokens", 1, limit, whole=True)
    older = _number(fields, "max_tokens", 1, limit, whole=True)
    temperature = _number(fields, "temperature", 0, 2)
    top_p = _number(fields, "top_p", COLDEST, 1)
    generation = defaults
    if most or older:
        generation = replace(generation, max_new_tokens=int(most or older or 0))
    if top_p is not None:
        generation = replace(generation, do_sample=True, top_p=top_p)
    if temperature is not None:
        drawn = temperature >= COLDEST
        generation = replace(generation, do_sample=drawn, temperature=temperature if drawn else generation.temperature)
    seed = _number(fields, "seed", -(2**63), 2**64 - 1, whole=True)
    stream = fields.pop("stream", None) or False
    options = fields.pop("stream_options", None) or {}
    if not isinstance(stream, bool) or not isinstance(options, dict) or set(options) - STREAM_OPTIONS:
        names = " and ".join(sorted(STREAM_OPTIONS))
        raise RequestError(400, f"stream is true or false, stream_options an object with {names}", "stream")
    stop = _stops(fields.pop("stop", None))
    unknown = sorted(set(fields) - IGNORED)
    if unknown:
        name = ascii(unknown[0])[1:-1][:60]
        raise RequestError(400, f"{name} is not known here; leave it out", name, "unknown_parameter")
    usage = options.get("include_usage") is True
    return Wish(
        model, models[model], conversation, generation, stream, usage, stop, None if seed is None else int(seed)
    )


def _same(value: Any, one: Any) -> bool:
    """Whether JSON means the same by them: 0.0 is 0, and false is not."""
    return value == one and isinstance(value, bool) == isinstance(one, bool)


def _number(fields: dict[str, Any], name: str, least: float, most: float, *, whole: bool = False) -> float | None:
    value = fields.pop(name, None)
    if value is None:
        return None
    fits = isinstance(value, int) or (isinstance(value, float) and not whole)
    if not fits or isinstance(value, bool) or not least <= value <= most:
        kind = "a whole number" if whole else "a number"
        raise RequestError(400, f"{name} is {value!r}; allowed is {kind} from {least} to {most}"[:300], name)
    return int(value) if whole else float(value)


def _stops(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else [] if value is None else value
    if (
        not isinstance(texts, list)
        or len(texts) > MAX_STOPS
        or not all(isinstance(text, str) and text for text in texts)
    ):
        raise RequestError(400, f"stop is a text, or a list of up to {MAX_STOPS}", "stop")
    return tuple(texts)


def _conversation(messages: Any) -> Conversation:
    """As the model reads it: system texts first and joined, then user and assistant in turn."""
    if not isinstance(messages, list) or not 0 < len(messages) <= MAX_MESSAGES:
        raise RequestError(400, f"messages is a list of 1 to {MAX_MESSAGES} messages", "messages")
    found = [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]
    systems = [message.content for message in found if message.role == "system"]
    if any(message.role == "system" for message in found[len(systems) :]):
        raise RequestError(400, "system messages stand in front of all others", "messages")
    system = (Message("system", "\n\n".join(systems)),) if systems else ()
    conversation = Conversation((*system, *found[len(systems) :]))
    if found[-1].role != "user":
        raise RequestError(400, "the last message is the user's", "messages")
    if conversation.unanswerable:
        raise RequestError(400, f"messages: {conversation.unanswerable}", "messages")
    return conversation


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str) or message["role"] not in ROLES:
        raise RequestError(400, f"{where} needs a role: {', '.join(ROLES)}", where)
    if any(value is not None for name, value in message.items() if name not in MESSAGE_FIELDS):
        raise RequestError(400, f"{where} holds more than {', '.join(sorted(MESSAGE_FIELDS))}", where)
    content = message.get("content")
    if isinstance(content, list):
        parts = [part["text"] if _is_text(part) else None for part in content]
        if not all(isinstance(part, str) for part in parts):
            raise RequestError(400, f"{where} has a part that is no text; only text is read", where)
        content = "".join(str(part) for part in parts)
    if not isinstance(content, str):
        raise RequestError(400, f"{where} needs content: a text", where)
    return Message(ROLES[message["role"]], content)


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and set(part) == {"type", "text"} and part["type"] == "text"


class Writer:
    """Writes one answer, whole or in chunks.

    Args:
        wish: What it answers.
    """

    def __init__(self, wish: Wish):
        self._wish = wish
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": wish.model}

    def whole(self, done: Done) -> dict[str, Any]:
        """A `chat.completion`."""
        message = {"role": "assistant", "content": done.guarded.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": done.finish_reason}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": _usage(done),
            "medllm": guard_said(done.guarded.verdict, done.guarded),
        }

    def first(self, verdict: Verdict) -> str:
        """The first chunk: whose turn it is, what the guard said, and its text in front of the answer."""
        before = f"{verdict.before}\n\n" if verdict.before else ""
        return self._chunk({"role": "assistant", "content": before}, medllm=guard_said(verdict))

    def piece(self, text: str) -> str:
        """More text."""
        return self._chunk({"content": text})

    def last(self, done: Done) -> str:
        """Notes behind the answer, the end, and the usage where it was asked for."""
        said = guard_said(done.guarded.verdict, done.guarded)
        after = self.piece(f"\n\n{done.guarded.after}") if done.guarded.after else ""
        usage = event_of({**self._head, **CHUNK, "choices": [], "usage": _usage(done)}) if self._wish.usage else ""
        return after + self._chunk({}, done.finish_reason, medllm=said) + usage + "data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage = {"usage": None} if self._wish.usage else {}
        return event_of({**self._head, **CHUNK, "choices": [choice], **usage, **more})


CHUNK = {"object": "chat.completion.chunk"}


def event_of(data: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


def guard_said(verdict: Verdict, guarded: Guarded | None = None) -> dict[str, Any]:
    """What programs want to know of the guard.

    Returns:
        `urgency` from A (home) to D (now), `emergency`, `flags` by group, and with an answer `notes` and `invented_doses`.
    """
    said = {
        "urgency": verdict.urgency.name,
        "emergency": bool(verdict.before),
        "flags": {flag.group: flag.urgency.name for flag in verdict.flags},
    }
    return said if guarded is None else said | {"notes": guarded.notes, "invented_doses": guarded.invented_doses}


def _usage(done: Done) -> dict[str, int]:
    prompt, completion = done.prompt_tokens, done.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
