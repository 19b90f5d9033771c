"""Whether words speak of what is the case now, or of what is denied, long past, the family's, or merely asked about.

After NegEx and ConText (Chapman et al. 2001; Harkema et al. 2009, J Biomed Inform 42:839): cues reach forward to the end of
their clause. Where a clause also says that it happens now (`today`, `since`, `ten minutes ago`), past and family yield: a
false alarm costs less than an emergency that is not seen.
"""

import re
from bisect import bisect_right
from enum import Enum
from functools import cached_property


class Scope(Enum):
    """Why a mention does not count as a sign."""

    denied = "denied"
    past = "past"
    family = "family"
    hypothetical = "hypothetical"


_PLAIN = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u02bc": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u2010": "-",
        "\u2011": "-",
        "\u2012": "-",
        "\u2013": "-",
        "\u00a0": " ",
        "\u200b": "",
        "\u00ad": "",
    }
)


def plain(text: str) -> str:
    """Lower case, with plain quotes, hyphens and single spaces; line ends stay."""
    return re.sub(r"[^\S\n]+", " ", text.translate(_PLAIN).lower())


# A point between digits or after `dr` ends no sentence.
_SENTENCE_END = re.compile(r"(?<!\bdr)(?<!\bmr)(?<!\bvs)[.?!;\n]+(?!\d)|(?<=\d)[.?!;]+(?=\s|$)")
# Where a clause turns, so that a denial before it says nothing of what follows.
_SUBJECT = r"(?:i|he|she|it|they|we|there|my|his|her|the|this|now|then|today|just|suddenly)\b"
_TURN = re.compile(
    r"[()]|\b(?:but|however|although|though|yet|except|because|since(?! (?:\d|yester|last|this|mon|tue|wed|thu|fri|sat"
    r"|sun))|while|until"
    r"|which|who|when|so (?=i\b|he\b|she\b|my\b|now\b))"
    rf"|\band (?={_SUBJECT}|has\b|have\b|had\b|is\b|are\b|feels?\b|also\b|a (?:severe|sudden|bad)|severe|suddenly)"
    rf"|, ?(?={_SUBJECT}|i'|it's|he's|she's)"
)
_STRONG = re.compile(
    r"\b(?:no(?! (?:idea|doubt|longer|one\b|matter|relief|better|use|help|improvement|energy|strength|wonder|sense|way"
    r"|choice|control"
    r"|history in|wet|urine|pee|tears|pulse|movements?|feeling|sensation|appetite|breath|response|warning|reaction))"
    r"|without|den(?:y|ies|ied|ying)|nor|neither|never|negative for|absence of|free of|ruled out"
    r"|(?:not|n['\u2019]t) (?:really |currently |actually |yet )?(?:have|having|had|has|any|feel(?:ing)?|experienc\w*"
    r"|suffer\w*"
    r"|notic\w*|see|seen|seeing|get|getting an?|been|developed?|complain\w*|report\w*))\b"
)
# What these deny ends soon: with the next comma, `and`, or after six words.
_WEAK = re.compile(
    r"\b(?:is|are|was|were|am|i'm|it's|he's|she's|that's|do|does|did|has|have|had|would|should|i've|they're)(?:n't"
    r"| not) "
    r"(?!(?:\w+ )?(?:know|sure|think|understand|realis\w+|realiz\w+|tell|stop\w*|improv\w*|better|help\w*|work\w*"
    r"|respond\w*|make|making"
    r"|able|want|certain|well|right|good|going away|go away|gone|only|just|like|eat\w*|drink\w*|sleep\w*|believe|care"
    r"|let|wait|ok)\b)"
)
_STRONG_REACH, _WEAK_WORDS = 140, 6
_REACH = 400  # characters; some people end no sentence
_LIST_BREAK = re.compile(r", ?(?=(?:severe|sudden\w*|terrible|crushing|intense|extreme|worst|excruciating)\b)")
_DURATION = re.compile(r"\b(?:for|since)\b[^,]*,")  # `no wind for three days, vomiting`
_DENIED_AFTER = re.compile(
    r" ?(?:[:-] ?(?:no|none|denied|absent|negative)\b|,? ?(?:is |are |was |were |has been )?(?:denied|absent|ruled out"
    r"|excluded|negative)\b"
    r"|\? ?no\b)"
)
_NUMBER = r"(?:\d+|an?|one|two|three|four|five|six|seven|eight|nine|ten|twenty|several|many|few|some|couple of)"
_PAST = re.compile(
    rf"\b{_NUMBER} ?(?:years?|yrs?|months?|decades?) (?:ago|back|earlier|before)\b|\blast (?:year|winter|summer|spring"
    rf"|autumn)\b"
    r"|\b(?:in|of|since) (?:19|20)\d\d\b|\byears ago\b|\bas an? (?:child|kid|teenager|baby|boy|girl)\b|\bin (?:my|his"
    r"|her) (?:childhood|youth|"
    r"twenties|thirties|teens)\b|\bwhen (?:i|he|she) was (?:\d+|young\w*|little|small|an? (?:child|kid|teen\w*|baby)"
    r"|in)\b|\bused to\b"
    r"|\b(?:long|some time|ages) ago\b|\bat (?:the )?age (?:of )?\d+\b|\bpreviously\b|\bweeks ago\b|\bin the past\b"
    r"|\bonce had\b"
)
_HISTORY = re.compile(r"\b(?:(?<!family )history of|previous|prior|past|hx of|h/o)\s(?:[\w'-]+ ){0,3}$")
_FAMILY = re.compile(
    r"\bfamily history|\bruns? in (?:the|my|our) family|\bin (?:my|our|the) family\b|\b(?:both|all) (?:my|his"
    r"|her) parents\b"
)
_KIN = (
    r"\b(?:my|his|her|our|whose)(?: \w+){0,2}? (?:father|mother|dad|mum|mom|grand\w*|uncle|aunt|cousin|brother|sister"
    r"|parents?|nan|gran|friend"
    r"|neighbou?r|colleague|coworker|classmate)s?(?:'s)?(?: side)?"
)
_KIN_PAST = re.compile(
    rf"{_KIN}(?: \w+){{0,2}} (?:had|has had|have had|died|suffered|was diagnosed|were diagnosed|survived|lost|passed"
    rf"|has a history|both had"
    rf"|also had|used to|got|took|committed|killed)\b|\b(?:death|suicide|stroke|heart attack) of {_KIN}"
)
_NOW = re.compile(
    r"\b(?:now|today|tonight|this (?:morning|afternoon|evening|week|minute)|currently|again|(?:minutes?|mins?|hours?"
    r"|hrs?|days?) ago|just (?:started|now|had"
    r"|began|happened)|start(?:ed|ing)|began|since|still|keeps?|getting|yesterday|last night|ongoing|at the moment"
    r"|happening|sudden(?:ly)?"
    r"|is having|are having|i am having|i'm having|worse|lately|recently|tomorrow|on the way|in front of me)\b"
)
_RETURNED = re.compile(
    r"\b(?:back|again|returned|the same|like (?:this|that|then))\b"
)  # `years ago, and today it is back`
_HYPOTHETICAL = re.compile(
    r"\b(?:what if|what happens if|if (?:i|he|she|they|we|it|you|someone|somebody|anyone|a person|my \w+"
    r"|the \w+) (?:ever|gets?|had|should|starts?"
    r"|develops?|experiences?|have|has|having|notices?|were to)|in case (?:of|i|he|she)|unless|(?:signs?|symptoms?"
    r"|causes?|treatment|definition|types|meaning|risks?|chances?"
    r"|likelihood|warning signs?|prevention|dangers?) (?:of|for|include)|worr(?:y|ied|ies|ying) about|afraid of"
    r"|scared of|fear(?:s|ing|ful)? (?:of|about)?"
    r"|anxious about|lead(?:s|ing)? to|(?:can|may|could|might|does|do|would|will) (?:\w+ ){0,4}(?:cause|trigger|give"
    r"|prevent|increase|happen)\w*|caus(?:es|ing)|prevent\w*|avoid\w*"
    r"|protect\w* (?:against|from)|screen(?:ed|ing)? for|test(?:ed|ing)? for|vaccin\w+ (?:against|for)"
    r"|side effects? (?:of|like|such|includ\w+|are|listed)"
    r"|leaflet|article|volunteer\w*|(?:talk|speak) to (?:somebody|someone|a person|people) who|people who|those who"
    r"|i (?:have |just )?read|read (?:about|that)|learn\w* about|saw a (?:film|video|post|documentary)|novel|essay"
    r"|exam|homework|lecture|training|course"
    r"|(?:difference|distinguish|tell) between|recogni[sz]e|know about|first aid|how (?:do|can|would|should) (?:i|we"
    r"|you|one|people|doctors) (?:know|tell|spot|treat|recogni[sz]e|help)"
    r"|what (?:is|are|does|causes?)|rule out|to exclude|just in case|do you (?:ask|mean)|dream\w*|nightmares?"
    r"|wondering (?:about|whether))\b"
)
_QUESTION = re.compile(
    r"\s*(?:and |so |hi |hello |also |please |doctor |doc )*(?:what|how|can|could|does|do|is|are|why|when|should|which"
    r"|who|would)\b"
)
_PERSONAL = re.compile(r"\b(?:i|i'm|i've|my|me|he|she|he's|she's|his|her|him|we|our|us|son|daughter|baby)\b")


