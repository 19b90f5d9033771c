"""The guard itself: `screen` before the model, `review` after it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from medllm.config.guard import PLACEHOLDERS, GuardConf, RedFlagGuardConf
from medllm.config.store import rooted
from medllm.conversation import Conversation, Message
from medllm.guard.flags import Finder, Flag
from medllm.guard.lexicon import Protocol, load_lexicon
from medllm.guard.screens import advises_urgency, advises_visit, disclaims, invented_doses, reassures
from medllm.guard.urgency import Likelihoods, ModelUrgency, Opinion, Urgency


@dataclass(frozen=True)
class Verdict:
    """What the guard thinks of a conversation, before anything is answered.

    Attributes:
        urgency: The higher of what red flags and model say.
        flags: Red flags, one per group.
        opinion: The model's, where it was asked.
        protocols: Of the flags that mean D, in the order of their texts.
        repeated: Whether the flags that mean D were there before the newest message.
        before: Text that stands in front of the answer; empty where there is none.
        lexicon: Version of the lexicon; empty without one.
    """

    urgency: Urgency = Urgency.A
    flags: tuple[Flag, ...] = ()
    opinion: Opinion | None = None
    protocols: tuple[Protocol, ...] = ()
    repeated: bool = False
    before: str = ""
    lexicon: str = ""

    @property
    def record(self) -> dict[str, Any]:
        """For records: no word of what was written."""
        return {
            "urgency": self.urgency.name,
            "flags": {flag.group: flag.urgency.name for flag in self.flags},
            "model": None if self.opinion is None else [round(p, 4) for p in self.opinion.probabilities],
            "protocols": [protocol.value for protocol in self.protocols],
            "repeated": self.repeated,
            "lexicon": self.lexicon,
        }


@dataclass(frozen=True)
class Guarded:
    """An answer behind the guard.

    Attributes:
        before: In front of it, known before its first token.
        answer: What the model wrote, whole.
        after: Notes behind it.
        verdict: Of the conversation.
        invented_doses: Doses of the answer that nobody had mentioned, as `500 mg`.
        notes: Which notes were added: `urgency`, `soon`, `dose`, `disclaimer`.
    """

    before: str
    answer: str
    after: str
    verdict: Verdict
    invented_doses: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All of it, as it is shown."""
        return "\n\n".join(part for part in (self.before, self.answer, self.after) if part)


class NoGuard:
    """Lets everything through: the null object of `guard=none`."""

    def screen(self, conversation: Conversation) -> Verdict:
        """Nothing is looked at."""
        return Verdict()

    def screen_all(
        self, conversations: Sequence[Conversation], opinions: Sequence[Opinion] | None = None
    ) -> list[Verdict]:
        """Nothing is looked at."""
        return [Verdict() for _ in conversations]

    def review(self, conversation: Conversation, answer: str, verdict: Verdict | None = None) -> Guarded:
        """The answer as it is."""
        return Guarded("", answer, "", verdict or Verdict())

    def unguarded(self, conversation: Conversation) -> Conversation:
        """What the model itself wrote, where a conversation comes back with the guard's texts in its answers."""
        return conversation


