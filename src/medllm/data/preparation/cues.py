"""Words that announce an identifier: titles, greetings, kinship, labels, names of months, kinds of numbers."""

import re
from dataclasses import dataclass
from itertools import chain

from medllm.data.preparation.identifiers import (
    ANY_YEAR,
    DAY,
    MONTH,
    MONTHS,
    NO_UNIT,
    POSTCODE,
    RANGE,
    YEAR,
    IdentifierType,
)
from medllm.data.preparation.vocabulary import CITIES, FIRST_NAMES


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


# Between a cue and its number; what such a number looks like.
_SEP = r"(?:[ :#.=\t-]|\b(?:numbers?|no|num|nr|id|is|was|code|ending in|of)\b){0,8}"
_VALUE = r"((?=[A-Z/-]{0,8}\d)[A-Z0-9](?:[A-Z0-9]|[/-](?=[A-Z0-9])){2,29}(?: \d{2,12}(?![\w/])){0,5})"
_PLATE = r"((?-i:(?=[A-Z -]{0,6}\d)[A-Z0-9]{1,4}(?:[ -]?[A-Z0-9]{1,5}){1,3}\b))"
_NUMBER = r"(?:(?:number|no|num|id|identifier|code)\b\.?|#)"
_FILL = (
    r"(?:[ :.#+-]|\b(?:me|us|at|on|my|his|her|our|your|no|numbers?|is|clinic|office|home|work|mobile|cell|phone|it|or|"
    r"text|call|to|please|dr|the|direct|line)\b){0,10}"
)
_KIN = (
    "son|daughter|wife|husband|mother|father|mom|mum|dad|brother|sister|friend|boyfriend|girlfriend|partner|fiance|"
    "fiancee|grandmother|grandfather|grandma|grandpa|grandson|granddaughter|uncle|aunt|cousin|niece|nephew|"
    "colleague|neighbour|neighbor|boss|roommate|stepson|stepdaughter|twin"
)
_ORDINAL = (
    "first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|thirteenth|fourteenth|fifteenth|"
    "sixteenth|seventeenth|eighteenth|nineteenth|twentieth|thirtieth"
)
_PERSON = "patient|client|attending|physician|provider|surgeon|consultant|mother|father|spouse|guardian|doctor"
_CLOSING = "regards|sincerely|yours|wishes|cheers|love|warmly|thanks|best|truly"
_PAUSE = r"\s{0,2}(?:[.,;:!?\n)]|-|$)|\s(?:and|here|from|i|i'm|how|my|aged|who|has|is|was|had)\b"
_LINE_END = r"[.,!)]?[^\S\n]{0,3}(?:\n|$|,? (?:MD|MBBS|RN|PhD|M\.D))"
_ASIDE = r",? ?\(?(?:,|\d|who\b|has\b|is\b|was\b|had\b|and\b|aged|he\b|she\b|\.|born|$)"
_HERE = r" (?:from|here|calling|writing|speaking|again|and I)\b|, (?:calling|\d\d|a )"


def _cue(
    keys: str,
    pattern: str,
    kind: IdentifierType,
    *,
    after: str = "",
    lower: bool = False,
    words: int = 1,
    title: bool = False,
) -> list[tuple[str, Cue]]:
    cue = Cue(kind, re.compile(pattern, re.I), re.compile(after, re.I) if after else None, lower, words, title)
    return [(word, cue) for word in re.split("[ |]", keys)]


