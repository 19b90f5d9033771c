"""What identifiers look like: the shapes of numbers, addresses of the net and codes.

Two rules keep this fast on any text: a pattern is tried only where a run of digits, a mark or a cue word stands, and every
repetition in it is bounded. A third keeps masking idempotent: no pattern but that of e-mails crosses a bracket.
"""

from dataclasses import dataclass
from enum import StrEnum


class IdentifierType(StrEnum):
    """Kinds of identifiers, after the 18 of HIPAA's Safe Harbor; biometrics and photographs do not occur in text."""

    NAME = "NAME"
    ADDRESS = "ADDRESS"
    DATE = "DATE"
    AGE = "AGE"
    PHONE = "PHONE"
    EMAIL = "EMAIL"
    SSN = "SSN"
    RECORD_NUMBER = "RECORD_NUMBER"
    ACCOUNT_NUMBER = "ACCOUNT_NUMBER"
    LICENSE = "LICENSE"
    DEVICE = "DEVICE"
    URL = "URL"
    IP = "IP"


@dataclass(frozen=True, order=True)
class Identifier:
    """Where one stands in a text: from `start` to `end`, `end` exclusive."""

    start: int
    end: int
    type: IdentifierType


MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
MONTH = (
    r"(?:(?:january|february|march|april|june|july|august|september|october|november|december)\b|"
    r"(?:jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\b\.?)"
)
DAY = r"(?:0?[1-9]|[12]\d|3[01])(?:\s?(?:st|nd|rd|th))?(?!\d|[.,/:]\d)"
_D, _M, YEAR = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])", r"(?:19|20)\d\d(?!\d)"
_DM = rf"(?:{_D}%s{_M}|{_M}%s{_D})"
ANY_YEAR = rf"(?:{YEAR}|['\u2019]?\d\d(?!\d|[.,/:-]\d))"
# What makes a number a measure; a date or a telephone number has none behind it.
NO_UNIT = (
    r"(?!(?i:\s{0,2}(?:mg|mcg|µg|ug|ml|gm?|grams?|kgs?|lbs?|pounds?|iu|units?|mm|cm|m|km|miles?|%|percent|tab(?:let)?s?|"
    r"cap(?:sule)?s?|pills?|doses?|drops?|puffs?|cells?|copies|cups?|mmhg|bpm|hours?|hrs?|min(?:ute)?s?|days?|weeks?|"
    r"months?|years?|yrs?|times|x|l|dl|per|am|pm|of the|people|patients?)\b|\s?%|/\s?[a-zµ]))"
)
RANGE = r"(?:\s?(?:-|\u2013|to|and|&)\s?" + DAY + ")?"
_STREET = (
    r"(?:Street|St|Road|Rd|Avenue|Ave|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Ct|Way|Place|Pl|Terrace|Nagar|Marg|Close|"
    r"Square|Highway|Hwy|Parkway|Pkwy|Crescent|Circle|Colony|Layout|Enclave|Cross|Row|Gardens|Grove|Hill|Park|Sector|Hollow|Trail|Mews|Quay|Chowk|"
    r"Vihar|Bagh|Gali|Puram|Estate|Extension|Turnpike|Alley|Plaza|Loop)\b"
)
_CAPITAL = r"[A-Z][a-zA-Z'\u2019.-]{0,30}"
POSTCODE = r"[A-Z]{1,2}\d[A-Z\d]? \d(?!TH|ST|ND|RD|HR|PT|PR)[ABD-HJLNP-UW-Z]{2}\b"
_STATE = (
    r"(?:A[KLRZ]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|PA|RI|S[CD]|T[NX]|UT|V[AT]|"
    r"W[AIVY]|ZZ)"
)
_ZIP = r"\d{5}(?:-\d{4})?(?![\d-])"
_TAIL = (
    r"\.?(?:,? (?:Apt|Apartment|Flat|Suite|Unit|Floor)\.? ?#?\w{1,6}|,? #\w{1,6})?"
    rf"(?:, ?{_CAPITAL}(?: [A-Z][a-z]{{1,30}})?){{0,3}}"
    rf"(?:,? ?{POSTCODE}|,? ?(?:[A-Z]{{2}} )?{_ZIP}|[ -]{{1,3}}\d{{3}} ?\d{{3}}(?!\d))?"
)
_OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"

