"""Red flags of a conversation: signs of a lexicon that hold in what its user wrote, in all turns."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from medllm.conversation import Conversation
from medllm.guard.lexicon import Group, Lexicon, Sign
from medllm.guard.scope import Scope, Text
from medllm.guard.urgency import Urgency

MENTIONS = 40  # of a term in one message that are looked at; a long text must not make this slow
WINDOW = 400  # characters of one message in which a sign without `within` must be found


@dataclass(frozen=True)
class Flag:
    """A group of which a sign holds.

    Attributes:
        group: Its name.
        urgency: Of the sign.
        evidence: Term to the words that spoke of it.
        turn: The last of the user's turns that the sign needs, from 0; earlier than the newest turn where it is no news.
    """

    group: str
    urgency: Urgency
    evidence: dict[str, str]
    turn: int


@dataclass(frozen=True)
class _Mention:
    turn: int
    start: int
    end: int
    words: str
    scopes: frozenset[Scope]


class Finder:
    """Looks for the signs of one lexicon."""

    def __init__(self, lexicon: Lexicon):
        self.lexicon = lexicon

    def find(self, conversation: Conversation) -> list[Flag]:
        """One flag per group: of the highest urgency, and of these the earliest."""
        texts = [Text(message.content) for message in conversation.messages if message.role == "user"]
        mentions: dict[str, list[_Mention]] = {}
        flags = []
        for group in self.lexicon.groups:
            found = [flag for sign in group.signs if (flag := self._flag(group, sign, texts, mentions))]
            if found:
                flags.append(max(found, key=lambda flag: (flag.urgency, -flag.turn)))
        return flags

    def _mentions(self, term: str, texts: Sequence[Text], known: dict[str, list[_Mention]]) -> list[_Mention]:
        if term not in known:
            allowed = {Scope.past} if term in self.lexicon.context else set()
            known[term] = [
                _Mention(turn, m.start(), m.end(), m[0], frozenset(text.scopes(m.start(), m.end())) - allowed)
                for turn, text in enumerate(texts)
                for m in itertools.islice(self.lexicon.terms[term].finditer(text.plain), MENTIONS)
                if m[0]
            ]
        return known[term]

    def _flag(self, group: Group, sign: Sign, texts: Sequence[Text], known: dict[str, list[_Mention]]) -> Flag | None:
        def counted(terms: Sequence[str]) -> list[tuple[str, _Mention]]:
            pairs = [(term, mention) for term in terms for mention in self._mentions(term, texts, known)]
            return [pair for pair in pairs if not pair[1].scopes & group.scopes]

        if counted(sign.unless):
            return None
        choices = []
        for terms in sign.all:
            found = counted(terms)
            if not found:
                return None
            choices.append(found)
        near = [each for each in _products(choices) if _near(each, sign.within)]
        if not near:
            return None
        chosen = min(near, key=lambda each: max(mention.turn for _, mention in each))
        return Flag(group.name, sign.urgency, {t: m.words for t, m in chosen}, max(m.turn for _, m in chosen))


def _products(choices: list[list[tuple[str, _Mention]]]) -> list[tuple[tuple[str, _Mention], ...]]:
    # Twelve mentions of each thing are enough; a long text must not make this slow.
    return list(itertools.product(*(found[:12] for found in choices)))


def _near(each: tuple[tuple[str, _Mention], ...], within: int | None) -> bool:
    """Whether mentions belong together: not too far apart in one message, or in turns that add to each other."""
    mentions = [mention for _, mention in each]
    if len({mention.turn for mention in mentions}) > 1:
        return within is None
    return max(m.start for m in mentions) - min(m.end for m in mentions) <= (within or WINDOW)