class Guard(NoGuard):
    """Red flags, the model's urgency, fixed texts and screens.

    Args:
        conf: Of the guard.
        likelihoods: Of the model that answers, for its own urgency; without it the red flags decide alone.

    Raises:
        ConfigError: if the lexicon is faulty.
    """

    def __init__(self, conf: RedFlagGuardConf, likelihoods: Likelihoods | None = None):
        self.conf = conf
        self.lexicon = load_lexicon(None if conf.lexicon is None else rooted(conf.lexicon))
        self._finder = Finder(self.lexicon)
        self._protocols = {group.name: group.protocol for group in self.lexicon.groups}
        self._model = ModelUrgency(likelihoods) if likelihoods is not None and conf.model_urgency else None

    def screen(self, conversation: Conversation) -> Verdict:
        """What stands in front of the answer, and why: over all that the user wrote."""
        return self.screen_all([conversation])[0]

    def screen_all(
        self, conversations: Sequence[Conversation], opinions: Sequence[Opinion] | None = None
    ) -> list[Verdict]:
        """The same for several, whose likelihoods then share batches.

        Args:
            conversations: Each ends with a user message.
            opinions: The model's, where they are known already.
        """
        if self._model is not None and opinions is None:
            opinions = self._model.opinions(conversations)
        if opinions is None or not self.conf.model_urgency:
            return [self._verdict(conversation, None) for conversation in conversations]
        return [self._verdict(c, o) for c, o in zip(conversations, opinions, strict=True)]

    def review(self, conversation: Conversation, answer: str, verdict: Verdict | None = None) -> Guarded:
        """The answer with what stands before and behind it.

        Args:
            conversation: Ends with the user's message.
            answer: The model's, to it.
            verdict: What `screen` said of the conversation; asked for where it is not given.
        """
        verdict = self.screen(conversation) if verdict is None else verdict
        # An answer may repeat doses that the model itself wrote earlier: they are still nobody's but its own.
        given = "\n".join(message.content for message in conversation.messages if message.role != "assistant")
        invented = sorted(invented_doses(answer, given)) if self.conf.screen_doses else []
        notes = {}
        if (
            self.conf.screen_urgency
            and verdict.urgency is Urgency.D
            and (not advises_urgency(answer) or reassures(answer))
        ):
            notes["urgency"] = self.conf.urgency_note
        if self.conf.screen_urgency and verdict.urgency is Urgency.C and not advises_visit(answer):
            notes["soon"] = self.conf.soon_note
        if invented:
            notes["dose"] = self.conf.dose_note
        if self.conf.disclaimer and not disclaims(answer):
            notes["disclaimer"] = self.conf.disclaimer_text
        after = "\n\n".join(self._filled(note) for note in notes.values())
        return Guarded(verdict.before, answer, after, verdict, tuple(" ".join(dose) for dose in invented), tuple(notes))

    def unguarded(self, conversation: Conversation) -> Conversation:
        """Without the fixed texts in its answers, which a model would go on with; one that is nothing else stays."""
        texts = [self._filled(text) for name, text in vars(self.conf).items() if name.endswith(("_text", "_note"))]

        def bare(message: Message) -> Message:
            content = message.content
            for text in texts:
                content = content.replace(text, "")
            content = content.strip()
            return replace(message, content=content) if message.role == "assistant" and content else message

        return replace(conversation, messages=tuple(bare(message) for message in conversation.messages))

    def _verdict(self, conversation: Conversation, opinion: Opinion | None) -> Verdict:
        flags = tuple(self._finder.find(conversation)) if self.conf.red_flags else ()
        own = Urgency.A if opinion is None else opinion.urgency(self.conf.model_caution)
        urgency = max([own, *(flag.urgency for flag in flags)])
        acute = [flag for flag in flags if flag.urgency is Urgency.D]
        newest = sum(message.role == "user" for message in conversation.messages) - 1
        protocols = tuple(p for p in Protocol if any(self._protocols[flag.group] is p for flag in acute))
        repeated = bool(acute) and all(flag.turn < newest for flag in acute)
        verdict = Verdict(urgency, flags, opinion, protocols, repeated, "", self.lexicon.version)
        return replace(verdict, before=self._before(verdict, acute))

    def _before(self, verdict: Verdict, acute: Sequence[Flag]) -> str:
        if verdict.urgency is not Urgency.D:
            return ""
        if not acute:
            return self._filled(self.conf.model_emergency_text)
        if verdict.repeated:
            return self._filled(self.conf.repeated_text)
        texts = {
            Protocol.emergency: self.conf.emergency_text,
            Protocol.self_harm: self.conf.self_harm_text,
            Protocol.violence: self.conf.violence_text,
            Protocol.poisoning: self.conf.poisoning_text,
        }
        protocols = list(verdict.protocols)
        if Protocol.poisoning in protocols and Protocol.emergency not in protocols:
            protocols.insert(0, Protocol.emergency)
        return "\n\n".join(self._filled(texts[protocol]) for protocol in protocols)

    def _filled(self, text: str) -> str:
        return text.format(**{name: getattr(self.conf, name) for name in PLACEHOLDERS})


def build_guard(conf: GuardConf, likelihoods: Likelihoods | None = None) -> NoGuard:
    """The guard that a configuration asks for.

    Args:
        conf: Of the `guard` group.
        likelihoods: As `Subject.likelihoods`, of the model behind the guard.

    Raises:
        ConfigError: if the lexicon is faulty.
    """
    return Guard(conf, likelihoods) if isinstance(conf, RedFlagGuardConf) else NoGuard()
