"""Words that announce a name: titles, greetings, kinship, roles, closings; and names that announce themselves."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from medllm.data.preparation.identifiers import IdentifierType
from medllm.data.preparation.names import FIRST_NAMES, NOT_IN_SMALL_LETTERS, SURNAMES, WORDS_TOO


@dataclass(frozen=True)
class Cue:
    """What a cue word announces.

    Attributes:
        type: Of the identifier.
        pattern: Matched from the cue word; its group 1 is the identifier, or it ends where a name or a place begins.
        after: What must follow a name, if the cue alone is too weak.
        lower: Whether a name of small letters counts.
        words: How many words a name must have, known first names apart.
        title: Whether the cue is a title, after which an eponym is a name too.
    """

    type: IdentifierType
    pattern: re.Pattern[str]
    after: re.Pattern[str] | None = None
    lower: bool = False
    words: int = 1
    title: bool = False


def cue(
    keys: str,
    pattern: str,
    kind: IdentifierType,
    *,
    after: str = "",
    lower: bool = False,
    words: int = 1,
    title: bool = False,
) -> list[tuple[str, Cue]]:
    """A cue under each of its words; the other arguments are the attributes of `Cue`."""
    one = Cue(kind, re.compile(pattern, re.I), re.compile(after, re.I) if after else None, lower, words, title)
    return [(word, one) for word in re.split("[ |]", keys)]


KIN = (
    "son|daughter|wife|husband|mother|father|mom|mum|dad|brother|sister|friend|boyfriend|girlfriend|partner|fiance|"
    "fiancee|grandmother|grandfather|grandma|grandpa|grandson|granddaughter|uncle|aunt|cousin|niece|nephew|"
    "colleague|neighbour|neighbor|boss|roommate|stepson|stepdaughter|twin"
)
_PERSON = "patient|client|attending|physician|provider|surgeon|consultant|mother|father|spouse|guardian|doctor"
_ROLE = (
    f"{KIN}|midwife|physiotherapist|physio|therapist|nurse|carer|caregiver|aide|driver|bestie|mate|flatmate|housemate|"
    "counsellor|counselor|dietitian|pharmacist|paramedic|psychologist|psychiatrist|surgeon|dentist|optician|receptionist|"
    "tutor|teacher|coach|manager|caller|client|applicant|registrar|resident|toddler|interpreter|"
    "cardiologist|dermatologist|gynaecologist|gynecologist|neurologist|oncologist|urologist|obstetrician|doula"
)
# What persons do, and words do not.
_ACTS = (
    "takes|took|says|said|needs|wants|went|fell|broke|got|gets|keeps|called|told|feels|felt|asked|started|stopped|had|has|"
    "complains|lives|works|smokes|drinks|weighs|does|cries|cried|sleeps|eats|vomited|coughs|woke|came|threw|hit|cut"
)
_CLOSING = "regards|sincerely|yours|wishes|cheers|love|warmly|thanks|best|truly"
_PAUSE = r"\s{0,2}(?:[.,;:!?\n)]|-|$)|\s(?:and|here|from|i|i'm|how|my|aged|who|has|is|was|had)\b"
_LINE_END = r"[.,!)]?[^\S\n]{0,3}(?:\n|$|,? (?:MD|MBBS|RN|PhD|M\.D))"
_ASIDE = r",? ?\(?(?:,|\d|who\b|has\b|is\b|was\b|had\b|and\b|aged|he\b|she\b|\.|born|$)"
_HERE = r" (?:from|here|calling|writing|speaking|again|and I)\b|, (?:calling|\d\d|a )"
_NAME = IdentifierType.NAME
# A word may stand in several lines: each is tried.
NAME_CUES = [
    cue("dr mr mrs prof", r"(?:dr|prof|mrs|(?-i:Mr|mr)|mr\.)\b\.? {0,2}(?:dr\.? ?)?", _NAME, lower=True, title=True),
    cue(" ".join(SURNAMES), r"(?-i:(?=[A-Z][a-z]))", _NAME),
    cue(
        " ".join(name for name in FIRST_NAMES - NOT_IN_SMALL_LETTERS if len(name) > 3),
        r"(?<![-@./_\]])(?-i:(?=[a-z]+(?:['\u2019]s)?(?:[\s,;:!?)]|\.?(?:\s|$))))",
        _NAME,
    ),
    cue(
        " ".join(WORDS_TOO),
        rf"(?-i:(?=[A-Z][a-z]+ (?:has been \w+ing|was (?:born|diagnosed)|(?:{_ACTS})\b"
        r"[^.\n\[]{0,60}\b(?:his|her|he|she)\b)))",
        _NAME,
        title=True,
    ),
    cue(
        " ".join(WORDS_TOO - {"april", "june"}),
        r"(?-i:(?=[A-Z])(?:(?<= for )|(?<= with )|(?<= to )|(?<= does )|(?<= did )|(?<=^Does )|(?<=^Did )|(?<= when )|"
        r"(?<= that )|(?<= tell )|(?<= told )|(?<= ask )|(?<= is )|(?<= asked ))"
        r"(?=[A-Z][a-z]+(?: (?:to (?!my|the|be)|need|want|have to|at the|has|had|"
        r"and I|who|says|said|is a|was a|get|take|from the|that (?:he|she|I)|if (?:he|she))\b|, (?:he|she|his|her|my)\b)))",
        _NAME,
        title=True,
    ),
    cue("call called calls", r"\w{4,6} me ", _NAME, after=_PAUSE, title=True),
    cue(
        "spoke speak talk talked speaking talking met",
        r"(?:\w{4,8} (?:to|with)|met) (?-i:(?=[A-Z][a-z]))",
        _NAME,
        after=r" (?:at|about|from|who|and (?:he|she)|yesterday|today|in the|on the|this|last)\b|[,.]",
        title=True,
    ),
    cue(
        _ROLE,
        r"(?-i:(?<![A-Z])[a-z]{2,16})(?: in law|-in-law)?,? (?:is |old |little |named |called |now )?(?-i:(?=[A-Z][a-z]+\b))",
        _NAME,
        after=rf"[,.)]|$| (?:{_ACTS}|who|will|did|put|gave|and|at|thinks|is|was|found|noticed)\b",
    ),
    cue(
        "caller applicant claimant patient client resident",
        r"\w{6,9} (?-i:(?=[A-Z][a-z]+ [A-Z][a-z]+\b))",
        _NAME,
        words=2,
        after=r",| (?:is|was|has|had|presented|presents|came|called|says|said|reports|signed)\b|$",
    ),
    cue(
        "ji jae eun min soo hyun seo jun young hye jin kyung sung mi yeon woo ha da su sang dong joon seung tae",
        r"((?-i:(?:Ji|Jae|Eun|Min|Soo|Hyun|Seo|Jun|Young|Hye|Jin|Kyung|Sung|Mi|Yeon|Woo|Ha|Da|Su|Sang|Dong|Joon|Seung|Tae)"
        r"-[a-zA-Z][a-z]{1,5}\b(?: [A-Z][a-z]{1,8}\b)?))",
        _NAME,
    ),
    cue(
        "mei jean anna marie mary xiao ana jose",
        r"(?-i:((?:Mei|Jean|Anna|Marie|Mary|Xiao|Ana|Jose)-[A-Z][a-z]{1,12}\b))",
        _NAME,
    ),
    cue("ms miss mx", r"(?-i:M[sx]|Miss)\b\.? {0,2}", _NAME, title=True),
    cue("doctor nurse professor", r"\w{5,9} ", _NAME, title=True),
    cue(" ".join(FIRST_NAMES), r"(?<!-)(?<!ouch of )(?<!San )(?<!St )(?<!St\. )(?-i:(?=[A-Z][a-z]))", _NAME),
    cue("hello hi hey dear hiya greetings welcome", r"\w{2,9} ?,? {1,2}", _NAME, after=_PAUSE),
    cue("morning afternoon evening", r"\w{5,9},? {1,2}", _NAME, after=_PAUSE),
    cue("thanks thank", r"thank(?:s| you),? {1,2}", _NAME, after=_PAUSE),
    cue(
        "name",
        r"(?<!brand )(?<!generic )(?<!drug )(?<!trade )(?<!ingredient )(?<!product )"
        r"name(?: is| was|'s|\u2019s| ?:| -) {0,2}(?:u[hm],? )?",
        _NAME,
        lower=True,
    ),
    cue("am im i'm i\u2019m", r"i?['\u2019]?\w{1,2} (?:called |named )?", _NAME, words=2),
    cue("this", r"this is ", _NAME, after=_HERE),
    cue(_CLOSING, rf"(?:{_CLOSING})[,.!]{{0,2}}\s{{0,3}}-{{0,2}} ?", _NAME, after=_LINE_END),
    cue(_PERSON, rf"(?:{_PERSON})(?:'s)?(?: name)? ?[:-] {{0,2}}", _NAME, words=2),
    cue("referred signed seen", r"\w{4,8}(?: by)? ?:? ", _NAME, words=2),
    cue(f"{KIN} baby kid toddler therapist gp", r"(?<=[mM]y )\w{2,13} (?:named |called )?", _NAME),
    cue(KIN, r"\w{3,13},? ", _NAME, after=_ASIDE),
    cue(f"{KIN} man woman person someone", r"\w{3,13},? (?:named|called|by the name of) ", _NAME),
]
# What is called after a person.
NO_PERSON = re.compile(
    r"(?:['\u2019]s|s['\u2019])?[ -](?:disease|syndrome|sign|test|palsy|score|scale|criteria|reflex|thyroiditis|lymphoma|virus|"
    r"catheter|valve|implant|project|stain|smear|method|apple|tooth|formula|procedure|hospital|clinic|college|university)",
    re.I,
)
# Words with a capital and a letter that English lacks.
_ACCENT = "[\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f]"
_ACCENTED = re.compile(_ACCENT)
_FOREIGN = re.compile(
    rf"(?<![\w\u2013-])(?=[A-Z\u00c0-\u00d6\u00d8-\u00de])(?=[^\W\d_]{{0,15}}{_ACCENT})(?=[^\W\d_]{{0,15}}[a-z]{{2}})"
    r"[^\W\d_]{3,16}(?![\w\u0080-\u00bf\u2013\u20ac-])"
)
_FOREIGN_EPONYM = re.compile(
    r"Sj|M\u00e9n|Beh|S\u00e9z|M\u00f6b|K\u00f6h|K\u00fcm|L\u00f6f|Sch|M\u00fcl|Barr|Ren|B\u00fc|Kr\u00f6|Caf|Q"
)


def foreign_names(text: str) -> Iterator[re.Match[str]]:
    """Names by their letters, unless so many are accented that the text is not English."""
    if text.isascii() or not 0 < len(_ACCENTED.findall(text)) < 5:
        return
    for word in _FOREIGN.finditer(text):
        if not _FOREIGN_EPONYM.match(word[0]) and not NO_PERSON.match(text, word.end()):
            yield word
