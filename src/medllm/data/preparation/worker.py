"""The part of preparation that looks at one conversation at a time, and so runs in as many processes as there are cores."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medllm.config.data import DataConf
from medllm.config.preparation import Action, Deidentification, DuplicateKey
from medllm.conversation import Conversation
from medllm.data.messages import Entry
from medllm.data.preparation.cleaning import Cleaner
from medllm.data.preparation.contamination import ContaminationCheck, Question
from medllm.data.preparation.deduplication import compared_text, exact_key, signatures
from medllm.data.preparation.deidentification import Deidentifier, mask
from medllm.data.preparation.report import Example
from medllm.data.preparation.urgency import urgency_words
from medllm.data.store import record_batch

# Examples per step.
EXAMPLES = 3
# Characters of an example on either side of its first change.
AROUND = 90


@dataclass
class Batch:
    """What became of some conversations.

    Attributes:
        kept: The conversations that every check let pass, prepared: an Arrow record batch.
        groups: Of these.
        met: How many came in.
        dropped: Left out, by step.
        changed: Changed and not left out by an earlier step, by step.
        flagged: Only counted, by step.
        examples: A few of those, by step.
        identifiers: Found, by type.
        urgency: Conversations by urgency word of the patient; counted where `unsafe_advice` looks for them.
        questions: Benchmark questions met, by number.
        question: MinHash signatures of the kept ones' questions; empty where similar ones are not looked for.
        whole: Of all their words; empty where only questions are compared.
        keys: Exact keys of the kept ones, by `data.deduplication.by`.
        question_keys: Of their questions.
    """

    kept: Any = None
    groups: list[str] = field(default_factory=list)
    met: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    flagged: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Example]] = field(default_factory=dict)
    identifiers: Counter[str] = field(default_factory=Counter)
    urgency: Counter[str] = field(default_factory=Counter)
    questions: Counter[int] = field(default_factory=Counter)
    keys: list[bytes] = field(default_factory=list)
    question_keys: list[bytes] = field(default_factory=list)
    question: NDArray[np.uint32] = field(default_factory=lambda: signatures([]))
    whole: NDArray[np.uint32] = field(default_factory=lambda: signatures([]))

    def example(self, step: str, before: Conversation, after: Conversation | None = None) -> None:
        """Remembers one of the first examples of a step."""
        kept = self.examples.setdefault(step, [])
        if len(kept) < EXAMPLES:
            kept.append(_example(before, after))


class Worker:
    """Cleans, de-identifies and measures conversations."""

    def __init__(self, conf: DataConf, questions: Sequence[Question]):
        self.conf = conf
        self.cleaner = Cleaner(conf.cleaning)
        self.deidentifier = Deidentifier(conf.deidentification)
        self.check = ContaminationCheck(questions, conf.contamination.threshold)

    def __call__(self, entries: Sequence[Entry]) -> Batch:
        """Prepares a batch."""
        batch = Batch(met=len(entries))
        kept = []
        for entry in entries:
            conversation = self._prepare(entry.conversation, batch)
            if conversation is not None:
                kept.append(Entry(conversation, entry.source, entry.group))
        batch.kept, batch.groups = record_batch(kept), [entry.group for entry in kept]
        conversations = [entry.conversation for entry in kept]
        questions = [compared_text(conversation, DuplicateKey.question) for conversation in conversations]
        batch.keys = batch.question_keys = [exact_key(text) for text in questions]
        if self.conf.deduplication.compares_questions:
            batch.question = signatures(questions)
        if self.conf.deduplication.by is DuplicateKey.conversation:
            whole = [compared_text(conversation, DuplicateKey.conversation) for conversation in conversations]
            batch.keys, batch.whole = [exact_key(text) for text in whole], signatures(whole)
        return batch

    def _prepare(self, given: Conversation, batch: Batch) -> Conversation | None:
        cleaned = self.cleaner.clean(given)
        for step in cleaned.changed:
            batch.changed[f"cleaning.{step}"] += 1
            batch.example(f"cleaning.{step}", given, cleaned.conversation)
        if cleaned.dropped:
            batch.dropped[f"cleaning.{cleaned.dropped}"] += 1
            batch.example(f"cleaning.{cleaned.dropped}", cleaned.conversation)
            return None
        for flag in cleaned.flags:
            batch.flagged[f"cleaning.{flag}"] += 1
            batch.example(f"cleaning.{flag}", cleaned.conversation)
        conversation, found = self.deidentifier.apply(cleaned.conversation)
        if found:
            batch.identifiers.update(found)
            counts = batch.flagged if self.conf.deidentification.mode is Deidentification.count else batch.changed
            counts["deidentification"] += 1
            batch.example("deidentification", conversation)
        if not self._clean_of_benchmarks(conversation, batch):
            return None
        if self.conf.cleaning.unsafe_advice is not Action.keep:
            batch.urgency.update(urgency_words(compared_text(conversation, DuplicateKey.question)))
        return conversation

    def _clean_of_benchmarks(self, conversation: Conversation, batch: Batch) -> bool:
        action = self.conf.contamination.action
        if action is Action.keep:
            return True
        held = self.check.held(compared_text(conversation, DuplicateKey.conversation))
        if not held:
            return True
        batch.questions.update(held)
        batch.example("contamination", conversation)
        (batch.dropped if action is Action.drop else batch.flagged)["contamination"] += 1
        return action is Action.flag


def _example(before: Conversation, after: Conversation | None) -> Example:
    if after is None:
        return Example(before.id, shown(" | ".join(message.content for message in before.messages)))
    pairs = ((b.content, a.content) for b, a in zip(before.messages, after.messages, strict=True))
    old, new = next((b, a) for b, a in pairs if b != a)
    at = next((i for i, (b, a) in enumerate(zip(old, new, strict=False)) if b != a), min(len(old), len(new)))
    return Example(before.id, shown(old, at), shown(new, at))


def shown(text: str, at: int = 0) -> str:
    """A text for the report: without identifiers, cut around a place."""
    # Masked before it is cut, for half an identifier would not be recognised; what is far away need not be masked.
    near = max(0, at - 10 * AROUND)
    text, at = mask(text[near : at + 10 * AROUND]), at - near
    start, end = max(0, at - AROUND), at + 2 * AROUND
    return f"{'… ' if start or near else ''}{text[start:end]}{' …' if end < len(text) else ''}"
