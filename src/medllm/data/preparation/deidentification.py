"""Finds identifiers in conversations by rules, and masks or replaces them. No model, no network, no guarantee.

See docs/deidentification.md for what this cannot promise.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

from medllm.config.preparation import Deidentification, DeidentificationConf
from medllm.conversation import Conversation
from medllm.data.preparation.cues import CUES
from medllm.data.preparation.identifiers import CODES, MARKED, NUMBERS, Identifier, IdentifierType
from medllm.data.preparation.name_cues import NO_PERSON, Cue, foreign_names
from medllm.data.preparation.names import FIRST_NAMES, WORDS_TOO
from medllm.data.preparation.surrogates import Surrogates, is_month_first
from medllm.data.preparation.vocabulary import (
    CITIES,
    EPONYMS,
    HOTLINES,
    ORDINARY,
    PARTICLES,
    REGIONS,
    SURNAMES_TOO,
)

__all__ = ["Deidentifier", "Identifier", "IdentifierType", "find", "mask"]

_NUMBERS = re.compile("|".join(f"({pattern})" for _, pattern in NUMBERS))
_CODES = re.compile("|".join(f"({pattern})" for _, pattern in CODES))
_MARKED = [(kind, re.compile(mark), re.compile(pattern, re.I)) for kind, mark, pattern in MARKED]
_DIGITS = re.compile("[0-9]+")
_WORDS = re.compile("[a-z]{2,}")
_CONTRACTIONS = ("i'm", "i\u2019m")
_CUE_WORDS = frozenset(CUES)
_NAME_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][A-Z][^\W\d_]+)*")
_VERB_ENDING = re.compile(r"(?:ing|[^aeh]ed|ly|n't)$")
_PAUSE = re.compile(r"\s?(?:[.,;:!?)\n]|$)| and\b")
_NEVER_NAMES, _SELDOM_NAMES = ORDINARY - SURNAMES_TOO, ORDINARY | EPONYMS
_NOT_ALONE = _SELDOM_NAMES | WORDS_TOO | CITIES | REGIONS
_NUMERIC = {IdentifierType.RECORD_NUMBER, IdentifierType.ACCOUNT_NUMBER, IdentifierType.LICENSE, IdentifierType.DEVICE}
_DOSE_OR_YEAR = re.compile(r"(?:19|20)\d\d|\d{1,5}(?:mg|mcg|ml|g|kg|iu|mm|cm)", re.I)
_TOWN_BEFORE_ZIP = re.compile(r"(?:[A-Z][a-z]{1,20} ){0,2}[A-Z][a-z]{1,20}, ?[A-Z]{2} $")


def find(text: str) -> list[Identifier]:
    """Every identifier in a text, sorted and without overlap; masking them leaves nothing more to find."""
    return _find_all([text])[0]


def mask(text: str) -> str:
    """The text with every identifier replaced by its type, for reports."""
    return _replaced(text, find(text), lambda _, kind: f"[{kind.name}]")


class Deidentifier:
    """Treats the identifiers of conversations as the configuration says."""

    def __init__(self, conf: DeidentificationConf):
        self.conf = conf
        self.surrogates = Surrogates(conf.seed)

    def apply(self, conversation: Conversation) -> tuple[Conversation, Counter[str]]:
        """The conversation, changed if the mode says so, and how many identifiers of each type it held."""
        if self.conf.mode is Deidentification.off:
            return conversation, Counter()
        texts = [message.content for message in conversation.messages]
        found = _find_all(texts)
        counts = Counter(identifier.type.name for spans in found for identifier in spans)
        if not counts or self.conf.mode is Deidentification.count:
            return conversation, counts
        substitute = self._substitute(texts, found)
        messages = tuple(
            replace(message, content=_replaced(message.content, spans, substitute))
            for message, spans in zip(conversation.messages, found, strict=True)
        )
        return replace(conversation, messages=messages), counts

    def _substitute(self, texts: list[str], found: list[list[Identifier]]) -> Callable[[str, IdentifierType], str]:
        if self.conf.mode is Deidentification.placeholder:
            return lambda _, kind: f"[{kind.name}]"
        shift = self.surrogates.shift("\n".join(texts))
        month_first = any(
            is_month_first(text[i.start : i.end]) for text, spans in zip(texts, found, strict=True) for i in spans
        )
        return lambda value, kind: self.surrogates.replace(value, kind, shift, month_first)


def _replaced(text: str, identifiers: list[Identifier], substitute: Callable[[str, IdentifierType], str]) -> str:
    parts, done = [], 0
    for i in identifiers:
        parts += [text[done : i.start], substitute(text[i.start : i.end], i.type)]
        done = i.end
    return "".join([*parts, text[done:]])


def _find_all(texts: list[str]) -> list[list[Identifier]]:
    """The identifiers of each text; a name found in one is looked for in all."""
    found: list[list[Identifier]] = [[] for _ in texts]
    masked = list(texts)
    # What is found may have hidden what else there is: look again, with placeholders of the same length in its place.
    while any(new := [_scan(text) for text in masked]):
        known = _known_names(masked, new)
        for i, text in enumerate(masked):
            spans = _merged(new[i] + _known_again(text, known))
            found[i] += spans
            masked[i] = _replaced(text, spans, lambda value, _: "[" + "]" * (len(value) - 1))
    return [sorted(spans) for spans in found]


def _scan(text: str) -> list[Identifier]:
    text = text.replace("\xa0", " ")
    lower = text.lower()
    if len(lower) != len(text):  # a few letters become two
        lower = "".join(letter.lower()[0] for letter in text)
    found = [Identifier(*word.span(), IdentifierType.NAME) for word in foreign_names(text)]
    found += [
        Identifier(*match.span(match.lastindex or 0), kind)
        for kind, mark, pattern in _MARKED
        if mark.search(lower)
        for match in pattern.finditer(text)
    ]
    done = 0
    for run in _DIGITS.finditer(text):
        start = run.start()
        if start >= done and (number := _number(text, start)):
            found.append(number)
            done = number.end
    words = _CUE_WORDS.intersection(_WORDS.findall(lower)).union(word for word in _CONTRACTIONS if word in lower)
    for word in words:
        for start in _occurrences(word, lower):
            for cue in CUES[word]:
                match = cue.pattern.match(text, start)
                if match and (identifier := _announced(text, cue, match)):
                    found.append(identifier)
    return _merged(found)


def _occurrences(word: str, text: str) -> Iterator[int]:
    """Where a word stands by itself; faster than to look at every word of a text."""
    start = text.find(word)
    while start >= 0:
        end = start + len(word)
        if not (text[start - 1 : start].isalpha() or text[end : end + 1].isalpha()):
            yield start
        start = text.find(word, end)


def _number(text: str, start: int) -> Identifier | None:
    """The identifier that begins with the run of digits at `start`, or with the capitals before it."""
    before = text[start - 1 : start]
    if before.isalpha():
        start = next((i + 1 for i in range(start - 1, max(start - 12, -1), -1) if not text[i].isalnum()), start)
        match = _CODES.match(text, start)
        return Identifier(*match.span(), CODES[_index(match)][0]) if match and text[start - 1 : start] != "]" else None
    if before in ("_", "]") or (before and before in "./:-,\u2013" and text[start - 2 : start - 1].isdigit()):
        return None
    match = _NUMBERS.match(text, start)
    if not match:
        return None
    kind = NUMBERS[_index(match)][0]
    if kind is IdentifierType.PHONE and not _is_phone(match[0]):
        return None
    if kind is IdentifierType.PHONE:
        while start and text[start - 1] in "+(":
            start -= 1
    elif kind is IdentifierType.ADDRESS and (town := _TOWN_BEFORE_ZIP.search(text, max(start - 70, 0), start)):
        start = town.start()
    return Identifier(start, match.end(), kind)


def _index(match: re.Match[str]) -> int:
    return (match.lastindex or 0) - 1


def _is_phone(value: str) -> bool:
    digits = re.sub(r"(?:ext|x).*|\D", "", value)
    # Eight digits that begin with 0 are rather a drug's code.
    return (
        (9 if digits[:1] == "0" else 7) <= len(digits) <= 15
        and digits not in HOTLINES
        and digits.removeprefix("1") not in HOTLINES
    )


def _announced(text: str, cue: Cue, match: re.Match[str]) -> Identifier | None:
    """What a cue announces, if it is there."""
    if cue.type is IdentifierType.NAME and not cue.pattern.groups:
        end = _name_end(text, match.end(), cue)
        if end is None or (cue.after and not cue.after.match(text, end)):
            return None
        return Identifier(match.end(), end, cue.type)
    if not cue.pattern.groups:
        end = _place_end(text, match.end())
        return Identifier(match.end(), end, cue.type) if end else None
    if cue.type is IdentifierType.PHONE and not _is_phone(match[1]):
        return None
    if cue.type in _NUMERIC and not _is_number(match[1]):
        return None
    return Identifier(*match.span(1), cue.type)


def _is_number(value: str) -> bool:
    """Whether a word behind a cue can be a number of its kind: not a year, a dose or a count."""
    digits = sum(character.isdigit() for character in value)
    return digits >= 2 and sum(map(str.isalnum, value)) >= 4 and not _DOSE_OR_YEAR.fullmatch(value)


def _name_end(text: str, start: int, cue: Cue) -> int | None:
    """Where the name that begins at `start` ends: one to four words, initials and particles included."""
    end, at, count, known = None, start, 0, False
    while match := _NAME_WORD.match(text, at):
        word, low, sure = match[0], match[0].lower(), cue.title or known
        at = match.end()
        if len(word) == 1:
            if not word.isupper() or (word == "I" and text[at : at + 1] != "."):
                break
            at += text[at : at + 1] == "."
        elif low in (_NEVER_NAMES if sure and word[0].isupper() else _SELDOM_NAMES):
            break
        elif low in FIRST_NAMES or _may_be_name(text, match, cue, count):
            end, count, known = at, count + 1, known or low in FIRST_NAMES
            if not cue.title and NO_PERSON.match(text, end):
                return None
        elif not (count and low in PARTICLES):
            break
        if count == 4 or text[at : at + 1] not in (" ", "-", "."):
            break
        at += text[at : at + 1] in (" ", "-")
    return end if known or count >= cue.words else None


def _may_be_name(text: str, match: re.Match[str], cue: Cue, count: int) -> bool:
    word = match[0]
    if not word.islower():
        return word[0].isupper() and (cue.lower or not word.isupper())
    if not cue.lower or len(word) < 3 or _VERB_ENDING.search(word):
        return False
    # A surname in small letters behind a first name: only where nothing of a sentence follows.
    return not count or (text[match.start() - 2].islower() and bool(_PAUSE.match(text, match.end())))


def _place_end(text: str, start: int) -> int | None:
    """Where the place that begins at `start` ends, if it is smaller than a state."""
    end, at = None, start
    for _ in range(3):
        match = _NAME_WORD.match(text, at)
        low = match[0].lower() if match else ""
        if not match or low in REGIONS or (low in ORDINARY and low != "new"):
            break
        if not (low in CITIES or (match[0][0].isupper() and not match[0].isupper())):
            break
        if low != "new":
            end = match.end()
        at = match.end() + 1
    return end


def _known_names(texts: list[str], found: list[list[Identifier]]) -> set[str]:
    """The words of the names found that are worth looking for elsewhere."""
    return {
        form
        for text, spans in zip(texts, found, strict=True)
        for i in spans
        if i.type is IdentifierType.NAME
        for word in _NAME_WORD.findall(text[i.start : i.end])
        if len(word) > 2 and word.lower() not in _NOT_ALONE
        for form in (word.capitalize(), word if word[0].isupper() else word.capitalize())
    }


def _known_again(text: str, known: set[str]) -> list[Identifier]:
    if not known:
        return []
    return [
        Identifier(*word.span(), IdentifierType.NAME)
        for word in _NAME_WORD.finditer(text)
        if word[0] in known and not NO_PERSON.match(text, word.end())
    ]


def _merged(identifiers: list[Identifier]) -> list[Identifier]:
    """Sorted; overlapping ones become one of the longer's type, so that no part of either stays."""
    merged: list[Identifier] = []
    for i in sorted(identifiers):
        last = merged[-1] if merged else None
        if last is None or i.start >= last.end:
            merged.append(i)
        else:
            longer = max(last, i, key=lambda one: one.end - one.start)
            merged[-1] = Identifier(last.start, max(last.end, i.end), longer.type)
    return merged
