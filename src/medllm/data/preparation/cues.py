"""Words that announce an identifier: months, places, ages, kinds of numbers."""

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
from medllm.data.preparation.name_cues import KIN, NAME_CUES, Cue, cue
from medllm.data.preparation.vocabulary import CITIES

# Between a cue and its number; what such a number looks like.
_SEP = r"(?:[ :#.=\t-]|\b(?:numbers?|no|num|nr|id|is|was|are|code|ending in|of)\b){0,8}"
_VALUE = r"((?=[A-Z/-]{0,8}\d)[A-Z0-9](?:[A-Z0-9]|[/-](?=[A-Z0-9])){2,29}(?: \d{2,12}(?![\w/])){0,5})"
# A number that needs no word like "number" before it: letters and digits in groups, or letters before four digits.
_CODE = (
    r"((?!\d+\.\d+\b)(?=[A-Z0-9./-]{0,12}\d{3})"
    r"(?:[A-Z0-9]{1,12}(?:[./-][A-Z0-9]{1,12}){1,4}|[A-Z]{1,5}\d{4,12}[A-Z]?)(?![\w/]))"
)
_SERIAL = (
    r"((?=[A-Z0-9-]{5})(?=\d{0,9}-?[A-Z]|[A-Z]{1,6}-?\d)(?=[A-Z-]{0,6}\d{2}|\d[A-Z]\d\d)"
    r"[A-Z0-9]{1,14}(?:-[A-Z0-9]{1,12}){0,3}(?![\w/]))"
)
_PLATE = r"((?-i:(?=[A-Z -]{0,6}\d)[A-Z0-9]{1,4}(?:[ -]?[A-Z0-9]{1,5}){1,3}\b))"
_NUMBER = r"(?:(?:number|no|num|id|identifier|code)\b\.?|#)"
_FILL = (
    r"(?:[ :.#+-]|\b(?:me|us|at|on|my|his|her|our|your|no|numbers?|is|clinic|office|home|work|mobile|cell|phone|it|or|"
    r"text|call|to|please|dr|the|direct|line)\b){0,10}"
)
_NINETY = "ninety(?:[ -](?:one|two|three|four|five|six|seven|eight|nine))?"
_ORDINAL = (
    "first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|thirteenth|fourteenth|fifteenth|"
    "sixteenth|seventeenth|eighteenth|nineteenth|twentieth|thirtieth"
)
_DEVICES = (
    "pump|pacemaker|stimulator|transmitter|sensor|controller|recorder|defibrillator|icd|aid|implant|valve|stent|prosthesis|"
    "monitor|ventilator|cpap|concentrator|meter|glucometer|lens|device|lead|generator|shunt|nebuliser|nebulizer|wheelchair"
)
_PLACE, _DATE = IdentifierType.ADDRESS, IdentifierType.DATE
_RECORD, _ACCOUNT = IdentifierType.RECORD_NUMBER, IdentifierType.ACCOUNT_NUMBER
_LICENSE, _DEVICE = IdentifierType.LICENSE, IdentifierType.DEVICE
# A word may stand in several lines: each is tried.
_CUES = [
    cue(" ".join(CITIES), r"(?:(?<=in )|(?<=from )|(?<=near )|(?<=at )|(?<=to )|(?<=[Nn]ew ))", _PLACE),
    cue(" ".join(CITIES), r"(\w{4,20} ?[-\u2013,]? ?[1-9]\d\d ?\d{3}\b(?<!00))", _PLACE),
    cue(
        "live lives lived living reside resides residing resident based settled staying stay moved relocated hometown",
        r"\w{4,9}(?: (?:in|at|near|to|from|of|around|outside|is))(?: the city of| downtown)? ",
        _PLACE,
    ),
    cue("from", r"(?:(?<=am )|(?<=['\u2019]m )|(?<=come )|(?<=calling )|(?<=writing ))from ", _PLACE),
    cue("born grew raised", r"(?:born|grew up|raised)(?: and raised)? (?:in|near) ", _PLACE),
    cue(
        "near outside visiting",
        r"\w{4,8} (?-i:(?=[A-Z][a-z]{3,14} [A-Z][a-z]{3,14}\b))",
        _PLACE,
    ),
    cue("farm village town", r"\w{4,7} (?:in|near) (?-i:(?=[A-Z][a-z]+\b))", _PLACE),
    cue(
        "los las san santa cape fort",
        r"(?:(?<=in )|(?<=from )|(?<=near )|(?<=to ))((?-i:(?:Los|Las|San|Santa|Cape|Fort) [A-Z][a-z]{2,14}))",
        _PLACE,
    ),
    cue(
        "flat apartment apt unit house plot door",
        r"(?:(?:flat|apartment|apt|unit|house|plot|door)\b\.? ?)(?:(?:no|number)\b\.? ?)?#?"
        r"(\d{1,5}[A-Z]?(?-i:,? (?:[A-Z][a-z]{2,20},? ?){2,4})"
        r"(?:\d{6}\b)?)",
        _PLACE,
    ),
    cue("box", r"(?:(?<=o\. )|(?<=o )|(?<=o\.)|(?<=office ))(box ?#?\d{1,6})", _PLACE),
    cue(
        "zip postal postcode pincode pin",
        rf"(?:zip|postal|postcode|pin)(?: ?code)?{_SEP}"
        rf"({POSTCODE}|[A-Z]{{1,2}}\d[A-Z\d]? ?\d[A-Z]{{2}}\b|\d{{3}} ?\d{{2,3}}(?:-\d{{4}})?\b)",
        _PLACE,
    ),
    cue(
        " ".join(MONTHS) + " sept january february march april june july august september october november december",
        rf"((?:(?!may){MONTH}|(?-i:May)\b),? ?(?:(?:the )?{DAY}{RANGE}{NO_UNIT}(?:,? {{0,2}}{ANY_YEAR})?|(?:of )?{YEAR}|"
        r"['\u2019]\d\d\b))",
        _DATE,
    ),
    cue(
        f"{_ORDINAL} twenty thirty",
        rf"((?:twenty[ -]|thirty[ -])?(?:{_ORDINAL}) (?:of )?(?:{MONTH}|may\b)(?:,? {YEAR})?)",
        _DATE,
    ),
    cue("may", rf"(may (?:{DAY},? )?{YEAR})", _DATE),
    cue("exp expiry expires expiring thru", r"\w{3,8}[ :.]{0,3}(?:date|on)?[ :]{0,2}(\d\d/\d\d)\b", _DATE),
    cue(
        "appointment appt booked scheduled due visit",
        r"\w{3,11}(?: \w{2,12}){0,3} (?:on |for |is |at )?"
        r"((?:0?[1-9]|[12]\d|3[01])/(?:0?[1-9]|[12]\d|3[01]))(?=[,. ]|$)(?<!1/2)(?<!0/10)"
        rf"(?!/){NO_UNIT}",
        _DATE,
    ),
    cue(
        "age aged turned turns turning",
        r"\w{3,7}(?: is| just| to| now)?[ :]{1,3}(9\d|1[01]\d)(?![\d./%-]| ?(?:day|week|month))",
        IdentifierType.AGE,
    ),
    cue(
        "ninety",
        rf"({_NINETY})[ -]years?[ -]old",
        IdentifierType.AGE,
    ),
    cue(
        "ninety",
        rf"(?:(?<=is )|(?<=aged )|(?<=turned )|(?<=turns )|(?<=was )|(?<=, ))({_NINETY})"
        r"(?=[,.;]|$| and | but | years| this| next)",
        IdentifierType.AGE,
    ),
    cue(
        KIN,
        r"\w{2,13}(?:[ -]in[ -]law)?(?: (?!bp|pulse|weight|sugar|temp|heart|sp|oxygen|sat|hr|pressure)\w{2,12})? "
        r"(?:is|turned|turns|will be)"
        r"(?: now| almost| nearly| about| just)? (9\d|1[01]\d)(?=[,;!?]|\.(?!\d)|$| and | but | with | years)",
        IdentifierType.AGE,
    ),
    cue(
        "call phone telephone tel mobile cell fax whatsapp contact text ring dial ph number contacted reach reached",
        rf"\w{{2,9}}{_FILL}(\+?\(?\d(?:[ .()/-]{{0,2}}\d){{6,14}})(?!\d){NO_UNIT}",
        IdentifierType.PHONE,
    ),
    cue("ssn ss", rf"ssn?#?{_SEP}(\d[\d -]{{2,10}}\d)", IdentifierType.SSN),
    cue("social", rf"social(?: security)?{_SEP}(\d[\d -]{{2,10}}\d)", IdentifierType.SSN),
    cue(
        "four digits",
        r"(?:four|4)(?: digits)? of (?:my|his|her|the)? ?(?:social|ssn|ss)\b(?: security)?(?: number)?(?: is| are|:)? (\d{4})\b",
        IdentifierType.SSN,
    ),
    cue("mrn uhid umrn emr ehr", rf"\w{{3,4}}{_SEP}{_VALUE}", _RECORD),
    cue(
        "medical hospital patient case chart file record admission visit lab sample accession reference ref ticket "
        "encounter ip op opd ipd registration prescription rx order booking appointment",
        rf"\w{{2,12}}\.?(?:'s)? ?(?:record |file |registration |reference |identification )?{_NUMBER}{_SEP}{_VALUE}",
        _RECORD,
    ),
    cue(
        "chart file record mrn ref reference registration accession case encounter specimen admission lab uhid "
        "hospital patient order",
        rf"\w{{3,12}}[ :#.=-]{{1,3}}(?:no\.? |id |is )?(?!(?:icd|type|covid|f|c)\b){_CODE}",
        _RECORD,
    ),
    cue(
        "account policy plan group claim member subscriber insurance payer billing bill",
        rf"\w{{4,10}}[ :#]{{1,3}}(?:id |is |no\.? )?{_CODE}",
        _ACCOUNT,
    ),
    cue(
        "subscriber member policy",
        r"\w{6,10} (?:id|no|number)\b[ :.#]{0,3}([A-Z0-9]{3,12}(?: \d{2,8}){0,3})",
        _ACCOUNT,
    ),
    cue(
        "visa mastercard amex card account",
        r"\w{4,10}(?: card| account)? (?:ending|ends|ended)(?: in| with)? (\d{4})\b",
        _ACCOUNT,
    ),
    cue(
        "account acct policy insurance member subscriber group plan health medicare medicaid beneficiary claim iban card "
        "bank credit debit routing sort invoice",
        r"\w{4,11}(?: (?:plan|insurance|policy|card|account|member|beneficiary|claim)){0,2} ?"
        rf"{_NUMBER}{_SEP}{_VALUE}",
        _ACCOUNT,
    ),
    cue("account acct policy medicare medicaid iban card", rf"\w{{4,8}}{_SEP}{_VALUE}", _ACCOUNT),
    cue("license licence licensed", r"\w{7,8}(?: no\.?| number| id)?[ :#]{1,3}([A-Z]{2,3}\.?-?\d{4,9})\b", _LICENSE),
    cue(
        "license licence driver drivers driving",
        rf"\w{{6,7}}(?:'s)?(?: licen[cs]e)? ?{_NUMBER}?{_SEP}{_VALUE}",
        _LICENSE,
    ),
    cue(
        "plate plates vehicle car registration reg",
        rf"(?:plates?|(?:vehicle|car)? ?reg(?:istration|\.)?){_SEP}{_PLATE}",
        _LICENSE,
    ),
    cue(
        "vin passport npi dea aadhaar aadhar nhs cnic sin gmc dl",
        rf"\w{{2,8}}{_SEP}{_VALUE}",
        _LICENSE,
    ),
    cue(
        "national voter certificate tax emirates",
        rf"\w{{3,11}}(?: insurance| identity)? ?{_NUMBER}{_SEP}{_VALUE}",
        _LICENSE,
    ),
    cue("sn serial", r"s(?:n|erial)\b[ :#.]{1,3}(?:no\.? |number |is )?((?=[A-Z-]{0,6}\d)[A-Z0-9-]{5,20})\b", _DEVICE),
    cue(
        _DEVICES,
        rf"\w{{3,13}}s?,?(?: (?:left|right|serial|id|model|is|number|no)\b\.?){{0,3}}[ :#]{{1,2}}{_SERIAL}",
        _DEVICE,
    ),
    cue("serial imei udi", rf"\w{{3,6}}{_SEP}{_VALUE}", _DEVICE),
    cue(
        "device pacemaker implant pump monitor lot",
        rf"\w{{3,9}} ?(?:serial )?{_NUMBER}{_SEP}{_VALUE}",
        _DEVICE,
    ),
]
CUES: dict[str, list[Cue]] = {}
for _word, _one in chain.from_iterable([*NAME_CUES, *_CUES]):
    CUES.setdefault(_word, []).append(_one)
