"""Held-out conversations: how well the model predicts the doctor's words, and what its own answers are like.

    loss, perplexity, bits per byte      of all answers of a conversation, as training counted them
    likeness, length, tone, disclaimers  of a greedy answer to its last question, the doctor's answer as reference

Likeness goes up after fine-tuning on such answers almost by construction, and says little of their worth.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from medllm.config.data import DataConf, LocalDataConf
from medllm.config.evaluation.conversation import ConversationConf
from medllm.config.paths import path_exists
from medllm.config.run import RunConf
from medllm.config.store import rooted
from medllm.conversation import Conversation, Message, Rendered, Renderer
from medllm.data.collate import PadCollator
from medllm.data.pipeline import held_out, load_conversations
from medllm.data.tokenize import fit
from medllm.errors import ConfigError, DataError, Fault
from medllm.evaluation.items import digest, draw_items
from medllm.evaluation.lexicons import Lexicon
from medllm.evaluation.suite import Better, Item, Metric, Outcome, Side, Subject
from medllm.evaluation.texts import chrf, distinct, reading_grade, repeated, rouge_l, sentences, words
from medllm.training.metrics import precision, token_losses

SUITE = "conversation"


def _metric(name: str, title: str, better: Better, *, proportion: bool = False, exponential: bool = False) -> Metric:
    return Metric(f"{SUITE}/{name}", title, better, proportion, exponential)


METRICS = (
    _metric("loss", "held-out loss", Better.lower),
    _metric("perplexity", "perplexity", Better.lower, exponential=True),
    _metric("bits_per_byte", "bits per byte of the reply", Better.lower),
    _metric("rouge_l", "ROUGE-L with the doctor's answer", Better.higher),
    _metric("chrf", "chrF with the doctor's answer", Better.higher),
    _metric("medical_terms", "medical terms per word", Better.neither),
    _metric("medical_term_recall", "doctor's medical terms used", Better.higher),
    _metric("repeated_4grams", "repeated 4-grams", Better.lower),
    _metric("distinct_2grams", "distinct 2-grams", Better.higher),
    _metric("words", "words per answer", Better.neither),
    _metric("unfinished", "answers cut at the limit", Better.lower, proportion=True),
    _metric("follow_up_question", "answers that ask back", Better.neither, proportion=True),
    _metric("copied_artefacts", "copied forum artefacts", Better.lower, proportion=True),
    _metric("empathy", "answers with empathy", Better.higher, proportion=True),
    _metric("plain_language", "answers that explain", Better.higher, proportion=True),
    _metric("reading_grade", "reading grade (Flesch-Kincaid)", Better.lower),
    _metric("disclaimer_missing", "disclaimer missing", Better.lower, proportion=True),
    _metric("disclaimer_right", "disclaimer right", Better.higher, proportion=True),
    _metric("disclaimer_excessive", "disclaimers excessive", Better.lower, proportion=True),
)
LEXICONS = ("disclaimer", "empathy", "follow_up_question", "forum_artefact", "medical_term", "plain_language")


class ConversationSuite:
    """Held-out conversations of a run, or those of a file.

    Attributes:
        run: How the artifact was trained: its data, length limit and precision.
        renderer: Of training, with training's system prompt.
        lexicons: By name.
    """

    name = SUITE
    metrics: tuple[Metric, ...] = METRICS
    sides: tuple[Side, ...] = (Side.base, Side.tuned)

    def __init__(
        self,
        conf: ConversationConf,
        run: RunConf,
        renderer: Renderer,
        fingerprint: str,
        lexicons: Mapping[str, Lexicon],
    ):
        self.conf = conf
        self.run = run
        self.renderer = renderer
        self.fingerprint = fingerprint
        self.lexicons = lexicons

    def items(self) -> list[Item]:
        """Conversations that the length limit leaves an answer of, each once."""
        found: dict[str, Item] = {}
        for conversation in self._conversations():
            messages = conversation.messages
            if self._sample(conversation) is not None:
                name = digest([[m.role, m.content] for m in messages])[:16]
                asked = Conversation(messages[:-1], conversation.id)
                found[name] = Item(name, asked, {"reference": messages[-1].content})
        if not found:
            raise DataError(f"no conversation is left to evaluate on within data.max_length={self.run.data.max_length}")
        return draw_items(list(found.values()), self.conf.max_conversations)

    def _conversations(self) -> Sequence[Conversation]:
        if self.conf.path is None:
            return held_out(self.run.data, self.fingerprint)
        return load_conversations(_local(self.run.data, self.conf.path)).conversations

    def _sample(self, conversation: Conversation) -> Rendered | None:
        """As training read it: cut or left out where it is too long."""
        rendered = self.renderer.render(conversation)
        limit = self.run.data.max_length
        if len(rendered.input_ids) > limit and self.run.data.over_length.name != "truncate":
            return None
        return fit(rendered, limit, self.renderer.end_of_turn_id)

    def measurable(self, items: Sequence[Item]) -> set[str]:
        """All, but recall of medical terms only where a doctor used some."""
        recall = f"{SUITE}/medical_term_recall"
        expected = any(self.lexicons["medical_term"].matches(item.fields["reference"]) for item in items)
        return {metric.name for metric in METRICS if expected or metric.name != recall}

    def outcomes(self, subject: Subject, items: Sequence[Item]) -> Iterator[tuple[Item, Outcome]]:
        """A batch at a time: its losses, then its answers."""
        for start in range(0, len(items), subject.batch_size):
            batch = items[start : start + subject.batch_size]
            losses = self._losses(subject, batch)
            answers = subject.answers([item.conversation for item in batch])
            for item, loss, answer in zip(batch, losses, answers, strict=True):
                about, details = self.about_answer(item, answer.text, finished=answer.finished)
                yield item, Outcome({**loss, **about}, {"answer": answer.text, **item.fields, **details})

    @torch.no_grad()
    def _losses(self, subject: Subject, items: Sequence[Item]) -> list[dict[str, tuple[float, float]]]:
        """Loss over supervised tokens, ends of turn included; bits over the bytes of the answers, without these ends."""
        samples = [s for item in items if (s := self._sample(whole(item))) is not None]
        tokenizer, end = self.renderer.tokenizer, self.renderer.end_of_turn_id
        batch = PadCollator(end)([{"input_ids": s.input_ids, "labels": s.labels} for s in samples])
        trainer, model = self.run.trainer, subject.model
        with precision(model.device.type, bf16=trainer.bf16, fp16=trainer.fp16):
            found = token_losses(model, {name: value.to(model.device) for name, value in batch.items()})
        losses = torch.zeros(batch["labels"].shape, dtype=torch.float64)
        losses[:, found.positions.cpu() + 1] = found.loss.double().cpu()  # the loss of each token at its own place
        values = []
        for row, sample in zip(losses, samples, strict=True):
            spans = [(turn.start, turn.end) for turn in sample.turns]
            nats = sum(float(row[start:stop].sum()) for start, stop in spans)
            tokens = sum(stop - start for start, stop in spans)
            bits = sum(float(row[start : stop - 1].sum()) for start, stop in spans) / math.log(2)
            size = sum(len(tokenizer.decode(sample.input_ids[start : stop - 1]).encode()) for start, stop in spans)
            values.append({"loss": (nats, tokens), "perplexity": (nats, tokens), "bits_per_byte": (bits, size)})
        return [{f"{SUITE}/{name}": pair for name, pair in value.items()} for value in values]

    def about_answer(
        self, item: Item, answer: str, *, finished: bool
    ) -> tuple[dict[str, tuple[float, float]], dict[str, Any]]:
        """Values of an answer, and what was found in it."""
        reference = item.fields["reference"]
        found = {name: self.lexicons[name].matches(answer) for name in LEXICONS}
        terms = {term.lower() for term in found["medical_term"]}
        expected = {term.lower() for term in self.lexicons["medical_term"].matches(reference)}
        pointing = [s for s in sentences(answer) if self.lexicons["disclaimer"].matches(s)]
        count = len(words(answer))
        values: dict[str, tuple[float, float]] = {
            "rouge_l": (rouge_l(answer, reference), 1),
            "chrf": (chrf(answer, reference), 1),
            "medical_terms": (len(found["medical_term"]), count),
            "repeated_4grams": repeated(answer),
            "distinct_2grams": distinct(answer),
            "words": (count, 1),
            "unfinished": (not finished, 1),
            "follow_up_question": (bool(found["follow_up_question"]), 1),
            "copied_artefacts": (bool(found["forum_artefact"]), 1),
            "empathy": (bool(found["empathy"]), 1),
            "plain_language": (bool(found["plain_language"]), 1),
            "disclaimer_missing": (not pointing, 1),
            "disclaimer_right": (0 < len(pointing) <= self.conf.max_disclaimers, 1),
            "disclaimer_excessive": (len(pointing) > self.conf.max_disclaimers, 1),
        }
        if expected:
            values["medical_term_recall"] = (len(terms & expected), len(expected))
        grade = reading_grade(answer)
        if grade is not None:
            values["reading_grade"] = (grade, 1)
        details = {"finished": finished, "found": {**found, "disclaimer": pointing}}
        return {f"{SUITE}/{name}": (float(a), float(b)) for name, (a, b) in values.items()}, details


def whole(item: Item) -> Conversation:
    """An item's conversation with the doctor's last answer."""
    reference = Message("assistant", item.fields["reference"])
    return Conversation((*item.conversation.messages, reference), item.conversation.id)


def _local(data: DataConf, path: str) -> LocalDataConf:
    """A file, prepared as the run prepared its own data."""
    if not path_exists(rooted(path)):
        fix = "give the path of an existing file or folder"
        raise ConfigError(Fault("evaluation.conversation.path", f"no such file ({rooted(path)})", path, fix=fix))
    shared = {name: getattr(data, name) for name in DataConf.__dataclass_fields__}
    conf = LocalDataConf(**shared, path=path)
    return replace(conf, num_conversations=None, columns=getattr(data, "columns", conf.columns))


def build_suite(
    conf: ConversationConf, run: RunConf, renderer: Renderer, fingerprint: str, lexicons: Mapping[str, Lexicon]
) -> ConversationSuite:
    """The suite of these settings; no data is read yet.

    Args:
        conf: Its settings.
        run: How the artifact was trained.
        renderer: Of inference; its tokenizer is used with training's system prompt.
        fingerprint: Of the data that the artifact's manifest states.
        lexicons: By name.

    Raises:
        ConfigError: if a lexicon is missing.
    """
    missing = [name for name in LEXICONS if name not in lexicons]
    if missing:
        raise ConfigError(Fault("lexicon", f"needs {', '.join(missing)}", ", ".join(lexicons), fix="leave them in"))
    return ConversationSuite(conf, run, Renderer(renderer.tokenizer, run.data.system_prompt), fingerprint, lexicons)
