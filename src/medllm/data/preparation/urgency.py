"""Words that may mean an emergency, found in what a patient writes.

A vocabulary, not a triage: it counts what a data set speaks of, and tells `unsafe_advice` where to look. The signs are those
that public services name as reasons to call an ambulance or a helpline at once: NHS "When to call 999" and "Heart attack",
American Stroke Association "FAST", NHS "Anaphylaxis", NIMH "Warning signs of suicide", NICE NG143 (fever under 3 months).
"""

import re

# Name, what the text, in lower case, must hold for the pattern to be worth a search, and the pattern.
_SIGNS = {
    name: (words, re.compile(rf"\b(?:{pattern})"))
    for name, words, pattern in (
        (
            "chest pain",
            ("chest",),
            r"chest (?:is |feels? )?(?:pains?|pressure|tight\w*|heav\w+)|(?:pain|pressure|tightness) (?:\w+ ){1,3}chest\b",
        ),
        (
            "breathlessness",
            ("breath",),
            r"(?:can ?not|can['\u2019]?t|cannot|unable to|hard to|struggl\w+ to|difficult\w* (?:in |to )?|trouble |short\w* of )"
            r" ?breath\w*|not breathing|breathless\w*|gasping",
        ),
        (
            "stroke",
            ("stroke", "slur", "droop", "one side", "tia"),
            r"strokes?\b|tia\b|slur\w+ (?:of )?speech|speech (?:is |was )?slurr\w+|fac\w+ (?:is |was )?droop\w*|droop\w* face"
            r"|(?:weak\w*|numb\w*|paraly\w+) (?:\w+ ){0,3}one side",
        ),
        (
            "unconscious",
            ("conscious", "faint", "passed out", "collapse", "unresponsive", "coma"),
            r"unconscious\w*|(?:lost|loss of|losing) consciousness|faint(?:ed|ing|s)\b|passed out|collapsed\b|unresponsive"
            r"|coma\b",
        ),
        ("seizure", ("seizure", "convuls", "epilep"), r"seizures?\b|convuls\w+|epilep\w+"),
        (
            "suicidal",
            ("suicid", "kill", "my life", "to die", "self harm", "self-harm", "hurt myself", "harm myself", "be dead"),
            r"suicid\w+|kill(?:ing)? myself|(?:end|ending|take|taking) my (?:own )?life"
            r"|(?:want|going|wish|ready) to (?:die|be dead)|self[- ]harm\w*|(?:hurt|harm)(?:ing)? myself",
        ),
        (
            "bleeding",
            ("bleed", "blood", "hemorrhag", "haemorrhag"),
            r"(?:heavy|heavily|severe|uncontroll\w+|profuse\w*|non-?stop) bleed\w*|bleed\w* (?:heavily|profusely|a lot)"
            r"|(?:vomit\w*|cough\w*|throw\w* up|spit\w*) (?:up )?(?:of )?blood|ha?emorrhag\w+",
        ),
        (
            "anaphylaxis",
            ("anaphyla", "swell", "swollen", "throat"),
            r"anaphyla\w+|(?:throat|tongue|lips?) (?:is |are |was |were |feels? |and \w+ )?(?:swell\w*|swollen|clos(?:ing|ed))"
            r"|swollen (?:tongue|throat|lips)|swelling (?:of|in) (?:\w+ )?(?:tongue|throat|lips)",
        ),
        (
            "poisoning",
            ("overdos", "poison", "swallow", "drank", "too many"),
            r"overdos\w+|poison(?:ed|ing)\b|(?:swallowed|drank) (?:\w+ ){0,2}(?:bleach|battery|detergent|kerosene|pesticide)"
            r"|too many (?:pills|tablets)",
        ),
        (
            "infant fever",
            ("fever", "temperature"),
            r"(?:newborn|neonate|(?:[1-9]|1[0-2])[- ]?weeks?[- ]?old|\d{1,2}[- ]?days?[- ]?old|[12][- ]?months?[- ]?old)"
            r"[^.?!\n]{0,80}\b(?:fever|temperature)",
        ),
        ("meningitis", ("mening", "stiff neck", "neck"), r"meningit\w+|stiff neck|neck (?:is |was )?stiff"),
        (
            "head injury",
            ("head", "skull"),
            r"head injur\w+|(?:hit|banged|bumped|knocked) (?:\w+ ){0,3}head\b|skull fracture",
        ),
        ("pulmonary embolism", ("embol", "clot in"), r"pulmonary embol\w+|clots? in (?:\w+ )?lungs?"),
        (
            "paralysis",
            ("paraly", "cannot move", "can't move"),
            r"paraly[sz]\w+|(?:cannot|can['\u2019]t) move (?:my|his|her|both)\b",
        ),
    )
}
# It holds up to the end of the sentence, or to where the sentence turns; `no idea` and `no longer` deny nothing.
_NEGATION = re.compile(
    r"\b(?:no(?! (?:idea|doubt|longer|one|matter|relief))|without|den(?:y|ies|ied)|nor|neither|never|not a|negative for"
    r"|(?:not|n['\u2019]t) (?:have|having|had|any|feel\w*|experienc\w*|suffer\w*)|not(?: \w+)? ?$)"
)
_TURN = re.compile(r"[.;?!\n]|\b(?:but|however|although|though|yet|now)\b")


def urgency_words(text: str) -> list[str]:
    """Names of the signs of an emergency that a text speaks of and does not deny, such as `chest pain`, `suicidal`."""
    lowered = text.lower()
    return [sign for sign in _SIGNS if speaks_of(sign, lowered)]


def speaks_of(sign: str, lowered: str) -> bool:
    """Whether a text in lower case speaks of a sign and does not deny it."""
    words, pattern = _SIGNS[sign]
    return _holds(lowered, words) and any(not denied(found) for found in pattern.finditer(lowered))


def _holds(text: str, words: tuple[str, ...]) -> bool:
    for word in words:  # noqa: SIM110 - twice as fast as `any`
        if word in text:
            return True
    return False


def denied(found: re.Match[str]) -> bool:
    """Whether the words before a match, in lower case, deny it: `no chest pain`, `she never had fever, cough or seizures`."""
    before = found.string[max(0, found.start() - 60) : found.start()]
    return bool(_NEGATION.search(_TURN.split(before)[-1]))
