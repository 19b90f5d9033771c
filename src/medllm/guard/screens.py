"""Screens of an answer: a dose that nobody mentioned, no word of urgency where it is due, no disclaimer.

Each looks for words. What they find is reason for a note behind the answer, never for leaving anything out.
"""

import re

from medllm.guard.scope import plain

_UNIT = (
    r"(?:mg|milligrams?|mcg|\u00b5g|\u03bcg|ug|micrograms?|grams?|g|ml|millilit(?:er|re)s?|cc|iu|units?|i\.u\.|meq"
    r"|tablets?|tabs?|pills?"
    r"|capsules?|caps|caplets?|puffs?|drops?|teaspoons?|tsp|tablespoons?|tbsp|sachets?|suppositor(?:y|ies)|ampoules?"
    r"|lozenges?|sprays?)"
)
_WORDS = {
    "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "eight": "8", "ten": "10", "half": "0.5",
    "twenty": "20",
}  # fmt: skip
_NUMBER = rf"(?:\d+(?:[.,]\d+)*|{'|'.join(_WORDS)})(?:(?<=half) an?)?"
# A concentration is a laboratory's, not a dose; so is what food and drink are measured in.
_DOSE = re.compile(
    rf"\b({_NUMBER})(?: ?(?:-|to|or) ?({_NUMBER}))? ?-?({_UNIT})\b(?! ?/ ?(?:d?l|ml)\b| ?per (?:d?l|deci)"
    r"|(?: of)? (?:\w+ )?(?:water|fluids?|milk|juice|tea\b|coffee|salt|sugar|honey|protein|fib(?:re|er)|caffeine"
    r"|alcohol|carb\w*|fat\b|sodium"
    r"|urine|blood|rice|vegetables|fruit|food|formula|broth|soup|vinegar|oil\b|lemon|soda|a unit|weight))"
)
_CONTEXT_FREE = re.compile(
    r"\b(?:mg|mcg|milligram|microgram|iu|tablet|pill|capsule|puff|drop|suppositor|ampoule|caplet|unit)"
)
_MEDICINE = re.compile(
    r"\b(?:dos(?:e|es|age)|tak(?:e|ing)|twice|daily|times? (?:a|per) day|every \w+ hours|once a day|medic\w+|inject\w*"
    r"|syrup|prescri\w+|oral(?:ly)?"
    r"|\w+(?:cillin|mycin|azole|prazole|sartan|olol|pril|statin|profen|azepam|idone|etine|oxacin|cycline|asone|olone"
    r"|formin|caine|vir|mab|tidine|zine)"
    r"|paracetamol|acetaminophen|aspirin|insulin|warfarin|morphine|codeine|tramadol|lithium|digoxin|levothyroxine"
    r"|heparin|naproxen|melatonin|vitamin)\b"
)
_URGENT = re.compile(
    r"\b(?:emergenc\w+|ambulance|999|911|112|000|108|call (?:for )?help|(?:go|get|come|take (?:him|her|them|yourself"
    r"|your \w+)|rush|head) (?:straight |directly |immediately |right away |now )*"
    r"(?:to|into) (?:an? |the |your )?(?:nearest |closest |local )?(?:hospital|er\b|a&e|emergency|casualty)"
    r"|(?:immediate|urgent)(?:ly)? (?:medical|care|attention|help|evaluation|see)"
    r"|(?:right away|right now|at once|immediately|without delay|this minute)|crisis line|helpline|hotline"
    r"|poison (?:control|centre|center|information))\b"
)
_SOON = re.compile(
    r"\b(?:see|visit|call|contact|consult|ask|talk to|speak (?:to|with)|check with|seen by|examined by"
    r"|appointment (?:with)?)(?: (?:a|an|your|the|with|my|by|one|some))*(?: \w+){0,2} "
    r"?(?:doctor|gp|physician|clinic|nurse|specialist|hospital|midwife|dentist|pharmacist|surgery|practice|provider"
    r"|professional|pa?ediatrician)\w*"
    r"|\b(?:today|tomorrow|within (?:a |one |the next )?(?:24|48|day|two days|few hours))\b"
)
_DISCLAIMER = re.compile(
    r"\b(?:not a (?:doctor|substitute|replacement)|(?:does not|doesn't|cannot|can't|do not|don't|not intended to"
    r"|should not) (?:replace|substitute|be (?:used|taken) as|diagnos\w*)"
    r"|(?:i am|i'm|as) an? (?:ai|artificial|computer|language|chatbot|virtual)|not (?:medical|professional) advice"
    r"|for (?:informational|educational|general information)"
    r"|can be wrong|consult (?:a|your|with a|with your) (?:\w+ )?(?:doctor|physician|healthcare|health care|medical|gp"
    r"|professional|provider|pharmacist))\b"
)
_REASSURES = re.compile(
    r"\b(?:nothing (?:serious|to worry)|no (?:need|reason) to (?:worry|panic|see|call|go)|(?:don't|do not) (?:need"
    r"|have) to (?:see|go|call|worry|visit)|(?:will|should) (?:go away|pass|resolve|settle)"
    r"|wait (?:and see|until|till|a few|for a)|stay (?:at )?home|not (?:an emergency|serious|dangerous|urgent)"
    r"|harmless)\b"
)