_NAME, _PLACE, _DATE = IdentifierType.NAME, IdentifierType.ADDRESS, IdentifierType.DATE
_RECORD, _ACCOUNT = IdentifierType.RECORD_NUMBER, IdentifierType.ACCOUNT_NUMBER
_LICENSE, _DEVICE = IdentifierType.LICENSE, IdentifierType.DEVICE
# A word may stand in several lines: each is tried.
_CUES = [
    _cue("dr mr mrs prof", r"(?:dr|prof|mrs|(?-i:Mr|mr)|mr\.)\b\.? {0,2}(?:dr\.? ?)?", _NAME, lower=True, title=True),
    _cue("ms miss mx", r"(?-i:M[sx]|Miss)\b\.? {0,2}", _NAME, title=True),
    _cue("doctor nurse professor", r"\w{5,9} ", _NAME, title=True),
    _cue(" ".join(FIRST_NAMES), r"(?<!-)(?<!San )(?<!St )(?<!St\. )(?-i:(?=[A-Z][a-z]))", _NAME),
    _cue(" ".join(CITIES), r"(?:(?<=in )|(?<=from )|(?<=near )|(?<=at )|(?<=to )|(?<=[Nn]ew ))", _PLACE),
    _cue(" ".join(CITIES), r"(\w{4,20} ?[-\u2013,]? ?[1-9]\d\d ?\d{3}\b(?<!00))", _PLACE),
    _cue("hello hi hey dear hiya greetings welcome", r"\w{2,9} ?,? {1,2}", _NAME, after=_PAUSE),
    _cue("morning afternoon evening", r"\w{5,9},? {1,2}", _NAME, after=_PAUSE),
    _cue("thanks thank", r"thank(?:s| you),? {1,2}", _NAME, after=_PAUSE),
    _cue(
        "name",
        r"(?<!brand )(?<!generic )(?<!drug )(?<!trade )(?<!ingredient )(?<!product )"
        r"name(?: is|'s|\u2019s| ?:| -) {0,2}(?:u[hm],? )?",
        _NAME,
        lower=True,
    ),
    _cue("am im", r"\w\w (?:called |named )?", _NAME, words=2),
    _cue("this", r"this is ", _NAME, after=_HERE),
    _cue(_CLOSING, rf"(?:{_CLOSING})[,.!]{{0,2}}\s{{0,3}}-{{0,2}} ?", _NAME, after=_LINE_END),
    _cue(_PERSON, rf"(?:{_PERSON})(?:'s)?(?: name)? ?[:-] {{0,2}}", _NAME, words=2),
    _cue("referred signed seen", r"\w{4,8}(?: by)? ?:? ", _NAME, words=2),
    _cue(f"{_KIN} baby kid toddler therapist gp", r"(?<=[mM]y )\w{2,13} (?:named |called )?", _NAME),
    _cue(_KIN, r"\w{3,13},? ", _NAME, after=_ASIDE),
    _cue(f"{_KIN} man woman person someone", r"\w{3,13},? (?:named|called|by the name of) ", _NAME),
    _cue(
        "live lives lived living reside resides residing resident based settled staying stay moved relocated hometown",
        r"\w{4,9}(?: (?:in|at|near|to|from|of|around|outside|is))(?: the city of| downtown)? ",
        _PLACE,
    ),
    _cue("from", r"(?:(?<=am )|(?<=['\u2019]m )|(?<=come )|(?<=calling )|(?<=writing ))from ", _PLACE),
    _cue("born", r"born (?:and raised )?in ", _PLACE),
    _cue("box", r"(?:(?<=o\. )|(?<=o )|(?<=o\.)|(?<=office ))(box ?#?\d{1,6})", _PLACE),
    _cue(
        "zip postal postcode pincode pin",
        rf"(?:zip|postal|postcode|pin)(?: ?code)?{_SEP}({POSTCODE}|\d{{3}} ?\d{{2,3}}(?:-\d{{4}})?\b)",
        _PLACE,
    ),
    _cue(
        " ".join(MONTHS) + " sept january february march april june july august september october november december",
        rf"((?:(?!may){MONTH}|(?-i:May)\b),? ?(?:(?:the )?{DAY}{RANGE}{NO_UNIT}(?:,? {{0,2}}{ANY_YEAR})?|(?:of )?{YEAR}|"
        r"['\u2019]\d\d\b))",
        _DATE,
    ),
    _cue(
        f"{_ORDINAL} twenty thirty",
        rf"((?:twenty[ -]|thirty[ -])?(?:{_ORDINAL}) (?:of )?(?:{MONTH}|may\b)(?:,? {YEAR})?)",
        _DATE,
    ),
    _cue("may", rf"(may (?:{DAY},? )?{YEAR})", _DATE),
    _cue("exp expiry expires expiring thru", r"\w{3,8}[ :.]{0,3}(?:date|on)?[ :]{0,2}(\d\d/\d\d)\b", _DATE),
    _cue(
        "age aged turned turning",
        r"\w{3,7}(?: is)?[ :]{1,3}(9\d|1[01]\d)(?![\d./%-]| ?(?:day|week|month))",
        IdentifierType.AGE,
    ),
    _cue(
        "ninety",
        r"(ninety(?:[ -](?:one|two|three|four|five|six|seven|eight|nine))?)[ -]years?[ -]old",
        IdentifierType.AGE,
    ),
    _cue(
        "call phone telephone tel mobile cell fax whatsapp contact text ring dial ph number contacted reach reached",
        rf"\w{{2,9}}{_FILL}(\+?\(?\d(?:[ .()/-]{{0,2}}\d){{6,14}})(?!\d){NO_UNIT}",
        IdentifierType.PHONE,
    ),
    _cue("ssn", rf"ssn{_SEP}(\d[\d -]{{2,10}}\d)", IdentifierType.SSN),
    _cue("social", rf"social(?: security)?{_SEP}(\d[\d -]{{2,10}}\d)", IdentifierType.SSN),
    _cue("mrn uhid umrn emr ehr", rf"\w{{3,4}}{_SEP}{_VALUE}", _RECORD),
    _cue(
        "medical hospital patient case chart file record admission visit lab sample accession reference ref ticket "
        "encounter ip op opd ipd registration prescription rx order booking appointment",
        rf"\w{{2,12}}\.?(?:'s)? ?(?:record |file |registration |reference |identification )?{_NUMBER}{_SEP}{_VALUE}",
        _RECORD,
    ),
    _cue(
        "account acct policy insurance member subscriber group plan health medicare medicaid beneficiary claim iban card "
        "bank credit debit routing sort invoice",
        r"\w{4,11}(?: (?:plan|insurance|policy|card|account|member|beneficiary|claim)){0,2} ?"
        rf"{_NUMBER}{_SEP}{_VALUE}",
        _ACCOUNT,
    ),
    _cue("account acct policy medicare medicaid iban card", rf"\w{{4,8}}{_SEP}{_VALUE}", _ACCOUNT),
    _cue(
        "license licence driver drivers driving",
        rf"\w{{6,7}}(?:'s)?(?: licen[cs]e)? ?{_NUMBER}?{_SEP}{_VALUE}",
        _LICENSE,
    ),
    _cue(
        "plate plates vehicle car registration reg",
        rf"(?:plates?|(?:vehicle|car)? ?reg(?:istration|\.)?){_SEP}{_PLATE}",
        _LICENSE,
    ),
    _cue(
        "vin passport npi dea aadhaar aadhar nhs cnic sin gmc dl",
        rf"\w{{2,8}}{_SEP}{_VALUE}",
        _LICENSE,
    ),
    _cue(
        "national voter certificate tax emirates",
        rf"\w{{3,11}}(?: insurance| identity)? ?{_NUMBER}{_SEP}{_VALUE}",
        _LICENSE,
    ),
    _cue("serial imei udi", rf"\w{{3,6}}{_SEP}{_VALUE}", _DEVICE),
    _cue(
        "device pacemaker implant pump monitor lot",
        rf"\w{{3,9}} ?(?:serial )?{_NUMBER}{_SEP}{_VALUE}",
        _DEVICE,
    ),
]
CUES: dict[str, list[Cue]] = {}
for _word, _one in chain.from_iterable(_CUES):
    CUES.setdefault(_word, []).append(_one)
