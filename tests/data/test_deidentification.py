"""Finding, masking and replacing identifiers."""

import re
from collections import Counter
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medllm.config.preparation import Deidentification, DeidentificationConf
from medllm.conversation import Conversation, Message
from medllm.data.preparation.deidentification import Deidentifier, IdentifierType, find, mask


def conversation(*texts: str) -> Conversation:
    """Turns in order, the patient's first."""
    roles = ("user", "assistant")
    return Conversation(tuple(Message(roles[i % 2], text) for i, text in enumerate(texts)), "row 1")


def deidentifier(mode: Deidentification, seed: int = 65) -> Deidentifier:
    """One in this mode."""
    return Deidentifier(DeidentificationConf(mode, seed))


def surrogate(text: str, seed: int = 65) -> str:
    """The text with invented values."""
    changed, _ = deidentifier(Deidentification.surrogate, seed).apply(conversation(text, "Yes."))
    return changed.messages[0].content


MASKED = {
    "Hello John, how are you?": "Hello [NAME], how are you?",
    "Dear Mrs. Smith, dr. mehta called.": "Dear Mrs. [NAME], dr. [NAME] called.",
    "I am Jane Doe and I cough.": "I am [NAME] and I cough.",
    "My name is priya sharma, this is Raj from Pune": "My name is [NAME], this is [NAME] from [ADDRESS]",
    "My wife, Zelda, coughs. Zelda smokes.": "My wife, [NAME], coughs. [NAME] smokes.",
    "Take care.\nRegards,\nBhagyesh": "Take care.\nRegards,\n[NAME]",
    "- Dr. A. Graves": "- Dr. [NAME]",
    "I live in Springfield": "I live in [ADDRESS]",
    "at 22 Baker Street, London NW1 6XE": "at [ADDRESS]",
    "Springfield, IL 62704; P.O. Box 17; Pune 411001": "[ADDRESS]; P.O. [ADDRESS]; [ADDRESS]",
    "12/03/2021, 2021-03-12, 3.4.21, March 2021": "[DATE], [DATE], [DATE], [DATE]",
    "On March 12, 2021 or the 12th of March or 3 May": "On [DATE] or the [DATE] or [DATE]",
    "I am 93 years old, he a 101 yo, she a 92-year-old": "I am [AGE] years old, he a [AGE] yo, she a [AGE]-year-old",
    "call 202.555.0111 or +44 7700 900123 or 0091 00000 00000": "call [PHONE] or [PHONE] or [PHONE]",
    "2025550190, (202) 555-0143, 98765 43210, 07700 900456": "[PHONE], [PHONE], [PHONE], [PHONE]",
    "mary (at) example (dot) net, j_doe99 @ example.org": "[EMAIL], [EMAIL]",
    "SSN 000-12-3456, MRN: 00000042": "SSN [SSN], MRN: [RECORD_NUMBER]",
    "policy number XZ9912345, card 4000 0000 0000 0002": "policy number [ACCOUNT_NUMBER], card [ACCOUNT_NUMBER]",
    "passport no N1234567, Aadhaar 0000 0000 0000": "passport no [LICENSE], Aadhaar [LICENSE]",
    "license plate KA 01 AB 1234": "license plate [LICENSE]",
    "pacemaker serial number PM-4455667": "pacemaker serial number [DEVICE]",
    "I met Zeynep; zeynep smokes. Jean-Luc and Ji-woo, too": "I met [NAME]; [NAME] smokes. [NAME] and [NAME], too",
    "The midwife, Salma Quispe, said so": "The midwife, [NAME], said so",
    "Rose has been vomiting. I spoke to Mark at noon": "[NAME] has been vomiting. I spoke to [NAME] at noon",
    "Yasmin told me her leg hurts since she takes Yasmin": "[NAME] told me her leg hurts since she takes Yasmin",
    "moved to Asheville; in Cape Town": "moved to [ADDRESS]; in [ADDRESS]",
    "my aunt is 96, grandpa turned ninety-one.": "my aunt is [AGE], grandpa turned [AGE].",
    "visa ending 0341, group GRP00451, plan 250000-HX-7": "visa ending [ACCOUNT_NUMBER], group [ACCOUNT_NUMBER], plan "
    "[ACCOUNT_NUMBER]",
    "chart G55.1-0093, ref XR/0045/88": "chart [RECORD_NUMBER], ref [RECORD_NUMBER]",
    "pump SN NG0012345H, controller LV-000318": "pump SN [DEVICE], controller [DEVICE]",
    "last four of my social are 0042": "last four of my social are [SSN]",
    "see www.example.in/a or clinic.example.org/b.": "see [URL] or [URL].",
    "192.0.2.44 and 2001:db8:85a3::8a2e:370:7334": "[IP] and [IP]",
}

