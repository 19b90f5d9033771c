"""Cleaning of conversations: the text of every message first, then what is to be said of the whole."""

from dataclasses import dataclass

from medllm.config.preparation import Action, CleaningConf
from medllm.conversation import Conversation, Message
from medllm.data.preparation import text
from medllm.data.preparation.checks import build_checks

# Of 76,000 real texts none needed more than three, of 60,000 random ones of tags and tokens none more than four.
_MAX_ROUNDS = 8


@dataclass(frozen=True)
class Cleaned:
    """What cleaning made of a conversation.

    Attributes:
        conversation: After the text steps.
        changed: Names of the text steps that changed it, in their order.
        dropped: Name of the first check that drops it; empty if it is kept.
        flags: Names of the checks that only flag it; those after the one that drops it do not run.
    """

    conversation: Conversation
    changed: tuple[str, ...]
    dropped: str
    flags: tuple[str, ...]


class Cleaner:
    """Cleans one conversation at a time, by a configuration.

    Cleaning what is clean changes nothing: the steps are repeated until none of them does. One may undo the work of an
    earlier one (an entity resolved to a control character, two halves of a tag joined), but not for long: a step removes
    characters or parts two of them. A text that is not at rest after a few rounds was built to outlast them, by tags within
    tags within tags; it is emptied, so that the check `empty` finds it.
    """

    def __init__(self, conf: CleaningConf):
        steps = (
            ("unicode", conf.unicode, text.unicode),
            ("html", conf.html, text.html),
            ("boilerplate", conf.boilerplate, text.boilerplate),
            ("glued_sentences", conf.glued_sentences, text.glued_sentences),
            ("special_tokens", conf.special_tokens, text.neutralise),
        )
        self._steps = [(name, step) for name, wanted, step in steps if wanted]
        self._checks = build_checks(conf)

    def clean(self, conversation: Conversation) -> Cleaned:
        """The conversation with clean text, what changed it, and what the checks say of it."""
        changed: set[str] = set()
        contents = [self._clean_text(m.content, changed) for m in conversation.messages]
        if changed:
            messages = tuple(Message(m.role, text) for m, text in zip(conversation.messages, contents, strict=True))
            conversation = Conversation(messages, conversation.id)
        flags = []
        dropped = ""
        for name, (action, check) in self._checks.items():
            if not check(conversation):
                continue
            if action is Action.drop:
                dropped = name
                break
            flags.append(name)
        return Cleaned(conversation, tuple(name for name, _ in self._steps if name in changed), dropped, tuple(flags))

    def _clean_text(self, content: str, changed: set[str]) -> str:
        for _ in range(_MAX_ROUNDS):
            before = content
            for name, step in self._steps:
                after = step(content)
                if after != content:
                    changed.add(name)
                    content = after
            if content == before:
                return content
        return ""
