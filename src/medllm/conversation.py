"""Conversations and their one renderer, used for training and for inference alike.

    messages --chat template--> text --tokenizer--> input_ids + which of them are supervised

A conversation is cut at its answers: prompt, answer, prompt, answer ... Each piece is tokenized by itself, so that the ids
in front of an answer are the same whether the answer is there (training) or still to come (generation).
"""

import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from medllm.cache import key_of
from medllm.config.data import ROLES
from medllm.encoding import Encoder
from medllm.errors import LabelError
from medllm.template import Messages, Pieces, TemplateShapes

# ChatML, as OpenAI published it and Qwen, SmolLM2 and others use it: every turn between <|im_start|>role and <|im_end|>.
CHATML_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")

# How a template writes a mark that is no special token: [INST], <<SYS>>, <|user|>.
TEMPLATE_MARK = re.compile(r"\[/?[A-Z_]+\]|<\|\w+\|>|<</?\w+>>")


@dataclass(frozen=True)
class Message:
    """One turn: a role of `ROLES` and its text."""

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """Turns in order, user and assistant alternating; a system message, if any, comes first.

    Attributes:
        messages: The turns.
        id: Where it came from (`row 17`), for messages about it that must not quote its text.
    """

    messages: tuple[Message, ...]
    id: str = ""

    @property
    def fault(self) -> str:
        """Why this cannot be trained on, in a few words; empty if it can."""
        roles = [m.role for m in self.messages]
        turns = roles[1:] if roles[:1] == ["system"] else roles
        if not set(roles) <= set(ROLES):
            return "unknown role"
        if "system" in turns:
            return "system message after the start"
        if not all(m.content and not m.content.isspace() for m in self.messages if m.role != "system"):
            return "empty message"
        if len(turns) < 2 or turns != ["user", "assistant"] * (len(turns) // 2):
            return "turns do not alternate from user to assistant"
        if not all(m.content.isascii() or _encodes(m.content) for m in self.messages):
            return "half a character"
        return ""

    @property
    def unanswerable(self) -> str:
        """Why no model can answer this, in a few words; empty where it ends with a user's message and all is in order."""
        return Conversation((*self.messages, Message("assistant", "."))).fault


def _encodes(text: str) -> bool:
    """Whether a text is whole: JSON lets half a surrogate pair through, no tokenizer does."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class Turn:
    """Where an answer lies in `Rendered.input_ids`: from `start` to `end`, end-of-turn token included, `end` exclusive."""

    start: int
    end: int


@dataclass(frozen=True)
class Rendered:
    """A conversation as the model reads it.

    Attributes:
        input_ids: Token ids of the whole conversation.
        turns: The supervised spans.
    """

    input_ids: list[int]
    turns: list[Turn] = field(default_factory=list)

    @property
    def labels(self) -> list[int]:
        """`input_ids` where supervised, else -100 (unshifted, as transformers takes them)."""
        labels = [-100] * len(self.input_ids)
        for turn in self.turns:
            labels[turn.start : turn.end] = self.input_ids[turn.start : turn.end]
        return labels


class Renderer:
    """Renders conversations with a tokenizer's chat template.

    Attributes:
        end_of_turn_id: The token that closes an answer; supervised, and a stop token of generation.
        stop_token_ids: That and the tokenizer's eos.

    Raises:
        LabelError: if the tokenizer has no chat template, or one that closes an answer by no special token.
    """

    _packed_tokenizer: bytes

    def __init__(self, tokenizer: Any, system_prompt: str | None = None):
        self.tokenizer = tokenizer
        self.system_prompt = system_prompt
        self._encode = Encoder(tokenizer)
        self._shapes = TemplateShapes(str(tokenizer.chat_template), self._pieces)
        if not tokenizer.chat_template:
            raise LabelError("the tokenizer has no chat template; use model.chat_format=chatml")
        special = {t.content: i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        self._special_ids = set(special.values())
        # Templates also mark turns by mere text, as [INST] in some tokenizers.
        marks = {*special, *TEMPLATE_MARK.findall(str(tokenizer.chat_template))}
        self._special_text = re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))) or r"(?!)")
        self.end_of_turn_id = self._find_end_of_turn()
        self.stop_token_ids = sorted({self.end_of_turn_id, tokenizer.eos_token_id} - {None})

    def __getstate__(self) -> dict[str, Any]:
        # Another process unpacks the tokenizer only where it needs it: the library behind takes seconds to load, and
        # conversations of a known shape are rendered without it.
        state = {name: value for name, value in self.__dict__.items() if name != "tokenizer"}
        return {**state, "_packed_tokenizer": pickle.dumps(self.tokenizer)}

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, in a process this renderer was sent to."""
        return pickle.loads(self._packed_tokenizer)

    @cached_property
    def fingerprint(self) -> str:
        """Of all that decides what becomes of a conversation; a tokenizer of 49,000 tokens takes 50 ms to write out."""
        return key_of(self.tokenizer.backend_tokenizer.to_str(), self.tokenizer.chat_template, self.system_prompt)

    def render(self, conversation: Conversation) -> Rendered:
        """Ids and supervised spans of a conversation, for training.

        Raises:
            LabelError: if the template rewrites earlier turns when later ones are added.
        """
        ids, turns, _ = self._render(self.template_messages(conversation), conversation.id)
        return Rendered(ids, turns)

    def render_prompt(self, conversation: Conversation) -> list[int]:
        """Ids of a conversation that ends with the user, up to where the answer begins, for generation."""
        messages = self.template_messages(conversation)
        ids, _, done = self._render(messages, conversation.id)
        return ids + self._encode(self._text(messages, generate=True)[len(done) :], done)

    def _render(self, messages: list[dict[str, str]], name: str) -> tuple[list[int], list[Turn], str]:
        """Ids up to the last answer, the spans of the answers, and the text of these ids."""
        ids: list[int] = []
        turns: list[Turn] = []
        done = ""
        try:
            pieces = self._shapes.pieces(messages) if any(m["role"] == "assistant" for m in messages) else []
        except LabelError as error:
            raise LabelError(f"{name or 'a conversation'}: {error}") from None
        for prompt, text in pieces:
            ids += self._encode(prompt, done)
            done += prompt
            answer = self._encode(text, done)
            if self.end_of_turn_id not in answer:
                raise LabelError(f"the chat template leaves an answer of {name or 'a conversation'} open")
            length = len(answer) - answer[::-1].index(self.end_of_turn_id)
            turns.append(Turn(len(ids), len(ids) + length))
            ids += answer
            done += text
        return ids, turns, done

    def _pieces(self, messages: Messages) -> Pieces:
        """The template's text, cut at the answers: for each one, what is new before it, and its own with its end."""
        pieces, done = [], ""
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt, whole = self._text(messages[:i], generate=True), self._text(messages[: i + 1])
            if not prompt.startswith(done) or not whole.startswith(prompt):
                raise LabelError(
                    "the chat template changes an earlier turn once another follows, so training and generation would "
                    "differ; use model.chat_format=chatml"
                )
            pieces.append((prompt[len(done) :], whole[len(prompt) :]))
            done = whole
        return pieces

    def token_roles(self, input_ids: list[int], conversation: Conversation) -> list[str] | None:
        """Whose text each token is: a role, or `template` for what the chat template added.

        For proof and display. It looks only at the decoded text, never at what `render` decided, and so can contradict it.
        None where decoding and tokenizing again does not give the same ids.
        """
        text = self.tokenizer.decode(input_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        again = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        if list(again["input_ids"]) != input_ids:
            return None
        spans, cursor = [], 0
        for message in self.template_messages(conversation):
            content = message["content"]
            # Whole words only: an answer `a` does not stand in the header `assistant`.
            found = re.compile(rf"(?<!\w){re.escape(content)}(?!\w)").search(text, cursor)
            start, end = found.span() if found else (-1, 0)
            if not found:  # cut off by the over-length policy: the rest of the text is its beginning
                start, end = text.find(content[:16], cursor), len(text)
            if start < 0:
                break
            spans.append((start, end, message["role"]))
            cursor = end
        roles = []
        for token_id, (start, end) in zip(input_ids, again["offset_mapping"], strict=True):
            inside = [role for first, last, role in spans if first <= start and end <= last]
            roles.append(inside[0] if inside and token_id not in self._special_ids else "template")
        return roles

    def template_messages(self, conversation: Conversation) -> list[dict[str, str]]:
        """What the chat template gets: the system prompt in front, unless the conversation has its own; texts neutralised."""
        system = [Message("system", self.system_prompt)] if self.system_prompt else []
        given = conversation.messages
        messages = given if given and given[0].role == "system" else (*system, *given)
        return [{"role": m.role, "content": self.neutralise(m.content.strip())} for m in messages]

    def neutralise(self, text: str) -> str:
        """The text with every special token in it broken by a space: what a patient types must never end a turn.

        A tokenizer that normalizes text knows more spellings (full-width, upper case, with invisible characters): whatever
        it still reads as a special token is left out.
        """
        text = self._special_text.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
        if not self._encode.folds:
            return text
        special = self._special_ids - {self.tokenizer.unk_token_id}  # which any unknown character becomes
        while True:  # what is left may close up to another one
            read = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            pairs = zip(read["input_ids"], read["offset_mapping"], strict=True)
            disguised = [(start, end) for token_id, (start, end) in pairs if token_id in special and start < end]
            if not disguised:
                return text
            for start, end in reversed(disguised):
                text = text[:start] + text[end:]

    def _text(self, messages: Sequence[dict[str, str]], *, generate: bool = False) -> str:
        try:
            text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=generate)
        except TemplateError as error:  # a template's own refusal: no system role, turns that do not alternate
            raise LabelError(
                f"the chat template refuses {' '.join(message['role'] for message in messages)}: {error}\n"
                "    fix: data.system_prompt=null where it takes no system role, or model.chat_format=chatml"
            ) from None
        return str(text)

    def _find_end_of_turn(self) -> int:
        question, answer = {"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}
        prompt, whole = self._text([question], generate=True), self._text([question, answer])
        if not whole.startswith(prompt):
            raise LabelError(
                "the chat template's generation prompt is not how it begins an answer, so training and generation would "
                "differ; use model.chat_format=chatml"
            )
        tail = whole[len(prompt) :].partition("answer")[2]
        for token_id in self._encode(tail):
            if token_id in self._special_ids:
                return token_id
        raise LabelError(
            f"the chat template ends an answer with {tail!r}, which holds no special token: the model could not learn to "
            "stop; use model.chat_format=chatml"
        )