def doses(text: str) -> set[tuple[str, str]]:
    """Doses of medicines that a text states: number and unit in one spelling, such as `("500", "mg")`."""
    lowered = plain(text)
    found = set()
    for match in _DOSE.finditer(lowered):
        first, second, unit = match.groups()
        around = lowered[max(0, match.start() - 80) : match.end() + 80]
        if _CONTEXT_FREE.match(unit) or _MEDICINE.search(around):
            found |= {(_number(number), _unit(unit)) for number in (first, second) if number}
    return found


def invented_doses(answer: str, given: str) -> set[tuple[str, str]]:
    """Doses of an answer that are not in what was given: neither with their unit nor, for masses, in another one."""
    known = doses(given) | {(_number(m[1]), _unit(m[3])) for m in _DOSE.finditer(plain(given))}
    masses = {_micrograms(dose) for dose in known} - {None}
    return {
        dose
        for dose in doses(answer)
        if dose not in known and (_micrograms(dose) is None or _micrograms(dose) not in masses)
    }


def advises_urgency(answer: str) -> bool:
    """Whether an answer sends somebody to help at once."""
    return bool(_URGENT.search(plain(answer)))


def advises_visit(answer: str) -> bool:
    """Whether an answer sends somebody to a professional, at once or soon."""
    return bool(_SOON.search(plain(answer))) or advises_urgency(answer)


def reassures(answer: str) -> bool:
    """Whether an answer says that it can wait or is harmless."""
    return bool(_REASSURES.search(plain(answer)))


def disclaims(answer: str) -> bool:
    """Whether an answer says that it replaces no professional."""
    return bool(_DISCLAIMER.search(plain(answer)))


def _number(text: str) -> str:
    text = text.removesuffix(" a").removesuffix(" an")
    text = _WORDS.get(text, text)
    text = (
        re.sub(r"[.,](?=\d{3}\b)", "", text) if re.fullmatch(r"\d{1,3}(?:[.,]\d{3})+", text) else text.replace(",", ".")
    )
    try:
        return f"{float(text):g}"
    except ValueError:
        return text


_UNITS = (
    ("mg", "mg|milligram"),
    ("mcg", "mcg|\u00b5g|\u03bcg|ug|microgram"),
    ("ml", "ml|millilit|cc"),
    ("iu", "iu|i.u.|unit"),
    ("tablet", "tablet|tab|pill|capsule|cap|caplet"),
    ("teaspoon", "teaspoon|tsp"),
    ("tablespoon", "tablespoon|tbsp"),
    ("g", "gram|g"),
)


def _unit(text: str) -> str:
    for name, spellings in _UNITS:
        if text.startswith(tuple(spellings.split("|"))):
            return name
    return text.rstrip("s")


def _micrograms(dose: tuple[str, str]) -> float | None:
    scale = {"mcg": 1.0, "mg": 1e3, "g": 1e6}.get(dose[1])
    return None if scale is None else round(float(dose[0]) * scale, 6)