class Text:
    """One message, read once: its sentences and clauses.

    Attributes:
        plain: As `plain` writes it; places of matches are places in it.
    """

    def __init__(self, text: str):
        self.plain = plain(text)

    @cached_property
    def _ends(self) -> list[int]:
        return [match.end() for match in _SENTENCE_END.finditer(self.plain)]

    def sentence(self, place: int) -> tuple[int, int]:
        """First and last place of the sentence around a place, or as much of it as a cue can reach."""
        index = bisect_right(self._ends, place)
        start = self._ends[index - 1] if index else 0
        end = self._ends[index] if index < len(self._ends) else len(self.plain)
        return max(start, place - _REACH), min(end, place + _REACH)

    def scopes(self, start: int, end: int) -> set[Scope]:
        """Why the words from `start` to `end` do not count; empty if they do."""
        first, last = self.sentence(start)
        sentence = self.plain[first:last]
        before, after = self.plain[first:start], self.plain[end:last]
        clause_before = before[self._last_turn(before) :]
        turn = _TURN.search(after)
        clause = clause_before + self.plain[start:end] + (after[: turn.start()] if turn else after)
        found = set()
        if _denied(clause_before, self.plain[start:end]) or _DENIED_AFTER.match(
            self.plain, end, min(len(self.plain), end + 24)
        ):
            found.add(Scope.denied)
        now = bool(_NOW.search(sentence))
        if _HISTORY.search(clause_before) or self._past(clause, before, sentence, now=now):
            found.add(Scope.past)
        kin = _FAMILY.search(sentence) or _KIN_PAST.search(clause) or _KIN_PAST.search(before)
        if kin and not now:
            found.add(Scope.family)
        if not now and self._hypothetical(before, sentence):
            found.add(Scope.hypothetical)
        return found

    @staticmethod
    def _last_turn(before: str) -> int:
        place = 0
        for match in _TURN.finditer(before):
            # `when he was six` opens a clause of the past and belongs to it.
            place = match.start() if match[0] == "when" else match.end()
        return place

    @staticmethod
    def _past(clause: str, before: str, sentence: str, *, now: bool) -> bool:
        if now and _RETURNED.search(sentence):
            return False
        if _PAST.search(clause) and not _NOW.search(clause):
            return True
        if now or not _PAST.search(sentence):
            return False
        return bool(_PAST.search(before)) and bool(
            re.search(r"\b(?:had|was|were|did|used|got|went|took|tried)\b|\w+ed\b", clause)
        )

    @staticmethod
    def _hypothetical(before: str, sentence: str) -> bool:
        cue = None
        for match in _HYPOTHETICAL.finditer(before):
            cue = match
        if cue is not None and not re.search(r"\bbut\b|\bbecause\b|, (?:i|he|she|my) ", before[cue.end() :]):
            return True
        return sentence.rstrip().endswith("?") and bool(_QUESTION.match(sentence)) and not _PERSONAL.search(sentence)


def _denied(clause_before: str, matched: str) -> bool:
    strong = None
    for match in _STRONG.finditer(clause_before):
        strong = match
    if strong is not None:
        between = clause_before[strong.end() :]
        listing = strong[0].startswith(("den", "never", "without"))
        broken = not listing and (_LIST_BREAK.search(between + matched) or _DURATION.search(between))
        if len(between) <= _STRONG_REACH and not broken:
            return True
    weak = None
    for match in _WEAK.finditer(clause_before):
        weak = match
    if weak is None:
        return False
    between = clause_before[weak.end() :]
    return "," not in between and " and " not in between and len(between.split()) <= _WEAK_WORDS