_DATED = r"(?i:(?<=\bon )|(?<=since )|(?<=dated )|(?<=dob )|(?<=dob: )|(?<=until )|(?<=till )|(?<=birth ))"
_H = "[0-9a-f]{1,4}"
_SLASH, _DOT, _DASH = (rf"(?:{_D}{mark}{_M}|{_M}{mark}{_D}){mark}" for mark in ("/", r"\.", "-"))

_NO_VERSION = (
    r"(?<!\bv)(?i:(?<!version )(?<!firmware )(?<!software )(?<!release )(?<!update )(?<!build )(?<!ver )(?<!ver\. ))"
)

# Tried in this order at the beginning of every run of digits.
NUMBERS = (
    (IdentifierType.IP, rf"{_NO_VERSION}(?:{_OCTET}\.){{3}}{_OCTET}(?!\.?\d)"),
    (IdentifierType.IP, rf"(?i:{_H}(?::{_H}){{7}}|{_H}(?::{_H}){{1,6}}::(?:{_H}:){{0,5}}(?:{_H})?)"),
    (IdentifierType.DEVICE, r"(?i:[0-9a-f]{2}(?::[0-9a-f]{2}){5}\b)"),
    (IdentifierType.DATE, rf"{YEAR}(?:-{_M}-{_D}|/{_M}/{_D}|\.{_M}\.{_D})(?!-?\d)"),
    (IdentifierType.DATE, rf"(?:{_SLASH}|{_DOT}|{_DASH}){YEAR}"),
    (IdentifierType.DATE, rf"(?:{_SLASH}|{_DOT})\d\d(?![/.-]?\d|[/-]){NO_UNIT}"),
    (IdentifierType.DATE, rf"(?i:{DAY}{RANGE}(?: day)?[ -]?(?:of )?(?!may){MONTH}(?:[ ,-]{{0,2}}{ANY_YEAR})?)"),
    (
        IdentifierType.DATE,
        rf"{DAY}{RANGE}[ -]?(?:of )?May\b(?! (?:be|have|not|cause|help))(?:[ ,-]{{0,2}}{ANY_YEAR})?",
    ),
    (IdentifierType.DATE, rf"{DAY}[ -]?(?:of )?may[ ,-]{{1,2}}{YEAR}|\d\d?(?:st|nd|rd|th)? of may\b"),
    (IdentifierType.DATE, r"\d\d?(?:st|nd|rd|th) may\b(?! [a-z])"),
    (IdentifierType.DATE, rf"(?:{_M}/{YEAR}|{YEAR}[/-]0[1-9])(?![\d/-]){NO_UNIT}"),
    (IdentifierType.DATE, rf"{_DATED}(?!1/[234]\b|[23]/[34]\b)(?:{_D}/{_M}|{_M}/{_D})(?![\w/-]){NO_UNIT}"),
    (IdentifierType.DATE, rf"{_DATED}(?:{_D}-{_M}|{_M}-{_D})-\d\d\b"),
    (IdentifierType.SSN, r"\d{3}-\d{2}-\d{4}(?![\d-])"),
    (IdentifierType.ACCOUNT_NUMBER, r"(?:(?:\d{4} ){3}\d{4}|(?:\d{4}-){3}\d{4}|\d{4}[ -]\d{6}[ -]\d{5}|\d{16})(?!\d)"),
    (IdentifierType.LICENSE, r"[2-9]\d{3} \d{4} \d{4}(?<!00)(?![\d/-])"),
    (IdentifierType.PHONE, r"(?<=\+)\d(?:[ .()/-]{0,2}\d){7,14}(?!\d)"),
    (IdentifierType.PHONE, r"00[1-9](?:[ .-]?\d){8,13}(?!\d)"),
    (
        IdentifierType.PHONE,
        r"(?:1[ .-]{0,2}\(?)?[2-9]\d\d\)?[ .-]{0,2}[2-9]\d\d[ .-]{0,2}\d{4}(?:\s?(?:ext|x)\.?\s?\d{1,5})?"
        rf"(?![\d/]|[-.]\d){NO_UNIT}",
    ),
    (IdentifierType.PHONE, rf"(?:0|91[ -]?)?[6-9](?:\d{{4}}[ -]?\d{{5}}|\d\d[ -]\d{{3}}[ -]\d{{4}})(?!\d){NO_UNIT}"),
    (IdentifierType.PHONE, r"0\d{1,4}\)?(?:[ -]\d{3,8}){1,3}(?![\d/])|0[1-9](?:[ .]\d\d){4}(?!\d)|0\d{9,10}(?!\d)"),
    (IdentifierType.PHONE, r"1[38]00[ -]\d{2,4}[ -]\d{3,6}(?![\d-])|555-\d{4}(?![\d-])"),
    (IdentifierType.PHONE, r"(?<=\()\d{2,5}\)[ -]?\d{3,5}[ -]?\d{4}(?![\d-])"),
    (
        IdentifierType.AGE,
        r"(?:9\d|1[01]\d)(?=[ -]{0,2}(?:years?|yrs?|y)\.?[ -]{0,2}(?:olds?|of age)\b|[ -]?y[./]?o\b"
        r"|[ -](?:year|yr)s? (?:male|female|man|woman|lady|gentleman))",
    ),
    (IdentifierType.AGE, r"9\d(?=M\b(?: with\b| pres| c/o|,))|9[1-6](?=F\b(?: with\b| pres| c/o|,))"),
    (
        IdentifierType.AGE,
        r"(?:(?<=am )|(?<=\bhe is )|(?<=\bshe is )|(?<=He is )|(?<=She is ))(?:9\d|1[01]\d)(?=[,.] | and | years)",
    ),
    (IdentifierType.ADDRESS, rf"\d{{1,5}}[A-Z]?(?:[/-]\d{{1,4}})?,?(?: {_CAPITAL}){{1,4}}? (?i:{_STREET}){_TAIL}"),
    (IdentifierType.ADDRESS, r"\d{1,5} [a-z]{3,20}(?: [a-z]{3,20})? (?:street|avenue|boulevard)\b"),
    (IdentifierType.ADDRESS, rf"(?<={_STATE} ){_ZIP}|\d{{5}}-\d{{4}}(?![\d-])"),
)
# At the beginning of a run of capitals and digits.
CODES = (
    (IdentifierType.ADDRESS, POSTCODE),
    (IdentifierType.ACCOUNT_NUMBER, r"[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b"),
    (IdentifierType.LICENSE, r"[A-Z]{5}\d{4}[A-Z]\b|[A-Z]{2} ?\d\d ?\d\d ?\d\d ?[A-D]\b|[A-HJ-NPR-Z0-9]{11}\d{6}\b"),
)
# Each is tried if its first pattern, fast because it begins with few characters, finds anything in the small letters.
_EMAIL = (
    r"(?<![\w.+\]-])[\w.+-]{1,64}(?:@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}"
    r"|\s?(?:@|\(at\)|\[at\])\s?[\w-]{1,63}(?:\s?(?:\.|\(dot\)|\[dot\])\s?[a-z]{2,24}\b){1,4}"
    r"| at [\w-]{1,63}(?: dot [\w-]{1,63}){1,4}| at (?:gmail|yahoo|hotmail|outlook|icloud)\.com\b)"
)
_URL = r"(?:https?://|ftp://|www\.)[^\s<>()\[\]\"']{3,2000}(?<![.,;:!?])"
_DOMAIN = (
    r"(?<![\w.@/\]-])[a-z0-9-]{2,63}(?:\.[a-z0-9-]{2,63}){0,3}\."
    r"(?:(?:com|org|gov|edu|(?<!ed\.)(?<!ing\.)(?:net|info)|co\.[a-z]{2})\b|(?:in|io|ly|me|ca|us|de|uk|au)(?=/\w))"
    r"(?:/[^\s<>()\[\]\"']{0,2000}(?<![.,;:!?]))?"
)
MARKED = (
    (IdentifierType.EMAIL, "@", _EMAIL),
    (IdentifierType.EMAIL, r"[(\[]at[)\]]", _EMAIL),
    (IdentifierType.EMAIL, " at (?:gmail|yahoo|hotmail|outlook|icloud)", _EMAIL),
    (IdentifierType.EMAIL, " dot ", _EMAIL),
    (IdentifierType.URL, "://", _URL),
    (IdentifierType.URL, r"www\.", _URL),
    (IdentifierType.URL, r"\.(?:com|org|net|gov|edu|info|co|in|io|ly|me|ca|us|de|uk|au)\b", _DOMAIN),
    (IdentifierType.DEVICE, "s/n", r"\bs/n[ :#.]{0,3}([a-z0-9-]{0,20}\d[a-z0-9-]{2,20})"),
    (IdentifierType.IP, "::", rf"(?<![\w:\]])(?:(?:{_H}:){{0,6}}{_H})?::(?:{_H}:){{0,6}}{_H}\b"),
    (IdentifierType.IP, ":[0-9a-f]{1,4}:", rf"(?<![\w:\]]){_H}(?::{_H}){{7}}\b"),
)