KEPT = (
    "BP 120/80 and 140-90-88, dose 500-1000-500 mg, 1-0-1, glucose 110 115 1200, range 3.5-5.0",
    "E11.9, F32.1, T2N0M0, L4-L5, Augmentin 625, Liv 52, Istamet 50/1000, SpO2 94, 1:10000",
    "32 weeks 4 days, 24/7, 20/20, 6/6, 10:30 am, 1/2 tablet, 10-20-10 units, 5/10/20 mg",
    "45-year-old since 2015, 89 years old, every winter, since March, on Monday; it may 5 times help",
    "Call 988, 911, 112, 999, 1-800-273-8255 or 116 123, text 741741",
    "Parkinson, Crohn, Graves' disease, Hodgkin lymphoma, Bell's palsy, Foley catheter, Gram stain, Pap smear",
    "Hello doctor, Dear Sir, Hi Doc, dr. will see, dr. said, my dr wants, Dr. online, Dr. Scholl's insoles",
    "He will take Yasmin and Allegra; I hope she is frank, may rose hip help, the pulse is 96, Sj\u00f6gren",
    "firmware 2.4.1.7, software 10.0.3.12, chart 12.5, group B, T-BILL 0.855, Dexcom G6, keep it covered.net result",
    "I am Diabetic. I am African American. I live in India. My mother has asthma. My son has ADHD.",
)


@pytest.mark.parametrize("text", MASKED)
def test_identifiers_are_masked(text: str) -> None:
    """Each becomes its type, and nothing around it changes."""
    assert mask(text) == MASKED[text]


@pytest.mark.parametrize("text", KEPT)
def test_medical_text_stays(text: str) -> None:
    """Measures, codes, drugs, eponyms, public help lines and states are no identifiers."""
    assert mask(text) == text


def test_a_name_found_once_is_found_in_every_message() -> None:
    """Also before the place where a cue announced it; the eponym of the same name stays."""
    given = conversation("Zelda coughs.", "Thank you, Mrs. Zelda. Take the Zelda test.")
    changed, counts = deidentifier(Deidentification.placeholder).apply(given)
    assert [m.content for m in changed.messages] == ["[NAME] coughs.", "Thank you, Mrs. [NAME]. Take the Zelda test."]
    assert counts == {"NAME": 2}


@pytest.mark.parametrize(
    ("mode", "counted"),
    [
        (Deidentification.off, {}),
        (Deidentification.count, {"PHONE": 1, "DATE": 1}),
        (Deidentification.placeholder, {"PHONE": 1, "DATE": 1}),
        (Deidentification.surrogate, {"PHONE": 1, "DATE": 1}),
    ],
)
def test_modes(mode: Deidentification, counted: dict[str, int]) -> None:
    """Off neither looks nor changes, count only counts; whatever changes keeps roles and id."""
    given = conversation("Call 202-555-0111.", "On 3 May.")
    changed, counts = deidentifier(mode).apply(given)
    assert counts == Counter(counted)
    assert (changed == given) == (mode in (Deidentification.off, Deidentification.count))
    assert [m.role for m in changed.messages] == ["user", "assistant"]
    assert changed.id == given.id


def test_surrogates_keep_kind_and_shape() -> None:
    """Reserved numbers, addresses and domains, so that no invented value is anybody's."""
    for text, pattern in (
        ("Dr. Mehta said", r"Dr\. [A-Z][a-z]+ said"),
        ("call 07700 900456 now", r"call \d{3}-555-01\d\d now"),
        ("write to a.b@c.org", r"write to [a-z]+\.[a-z]+@example\.com"),
        ("see www.real.org/x", r"see https://example\.com/\d+"),
        ("from 10.1.2.3", r"from 192\.0\.2\.\d{1,3}"),
        ("I am 97 years old", r"I am 90 years old"),
        ("SSN 123-45-6789", r"SSN 000-\d\d-\d{4}"),
        ("MRN AB-1234", r"MRN [A-Z]{2}-\d{4}"),
        ("I live in Springfield", r"I live in [A-Z][a-z]+"),
    ):
        changed = surrogate(text)
        assert re.fullmatch(pattern, changed), changed
        assert changed != text


