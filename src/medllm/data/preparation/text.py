"""The steps of cleaning that change text, each a function of the text alone.

A step first looks for what it could change by the cheapest means: most texts need nothing of most steps. No pattern can
scan the same stretch twice, so that no text, however made, takes longer than its length warrants.
"""

import re
from html import unescape
from html.entities import html5

import ftfy

# Quotes stay as they are written; entities belong to `html`, which knows comparisons from tags.
_FTFY = ftfy.TextFixerConfig(unescape_html=False, uncurl_quotes=False, normalization="NFC", explain=False)
# Mojibake needs a letter such as `Ã` or `â`: text of these characters alone has none, and nothing else ftfy would change.
_HARMLESS = re.compile(r"[\x00-\x7f\xa0\u2018\u2019\u201c\u201d\u2013\u2014\u2026\u2022\u00b0\u00b2\u00b3\u00bd]*+")
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*+[ -/]*+[@-~]")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")
# Zero-width, bidirectional and tag characters; the last can hold whole sentences that nobody sees.
_INVISIBLE = re.compile(
    "[\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
# Joiners shape emoji and the letters of Arabic and Indic scripts; elsewhere they are invisible only.
_JOINERS = re.compile("(?<![\u200c\u200d])[\u200c\u200d]++(?![^\x00-\u02ff])|(?<![^\x00-\u02ff])[\u200c\u200d]++")
_LOST_APOSTROPHE = re.compile(r"(?<=[A-Za-z])\ufffd(?=(?:s|t|m|d|re|ve|ll)\b)")
_ODD_SPACE = re.compile("[\x80-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u2800\u3000\u3164\ufffc\ufffd]")
_SPACES = re.compile(" {2,}")
_BREAKS = re.compile("\n{3,}")


def unicode(text: str) -> str:
    """Repairs mojibake, removes what cannot be seen, and normalises spaces, line ends and composed letters."""
    if _CONTROL.search(text):
        text = re.sub("\r\n?", "\n", _ESCAPE.sub("", text))
        text = _CONTROL.sub(" ", text)
    if not text.isascii():
        text = _repair(text)
    if "  " in text:
        text = _SPACES.sub(" ", text)
    if "\n" in text:
        text = _BREAKS.sub("\n\n", "\n".join(line.strip(" ") for line in text.split("\n")))
    return text.strip()


def _repair(text: str) -> str:
    if not _HARMLESS.fullmatch(text):
        # The last byte of a closing quote means nothing in cp1252 and was lost on the way.
        text = ftfy.fix_text(text.replace("â€\ufffd", "”"), _FTFY)
        text = _JOINERS.sub("", _INVISIBLE.sub("", text))
        text = _LOST_APOSTROPHE.sub("'", text)
    return _ODD_SPACE.sub(" ", text)


# Not `s`, which is a control token of many models and an HTML tag of few pages.
_INLINE = (
    "a abbr acronym audio b bdi bdo big button canvas cite code data datalist del dfn em embed font i iframe img input ins "
    "kbd label link map mark meta object output param picture q samp select small source span strike strong sub sup svg "
    "textarea time track tt u var video wbr"
)
_BLOCK = (
    "address applet area article aside base blockquote body br caption center col colgroup dd details dialog dir div dl dt "
    "fieldset figcaption figure footer form frame frameset h1 h2 h3 h4 h5 h6 head header hgroup hr html legend li main menu "
    "meter nav noframes noscript o:p ol optgroup option p pre progress script section style summary table tbody td template "
    "tfoot th thead title tr ul"
)
# A value is needed: `p <b and c> d` compares.
_ATTRIBUTE = (
    r"""\s++(?:[\w:.-]++\s*+=\s*+(?:"[^"<]*+"|'[^'<]*+'|[^\s"'<>]++)|async|checked|controls|defer|disabled|hidden)"""
)
_MARKUP = re.compile(
    r"<(?:!--[^<-]*+(?:(?:-(?!->)|<(?!!--))[^<-]*+)*+-->"
    r"|(?P<raw>script|style)\b[^<>]*+>[^<]*+(?:<(?!/?(?P=raw)\b)[^<]*+)*+</(?P=raw)\s*+>"
    r"|!doctype\b[^<>]*+>"
    rf"|/?(?:(?P<block>{_BLOCK.replace(' ', '|')})|{_INLINE.replace(' ', '|')})(?:{_ATTRIBUTE})*+\s*+/?>)",
    re.IGNORECASE,
)
_NESTED_AMP = re.compile(r"&(?:(?:amp|#0*+38|#x0*+26);)++(?=\w|#)", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:(?:#\d{1,7}|#[xX][\da-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});|nbsp(?![\w=]))")


def html(text: str) -> str:
    """Removes tags, comments and scripts and resolves entities; comparisons and control tokens stay.

    A regular expression, because a parser takes `<b and c>` for a tag and any `<name>` of a control token for another.
    """
    if "&" in text:
        text = _ENTITY.sub(_resolve, _NESTED_AMP.sub("&", text))
    if "<" in text:
        text = _MARKUP.sub(lambda match: "\n" if match["block"] else "", text)
    return text


def _resolve(match: re.Match[str]) -> str:
    name = match[0][1:]
    known = name[0] == "#" or name in html5
    return unescape(match[0]) if known or name == "nbsp" else match[0]


_SITE = (
    r"(?:the |our |this )?(?:chat ?doctor|ic?l[ic]{1,3}niq|hcm|health ?care ?magic|healthtap|ehealth ?forum|forum|web ?site"
    r"|[\u2018'\"\u201c]?ask a doctor[\u2019'\"\u201d]?)(?:\.? ?com(?=i?\b))?(?: forum| service| platform| website)?"
)
_SPECIALIST = r"(?:(?:an?|your|the) ){0,2}[^.?!\n]{0,80}?\bonline\b"
_LINK = r"(?: for further [\w ]{1,30}+)?[ .]{0,3}+(?:-++>?+)?+ ?(?:<link>)?\.?"
# Each with what a text must hold to be worth the search. They begin with a letter and read lower case, which lets `re` skip
# from one such letter to the next.
_BOILERPLATE = tuple(
    (word, re.compile(rf"{pattern} *+"))
    for word, pattern in (
        ("welcome", rf"welcome (?:you )?to {_SITE}[ .,!]*+"),
        (
            "thank",
            r"thank(?:s| you)(?: so much| a lot| very much)? for (?:(?:posting|asking|sharing) )?(?:your |the |this )?"
            r"(?:query|question|queries|questions|concern|posting|post|consulting|writing|asking|using)"
            rf"(?: (?:(?:on|at|to|in|with|us|here) )?{_SITE}| us| here)?(?:[.,!]++|(?=\n|\Z))",
        ),
        (
            "diligence",
            r"i have gone through your (?:query|question)s? with diligence(?: and would like you to know that i am here to "
            r"help you)?\.?",
        ),
        (
            "attachment",
            r"(?:\(attachment|attachment)s?(?: (?:is|are|was|were|has been|have been))? removed to ?protect (?:the )?"
            r"patient(?:['\u2019]?s)? identity\b\)?",
        ),
        ("online", rf"(?:for|in case of) (?:any )?(?:more|further)\b[^.?!\n]{{0,40}}?\bconsult {_SPECIALIST}{_LINK}"),
        ("online", rf"consult(?<=[.:?!] consult) {_SPECIALIST}{_LINK}"),
        # When to come back is advice, and stays; only with what, and to whom, is the forum's.
        (
            "online",
            rf"(?:revert(?: back)?|get back)(?! back| after| in\b| within)[^.?!\n]{{0,90}}? (?:to|with) {_SPECIALIST}{_LINK}",
        ),
        (
            "online",
            rf"(?P<advice>revert(?: back)? (?:after|in|within)\b[^.?!\n]{{1,40}}?) (?:to|with) {_SPECIALIST}{_LINK}",
        ),
        ("video or text chat", r"would you like to video or text chat with me\?"),
        ("chatdoctor", r"for (?:any )?(?:more|further) \w++ consult (?:an? ){1,2}chatdoctor\b\.?"),
        ("chatdoctor", r"chatdoctor\b\.?"),
        ("chat doctor", r"chat doctor\b\.?"),
        ("<link>", r"<link>"),
        ("->", r"-(?<!--)-++>(?=\s*+\Z|\n)"),
    )
)
# The beginning of a sentence that the patterns above found the rest of.
_LEAD = re.compile(
    r"(?:(?:,? ?\band|\bi|\ba|\bwarm|\bmany|\bplease|\bkindly|\bregarding follow[ -]?up ?:) ?)+\Z|(?<= ) ++\Z",
    re.IGNORECASE,
)
_SIGNATURE = re.compile(
    r"(?<=[.?!,\n ])(?<![a-z] )(?:take care\b(?: [A-Z][a-z]++)?|(?:(?:with|thanks|warm|best|kind|and|&)[ ,]+){0,4}regards\b"
    r"[ ,.-]*+(?-i:Dr\b[^\n?!]{0,40}|(?:[A-Z]\w++[ .]?){0,3}))[ .!]*+\Z",
    re.IGNORECASE,
)
_QUESTION_MARK = re.compile(r"(?:Q\.(?: ++|\Z))++")


# Scripts without spaces between words count by the letter.
WORD = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]|[^\W_]+")
# An answer of these words alone says nothing about the patient.
_COURTESIES = frozenset(
    WORD.findall(
        "a able about adequately ahead all always am an and answer answered answers any anytime anything are as ask assist "
        "assistance at attached attachment attachments back based be been before best better but call can case clarified clear "
        "cleared concern concerns contact data day dear detail details diligence do doctor does doubt doubts else feel follow "
        "following follows for found free friend further get given glad gone good had happy have health hello help helped "
        "helpful helps here hesitate hey hi history hope hopefully how i if image images in information is it kindly know "
        "let like look looked luck madam me more much my need nice not of on opinion or other photo photograph photos picture "
        "pictures please posted posting queries query question questions read received regarding regards replied reply report "
        "reports resolved revert reviewed satisfied saw seen share shared sharing sir so solved sorry still submitted thank "
        "thanked thanks that the this through to uploaded understand understood up use useful user very warm was we welcome "
        "well went will wish wishes wishing with would write you your yours"
    )
)
# What such an answer still says: whom to see.
_REFERRAL = re.compile(
    r"((?:for (?:any )?(?:more|further) [a-z]++ )?consult (?:an?|your|the) [a-z ,]{3,60}?) online\b", re.IGNORECASE
)


def courteous(text: str) -> bool:
    """Whether a text says nothing beside greetings, thanks and the like."""
    return len(text) < 400 and all(word[0] in _COURTESIES for word in WORD.finditer(text.lower()))


def boilerplate(text: str) -> str:
    """Removes what forums put around a question and its answer, sentence by sentence.

    Greetings stay, and so does advice when to come back. Of an answer that only refers to a specialist, this much stays; one
    that holds nothing else is left to the check `stub`.
    """
    cleaned = text[found.end() :] if (found := _QUESTION_MARK.match(text)) else text
    lowered = _lower(cleaned)
    for word, pattern in _BOILERPLATE:
        if word in lowered and (matches := list(pattern.finditer(lowered))):
            cleaned = _cut(cleaned, matches)
            lowered = _lower(cleaned)
    end = lowered[-150:]
    if "regards" in end or "take care" in end:
        cleaned = cleaned[:-150] + _SIGNATURE.sub("", cleaned[-150:])
    if cleaned == text:
        return text
    if (referral := _REFERRAL.search(text)) and courteous(cleaned):
        cleaned = f"{cleaned.strip()} {referral[1][0].upper()}{referral[1][1:]}."
    return _SPACES.sub(" ", cleaned).strip()


def _lower(text: str) -> str:
    """Lower case, letter for letter."""
    lowered = text.lower()
    return lowered if len(lowered) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def _cut(text: str, matches: list[re.Match[str]]) -> str:
    """The text without the matches, and with a full stop where one took that of the words before it."""
    pieces, cursor = [], 0
    for match in matches:
        start = max(cursor, match.start() - 60)
        before = _LEAD.sub("", text[start : match.start()])
        pieces += [text[cursor:start], before]
        kept = before.rstrip()[-1:]
        if advice := match.groupdict().get("advice"):
            pieces.append(f"{text[match.start() : match.start() + len(advice)]}. ")
        elif text[match.end() : match.end() + 1] in (*".,;!?)", ""):
            pieces[-1] = before.rstrip(" .") if text[match.end() : match.end() + 1] == "." else before.rstrip(" ")
        elif kept.isalnum() and match[0].rstrip().endswith((".", "!")):
            pieces[-1] = f"{before.rstrip(' ')}. "
        cursor = match.end()
    return "".join([*pieces, text[cursor:]])


_GLUED = re.compile(r"[.,?!](?:(?<!\.)(?=[A-Za-z])|(?<=\.)(?=[A-Z][a-z]|[IA](?:[ '\u2019]|\Z)))(?<=[a-z)].)")
_ADDRESS = re.compile(r"://|www\.|@")


def glued_sentences(text: str) -> str:
    """Puts the missing space into `days.I have` and `doctor,I am`; links, addresses, numbers and abbreviations stay."""
    if not _GLUED.search(text):
        return text
    if not _ADDRESS.search(text):
        return _GLUED.sub(r"\g<0> ", text)
    return re.sub(r"\S++", lambda word: word[0] if _ADDRESS.search(word[0]) else _GLUED.sub(r"\g<0> ", word[0]), text)


_ANGLE = (
    r"s|bos|eos|pad|unk|mask|cls|sep|sop|eop|eoh|eoa|eod|eot|BOS|EOS|PAD|UNK|MASK|CLS|SEP|EOT|(?:BOS|EOS|MASK|UNK|PAD)_TOKEN"
    r"|think|thinking|tools?|tool_\w++|functions?|function_\w++|function=[^<>\n]*+|system|user|assistant|human|bot|image"
    r"|(?:start|end)_of_\w++|image_soft_token|fim_\w++|(?:extra_id_|reserved_|unused)\d++|[a-z_]++\|"
)
_SQUARE = (
    "INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|ARGS|CALL_ID|THINK|MODEL_SETTINGS|PREFIX|MIDDLE"
    "|SUFFIX|IMG|IMG_BREAK|IMG_END|AUDIO|BEGIN_AUDIO|CLS|SEP|MASK|PAD|UNK|BOS|EOS|EOT|gMASK|sMASK"
)
# No token but `<<SYS>>` holds another's first character, so none survives inside a broken one.
_TOKENS = re.compile(
    rf"<(?=[|\uff5c]|</?SYS>>|/?(?:{_ANGLE})>)|\[(?=/?(?:{_SQUARE})\])"
    r"|#(?=## ?(?:Response|Instruction|Input|Human|Assistant|User|System) ?:)"
)
_SPEAKERS = ("Human:", "Assistant:", "User:", "System:", "HUMAN:", "ASSISTANT:", "USER:", "SYSTEM:")
_PSEUDO_TURN = re.compile(rf"^ ?(?:{'|'.join(f'{name[0]}(?={name[1:]})' for name in _SPEAKERS)})", re.MULTILINE)


def neutralise(text: str) -> str:
    """The text with every control token of a known chat template broken by a space after its first character.

    What `Renderer.neutralise` does for the tokens of one model, so that a data set is safe for the next one too. Pseudo-turns
    (`Human:`) count at a line's start only; `Patient:` and `Doctor:` are how people write.
    """
    if "<" in text or "[" in text or "###" in text:
        text = _TOKENS.sub(r"\g<0> ", text)
    for name in _SPEAKERS:
        if name in text:
            return _PSEUDO_TURN.sub(r"\g<0> ", text)
    return text
