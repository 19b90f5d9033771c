"""The Modelfile beside a GGUF: what `ollama create NAME -f Modelfile` needs to answer as the artifact does.

Ollama does not read a model's own chat template but one in Go's template language. A template that puts fixed text around each
message, as ChatML's and Llama 3's do, is told by that text. It is found by rendering messages with marks in them, and given only
where it renders conversations of many kinds as the artifact's own template does.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from medllm.config.generation import GenerationConf
from medllm.conversation import Renderer
from medllm.licences import Licence
from medllm.template import PROBES

# Marks in the place of texts, of the private use area: no template writes these characters.
SYSTEM, USER, ASSISTANT, AGAIN = (chr(0xE000 + i) for i in range(4))
# What transformers draws from where nothing else is said, and Ollama would not.
TOP_K = 50
# Tokens of context that Ollama makes room for; its memory grows with them, and many models could read far more.
NUM_CTX = 8192

Messages = Sequence[dict[str, str]]


@dataclass(frozen=True)
class ChatShape:
    """A chat template that puts fixed text around each message.

    Attributes:
        without_system: In front of everything where no system message comes first.
        around: By role, the text before and behind a message.
        generation_prompt: Behind everything, where the answer begins.
    """

    without_system: str
    around: dict[str, tuple[str, str]]
    generation_prompt: str

    def render(self, messages: Messages) -> str:
        """What the template writes, up to where the answer begins."""
        has_system = any(message["role"] == "system" for message in messages)
        texts = [message["content"].join(self.around[message["role"]]) for message in messages]
        return ("" if has_system else self.without_system) + "".join(texts) + self.generation_prompt

    def in_go(self) -> str:
        """The same in Go's template language, with Ollama's names."""
        turns = [
            f'{{{{ {word} eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{behind}'
            for word, (role, (before, behind)) in zip(("if", "else if", "else if"), self.around.items(), strict=True)
        ]
        opening = f"{{{{ if not .System }}}}{self.without_system}{{{{ end }}}}" if self.without_system else ""
        return f"{opening}{{{{ range .Messages }}}}{''.join(turns)}{{{{ end }}}}{{{{ end }}}}{self.generation_prompt}"


def chat_shape(tokenizer: Any) -> ChatShape | None:
    """How a tokenizer's chat template writes conversations; None if it does more than to put text around messages."""
    try:
        shape = _shape(tokenizer)
        probes = [PROBES[i:] + PROBES[:i] for i in range(len(PROBES))]
        roles = ("system", *("user", "assistant") * 2, "user")
        spans = (slice(0, 2), slice(0, 4), slice(0, 6), slice(1, 2), slice(1, 4), slice(1, 6))
        same = all(
            shape.render(messages) == _text(tokenizer, messages, generate=True)
            for texts in probes
            for span in spans
            for messages in [_messages(roles[span], (*texts, *texts))]
        )
    except (TemplateError, ValueError):  # it refuses such conversations, or leaves a mark out
        return None
    return shape if same and not any("{{" in text for text in _literals(shape)) else None


def modelfile(
    gguf: str, renderer: Renderer, conf: GenerationConf, context_length: int, licence: Licence, notice: str
) -> str:
    """The text of a Modelfile.

    Args:
        gguf: Name of the file beside it.
        renderer: Of inference.
        conf: The artifact's generation defaults.
        context_length: Tokens that the model can read.
        licence: Of the base model.
        notice: What experts say of the artifact, one line.
    """
    shape = chat_shape(renderer.tokenizer)
    template = None if shape is None else quoted(shape.in_go())
    lines = [
        f"# {notice} Written by a language model, whatever it says: no medical device, and no advice for patients.",
        "# ollama create NAME -f Modelfile",
        f"FROM ./{gguf}",
        f"TEMPLATE {template}"
        if template is not None
        else "# No TEMPLATE: the chat template does more than to put text around messages. Compare what Ollama makes of it.",
    ]
    if conf.system_prompt:
        system = quoted(conf.system_prompt.strip())
        lines.append(f"SYSTEM {system}" if system is not None else "# No SYSTEM: a Modelfile cannot hold its text.")
    sampling = {"temperature": conf.temperature, "top_p": conf.top_p, "top_k": TOP_K}
    parameters = {
        **(sampling if conf.do_sample else {"temperature": 0}),
        "repeat_penalty": conf.repetition_penalty,
        "repeat_last_n": -1,  # of the whole conversation, as transformers does
        "num_predict": conf.max_new_tokens,
        "num_ctx": min(context_length, NUM_CTX),
    }
    lines += [f"PARAMETER {name} {value:g}" for name, value in parameters.items()]
    stops = renderer.tokenizer.convert_ids_to_tokens(renderer.stop_token_ids)
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    if licence.id:
        told = [f"{licence.title} {licence.link}".strip(), licence.notice, licence.attribution]
        lines.append(f"LICENSE {quoted(chr(10).join(filter(None, told)))}")
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str | None:
    """A text of several lines for a Modelfile; None for what cannot stand in one: its parser drops what is not printable."""
    printable = all(character.isprintable() or character in "\n\t" for character in text)
    return f'"""{text}"""' if printable and '"""' not in text else None


def _shape(tokenizer: Any) -> ChatShape:
    """From what stands between the marks: each text is what is left of a longer one without its known part."""
    roles = ("system", "user", "assistant", "user")
    long = _text(tokenizer, _messages(roles, (SYSTEM, USER, ASSISTANT, AGAIN)))
    short = _text(tokenizer, _messages(roles[1:2], (USER,)))
    opening, after_system, after_user, after_assistant, behind_user = _cut(long, (SYSTEM, USER, ASSISTANT, AGAIN))
    answered = _text(tokenizer, _messages(roles[:3], (SYSTEM, USER, ASSISTANT)))
    behind_assistant = _cut(answered, (SYSTEM, USER, ASSISTANT))[-1]
    before_user = _rest(after_assistant, behind_assistant)
    before_assistant = _rest(after_user, behind_user)
    prompt = _text(tokenizer, _messages(roles[1:2], (USER,)), generate=True)
    return ChatShape(
        without_system=_head(_cut(short, (USER,))[0], before_user),
        around={
            "system": (opening, _head(after_system, before_user)),
            "user": (before_user, behind_user),
            "assistant": (before_assistant, behind_assistant),
        },
        generation_prompt=_rest(prompt, short),
    )


def _cut(text: str, marks: Iterable[str]) -> list[str]:
    pieces = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found:
            raise ValueError("the template leaves a message out, or changes their order")
        pieces.append(before)
    return [*pieces, text]


def _rest(text: str, beginning: str) -> str:
    if not text.startswith(beginning):
        raise ValueError("the template writes a turn in several ways")
    return text[len(beginning) :]


def _head(text: str, end: str) -> str:
    if not text.endswith(end):
        raise ValueError("the template writes a turn in several ways")
    return text[: len(text) - len(end)]


def _literals(shape: ChatShape) -> list[str]:
    pairs = [text for pair in shape.around.values() for text in pair]
    return [shape.without_system, shape.generation_prompt, *pairs]


def _messages(roles: Iterable[str], texts: Iterable[str]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


def _text(tokenizer: Any, messages: Messages, *, generate: bool = False) -> str:
    return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=generate))