def test_surrogates_are_consistent() -> None:
    """One value, however written, becomes one other value in every conversation; another seed gives another."""
    names = {surrogate(f"{opening} Dr. Mehta.").split()[-1] for opening in ("Ask", "I saw", "Hello")}
    assert len(names) == 1
    numbers = {surrogate(f"call {number}") for number in ("(202) 555-0143", "202.555.0143", "+1 202 555 0143")}
    assert len(numbers) == 1
    assert len({surrogate("call 303-444-5678", seed) for seed in range(5)}) > 1


def test_intervals_between_dates_stay() -> None:
    """All dates of a conversation move by one number of days, each in its own manner of writing."""
    found = re.search(r"(\d{4}-\d\d-\d\d) and (\d+)/(\d+)/(\d{4})$", surrogate("Seen on 2021-03-01 and 25/03/2021"))
    assert found
    first, second = date.fromisoformat(found[1]), date(int(found[4]), int(found[3]), int(found[2]))
    assert (second - first).days == 24
    assert first < date(2021, 3, 1)
    assert re.fullmatch(r"on [A-Z][a-z]+ \d{1,2}, 20\d\d", surrogate("on March 12, 2021"))
    assert re.fullmatch(
        r"the \d{1,2} of [A-Z][a-z]+ or [A-Z][a-z]+ \d{1,2}", surrogate("the 12th of March or May 3rd-5th")
    )
    assert surrogate("on 31/02/2021, the twenty third of March") == "on [DATE], the [DATE]"


def test_one_date_tells_the_order_of_all() -> None:
    """03/25 can only be the month first, and so 03/05 is the fifth of March; a range of days tells nothing."""
    for more, days in (("03/25/2021", 20), ("25/03/2021", 39), ("25/03/2021, 12-15 May", 39)):
        found = re.match(r"(\d+)/(\d+)/(\d+), (\d+)/(\d+)/(\d+)", surrogate(f"03/05/2021, {more}"))
        assert found
        a, b, year, c, d, next_year = map(int, found.groups())
        first, second = (
            (date(year, a, b), date(next_year, c, d)) if days == 20 else (date(year, b, a), date(next_year, d, c))
        )
        assert abs((second - first).days) == days


# Pieces that meet in every order: what masking one of them leaves must never turn into another identifier.
PIECES = (
    "Dr. |Hello |my name is |John|Mehta| Smith|, |. |\n|12/03/2021|March |12|2021|-|/|:|@|a.b|.com|www.|http://|call |"
    "202-555-0143|+1|(|)|[NAME]|[DATE] |MRN |SSN |AB12|93| years old|I live in |Springfield| IL |62704|1.2.3.4|::1|"
    " and |my son |Regards,|\xa0|İ|from |on |Baker Street|22 |box |mr.|patient id |exp |may |1st |first of "
)
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(PIECES.split("|")), max_size=14).map("".join))


@settings(deadline=None, max_examples=400)
@given(TEXTS)
def test_spans_are_sorted_and_in_range(text: str) -> None:
    """For any text, however odd."""
    ends = [0]
    for identifier in find(text):
        assert ends[-1] <= identifier.start < identifier.end <= len(text)
        assert isinstance(identifier.type, IdentifierType)
        ends.append(identifier.end)


@settings(deadline=None, max_examples=400)
@given(TEXTS, TEXTS)
def test_masking_is_idempotent(first: str, second: str) -> None:
    """Placeholders are no identifiers and do not turn what stands beside them into one."""
    once, _ = deidentifier(Deidentification.placeholder).apply(conversation(first, second))
    twice, counts = deidentifier(Deidentification.placeholder).apply(once)
    assert twice == once
    assert not counts


@settings(deadline=None, max_examples=200)
@given(TEXTS)
def test_surrogates_depend_on_the_text_alone(text: str) -> None:
    """No crash and no chance: the same text gives the same result."""
    assert surrogate(text) == surrogate(text)


@pytest.mark.timeout(30)  # in proportion: a second or two; by the square: minutes
@pytest.mark.parametrize(
    "piece",
    [
        "5",
        "5 ",
        "1-",
        "1.",
        "a@",
        "@",
        "A",
        "Aa ",
        "Dr. Mehta ",
        "call me ",
        "12 Aaa Bbb ",
        ":",
        "March 1 ",
        "a at b dot ",
    ],
)
def test_no_text_hangs(piece: str) -> None:
    """120,000 characters made to backtrack are read to their end."""
    assert find((piece * 120_000)[:120_000]) is not None
