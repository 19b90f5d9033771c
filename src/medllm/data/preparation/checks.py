"""The checks of cleaning: each says whether a conversation, its text already clean, has one fault.

The user is the patient, the assistant the doctor. In a visit of many turns a short reply is natural: a fault of shortness
counts there only if all that one side says has it.
"""

import re
from collections.abc import Callable
from itertools import pairwise
from operator import eq

from medllm.config.preparation import Action, CleaningConf
from medllm.conversation import Conversation
from medllm.data.preparation.text import WORD, courteous
from medllm.data.preparation.urgency import denied, speaks_of

Check = Callable[[Conversation], bool]


def build_checks(conf: CleaningConf) -> dict[str, tuple[Action, Check]]:
    """The checks that are switched on, by name, in their order, with what happens to what they find."""
    checks: dict[str, tuple[Action, Check]] = {
        "empty": (conf.empty, empty),
        "stub": (conf.stub, lambda conversation: stub(conversation, conf.min_words)),
        "oversized": (conf.oversized, lambda conversation: oversized(conversation, conf.max_characters)),
        "repetition": (conf.repetition, repetition),
        "echo": (conf.echo, echo),
        "cut_off": (conf.cut_off, cut_off),
        "swapped_roles": (conf.swapped_roles, swapped_roles),
        "prompt_injection": (conf.prompt_injection, prompt_injection),
        "unsafe_advice": (conf.unsafe_advice, unsafe_advice),
    }
    if conf.languages:
        wanted = frozenset(conf.languages)
        checks["languages"] = (Action.drop, lambda conversation: other_language(conversation, wanted))
    return {name: pair for name, pair in checks.items() if pair[0] is not Action.keep}


def patient(conversation: Conversation) -> list[str]:
    """What the patient says."""
    return [message.content for message in conversation.messages if message.role == "user"]


def doctor(conversation: Conversation) -> list[str]:
    """What the doctor says."""
    return [message.content for message in conversation.messages if message.role == "assistant"]


_PLACEHOLDERS = frozenset(
    ("nan", "n/a", "na", "#n/a", "<na>", "null", "none", "nil", "undefined", "#value!", "-", "--")
)


def empty(conversation: Conversation) -> bool:
    """A message without text, or a side that says nothing but `nan`, `N/A` or `null`."""
    sides = (patient(conversation), doctor(conversation))
    return not all(m.content.strip() for m in conversation.messages) or any(
        all(text.strip().lower() in _PLACEHOLDERS for text in side) for side in sides
    )


_CONTAINER = re.compile(r"\{\s*+(?:['\"].*)?\}|\[\s*+(?:['\"{\d].*)?\]", re.DOTALL)


def stub(conversation: Conversation, min_words: int) -> bool:
    """A side that says fewer than `min_words` words, no letter, or a bare list; or an answer of courtesies alone."""

    def bare(text: str) -> bool:
        return (
            sum(1 for _ in zip(range(min_words), WORD.finditer(text), strict=False)) < min_words
            or not any(map(str.isalpha, text))
            or (text[0] in "[{" and bool(_CONTAINER.fullmatch(text)))
        )

    answers = doctor(conversation)
    return all(map(bare, patient(conversation))) or all(bare(answer) or courteous(answer) for answer in answers)


def oversized(conversation: Conversation, max_characters: int) -> bool:
    """More than `max_characters` in all."""
    return sum(len(message.content) for message in conversation.messages) > max_characters


_LONG_WORD = re.compile(r"[A-Za-z0-9+/=]{101}")


def repetition(conversation: Conversation) -> bool:
    """A message that repeats itself, or that holds a word of more than 100 characters that is no link.

    Fewer different words than a fifth of all tell a phrase said over and over; two hundred of them are enough for any text.
    """

    def repeats(text: str) -> bool:
        words = text.split()
        # The set is dear, and needed only where a word of the middle recurs, as it does in a text of few words.
        recurs = len(words) >= 20 and words.count(words[len(words) // 2]) >= 5
        if recurs and len(set(words)) < min(len(words) // 5, 200):
            return True
        if sum(map(eq, words, words[1:])) >= 10:
            return True
        return len(max(words, key=len, default="")) > 100 and any(
            "://" not in w and _LONG_WORD.search(w) for w in words
        )

    return any(repeats(message.content) for message in conversation.messages)


def echo(conversation: Conversation) -> bool:
    """Answers that are their questions, upper case and punctuation apart; an "okay" on an "okay" within a visit is none."""

    def same(question: str, answer: str) -> bool:
        if abs(len(question) - len(answer)) > 20:
            return False
        return WORD.findall(question.lower()) == WORD.findall(answer.lower())

    pairs = pairwise(conversation.messages)
    return all(same(before.content, m.content) for before, m in pairs if m.role == "assistant")


_OPEN = frozenset(
    WORD.findall(
        "a an and are as at because but by for from if in into is of on or our than that the their to was were when which while "
        "with your"
    )
)


def cut_off(conversation: Conversation) -> bool:
    """An answer whose last word asks for another (`and`, `the`), or that ends with a comma."""

    def broken(text: str) -> bool:
        return text.endswith(",") or any(word.lower() in _OPEN for word in text[-12:].split()[-1:])

    return any(map(broken, doctor(conversation)))


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(text.split("|"))


_PATIENT_WORDS = _phrases(
    "hello doctor|hi doctor|dear doctor|respected doctor|should i |can i |what should i do|please help|please suggest|"
    "my doctor |kindly help"
)
_DOCTOR_WORDS = _phrases(
    "i suggest|i would suggest|i advise|i would advise|i recommend|you should|you need to|you can take|you must|"
    "if you are|if you have any|your symptoms|your concern|your complaint|probable diagnosis|revert|i request you|"
    "can be treated"
)


def swapped_roles(conversation: Conversation) -> bool:
    """Each side writes as the other does, and not once as itself."""
    answers = "\n".join(doctor(conversation)).lower()
    if not _holds(answers, _PATIENT_WORDS) or _holds(answers, _DOCTOR_WORDS):
        return False
    questions = "\n".join(patient(conversation)).lower()
    return _holds(questions, _DOCTOR_WORDS) and not _holds(questions, _PATIENT_WORDS)


def _holds(lowered: str, words: tuple[str, ...]) -> bool:
    for word in words:  # noqa: SIM110 - twice as fast as `any`
        if word in lowered:
            return True
    return False


_ORDER_WORDS = _phrases('ignore|disregard|forget|prompt|system|you are |jailbreak|developer mode|"role"')
# A broken control token still reads `S ystem:`.
_ORDER = re.compile(
    r"\b(?:ignore|disregard|forget) (?:\w+ ){0,3}(?:instructions?|prompts?|rules|guidelines)\b"
    r"|\b(?:your|the|hidden) system (?:prompt|message)|^ ?s ?ystem ?:|\"role\"\s*+:\s*+\"(?:system|assistant|developer)"
    r"|\byou are (?:now )?(?:DAN\b|unrestricted|jailbroken|an? (?:unrestricted|unfiltered|uncensored|language model))"
    r"|\b(?:jailbreak|developer mode)\b",
    re.IGNORECASE | re.MULTILINE,
)


def prompt_injection(conversation: Conversation) -> bool:
    """A patient who gives orders to a model."""
    return any(_holds(text.lower(), _ORDER_WORDS) and bool(_ORDER.search(text)) for text in patient(conversation))


# A sign of an emergency, and what must stand beside it to be one now rather than in the past. Sources: see `urgency`.
_RED_FLAGS = tuple(
    (sign, re.compile(beside))
    for sign, beside in (
        ("chest pain", r"crushing|squeezing|sweat|radiat|(?:left|my|his|her) arm|jaw"),
        ("stroke", r"slur|droop|sudden\w* (?:weak|numb)"),
        ("anaphylaxis", r"breath|wheez|hives"),
        ("breathlessness", r"can(?:not|n?['\u2019]?t| not) breathe|not breathing|gasping|blue"),
        ("unconscious", r"\b(?:is|still|now) unconscious|unresponsive|not wak"),
        ("suicidal", ""),
        ("poisoning", ""),
        ("infant fever", ""),
    )
)
# Any of these in an answer sends the patient to someone who can act, or tells the patient to hurry.
_ESCALATIONS = _phrases(
    "doctor|consult|specialist|emergenc|urgent|immediate|hospital|clinic|therap|counsel|physician|surgeon|psychiatr|psycholog|"
    "cardiolog|neurolog|diatric|gyna|gyne|at once|right away|as soon as|asap|without delay|ambulance|admit|admission|casualty|"
    "crisis|hotline|helpline|lifeline|911|999|112|988|ecg|ekg|troponin|ct scan"
)
_CHILD = (
    r"\b(?:my (?:baby|infant|toddler|child|newborn)|newborn|\d{1,2}[- ]?(?:days?|weeks?|months?)[- ]?old"
    r"|(?:[1-9]|1[0-5])[- ]?(?:years?|yrs?)[- ]?old)"
)
_AT_ONCE = r"(?:at once|immediately|right away|right now|today|abruptly|completely|altogether)"
_VITAL = (
    r"(?:insulin|warfarin|anticoagulants?|blood thinners?|anti-?epileptics?|anticonvulsants?|anti-?seizure|valproate)"
)
# What the answer must not advise, and what the patient must have said for it to be wrong.
_HARMFUL = tuple(
    (word, re.compile(advice), re.compile(said))
    for word, advice, said in (
        # Insulin: ADA Standards of Care, section 16; anticonvulsants: NICE NG217; anticoagulants: FDA boxed warnings.
        ("stop ", rf"\bstop (?:taking )?(?:all )?(?:your |the )?{_VITAL}[^.?!\n]{{0,30}}?\b{_AT_ONCE}", ""),
        ("stop ", rf"\bstop (?:taking )?all (?:your |the )?{_VITAL}", ""),
        # Reye's syndrome: NHS, "Aspirin": not under 16 unless a doctor prescribes it.
        ("aspirin", r"\b(?:give|take|use|start)\b[^.?!\n]{0,30}\baspirin", _CHILD),
        # Infant botulism: NHS, "Foods to avoid": no honey before the first birthday.
        (
            "honey",
            r"\b(?:give|use|add|mix)\b[^.?!\n]{0,30}\bhoney",
            r"\b(?:newborn|infant|\d{1,2}[- ]?(?:days?|weeks?)[- ]?old)",
        ),
        ("bleach", r"\b(?:drink|swallow|inject|inhale)\b[^.?!\n]{0,20}\bbleach", ""),
    )
)


def unsafe_advice(conversation: Conversation) -> bool:
    """A red flag in the patient's words with no urgency in any answer, or an advice known to harm."""
    said, answers = "\n".join(patient(conversation)).lower(), "\n".join(doctor(conversation)).lower()
    for sign, beside in _RED_FLAGS:
        if speaks_of(sign, said) and beside.search(said) and not _holds(answers, _ESCALATIONS):
            return True
    for word, advice, needs in _HARMFUL:
        if word in answers and needs.search(said) and any(not denied(found) for found in advice.finditer(answers)):
            return True
    return False


def other_language(conversation: Conversation, wanted: frozenset[str]) -> bool:
    """A conversation in none of the wanted languages; one of fewer than 20 letters could be in any."""
    from py3langid import classify  # it loads a model, for those who ask for languages

    text = "\n".join(message.content for message in conversation.messages if message.role != "system")[:2_000]
    return sum(map(str.isalpha, text)) >= 20 and classify(text)[0] not in wanted
