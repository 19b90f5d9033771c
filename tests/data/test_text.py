"""The text steps of cleaning, each by itself."""

from collections.abc import Callable

import pytest

from medllm.data.preparation.text import boilerplate, glued_sentences, html, neutralise, unicode
from medllm.data.preparation.urgency import urgency_words


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("The pain is â€œsharpâ€\ufffd â€“ about 37.5Â°C â€¦", "The pain is \u201csharp\u201d \u2013 about 37.5°C …"),
        ("IÃ¢â‚¬â„¢m naÃƒÂ¯ve", "I\u2019m naïve"),  # noqa: RUF001
        ("Hello\ufffddoctor,\ufffdI don\ufffdt know", "Hello doctor, I don't know"),
        ("red\x07\x1b[31m eye\x1b[0m\x00pain", "red eye pain"),
        ("a\r\nb\rc\t d\xa0\u2003e \n\n\n\n f", "a\nb\nc d e\n\nf"),
        ("zero\u200b\u200d\ufeff width \u202eesrever\u202c", "zero width esrever"),
        ("e\u0301te\u0301 \ufb01 \ufb02 \uff21", "été fi fl A"),
        ("hidden\U000e0041\U000e0042 orders", "hidden orders"),
        (
            "👩\u200d⚕️ 😷🤒💊 µg ≥ ½ \u0645\u06cc\u200c\u062e\u0648",
            "👩\u200d⚕️ 😷🤒💊 µg ≥ ½ \u0645\u06cc\u200c\u062e\u0648",
        ),
    ],
)
def test_unicode_is_repaired(given: str, wanted: str) -> None:
    """Mojibake, lost characters, controls, spaces and ligatures; emoji and joined letters stay."""
    assert unicode(given) == wanted


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("<p>Hi,<br/>a <b class='x'>lump</b>.</p>", "\nHi,\na lump.\n"),
        ("cut<script>if (a<b) alert(1)</script><!-- hidden --> off<img src=x onerror=alert(1)>", "cut off"),
        ("rest &amp; water, &lt;b&gt;soon&lt;/b&gt;&nbsp;", "rest & water, soon\xa0"),
        ("&amp;amp;lt;b&amp;amp;gt;x", "x"),
        ('<a href="https://example.com/?x=1&amp;y=2">here</a>', "here"),
    ],
)
def test_html_goes(given: str, wanted: str) -> None:
    """Tags, scripts, comments and entities, however often escaped."""
    assert html(given) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "TSH<0.1 and T3 > 90, <150 and > 90, SpO2 < 92, p<b and c>d",
        "<s> </s> <think> <pad> <unk> <bos> <eos> <end_of_turn> <start_of_turn>model",
        "R&D; AT&T, a&b",
    ],
)
def test_what_is_no_html_stays(text: str) -> None:
    """Comparisons are medicine, control tokens another step's."""
    assert html(text) == text


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("Hello, Welcome to Chat Doctor forum. It is urticaria.", "Hello, It is urticaria."),
        ("Hello and welcome to \u2018Ask A Doctor\u2019 service. It is urticaria.", "Hello. It is urticaria."),
        ("Hi. Thanks for your query. Rest.", "Hi. Rest."),
        ("Hi. Rest. For further information consult an ENT otolaryngologist online.--->", "Hi. Rest."),
        ("Rest. revert back with the reports to a dentist online --> <link>", "Rest."),
        ("Revert after two weeks to a dermatologist online -->", "Revert after two weeks."),
        (
            "I saw the photo (attachment removed to protect patient identity), it is fine.",
            "I saw the photo, it is fine.",
        ),
        ("A minimal dose of the  ChatDoctor.  You can reduce it.", "A minimal dose of the. You can reduce it."),
        ("Rest. Hope this helps.Thanks and regards, Dr. A. Example", "Rest. Hope this helps."),
        ("Drink water. Take care.", "Drink water."),
        ("Q. Is it eczema?", "Is it eczema?"),
    ],
)
def test_boilerplate_goes_by_the_sentence(given: str, wanted: str) -> None:
    """What the forum added, and no word more."""
    assert boilerplate(given) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "Hello. Revert after 2 weeks. Consult a cardiologist for an ECG.",
        "Thank you for asking about your insulin dose, keep it.",
        "You are welcome to come back. As regards your knee, take care of it.",
        "Fever --> rash is typical. Chat with a doctor near you.",
        "Q.I.D. means four times a day.",
    ],
)
def test_medicine_is_no_boilerplate(text: str) -> None:
    """Advice, greetings and arrows within a sentence stay."""
    assert boilerplate(text) == text


def test_glued_sentences_part() -> None:
    """Links, addresses, numbers and abbreviations do not."""
    given = (
        "for days.I have pain,doctor.Help!why e.g. 3.5 mg,1,200 Ph.D in http://x.example/a.Bc and Jane.Roe@x.example"
    )
    wanted = "for days. I have pain, doctor. Help! why e.g. 3.5 mg,1,200 Ph.D in http://x.example/a.Bc and Jane.Roe@x.example"
    assert glued_sentences(given) == wanted


# fmt: off
TOKENS = [
    "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<|endoftext|>", "<|assistant|>", "<|channel|>",
    "<\uff5cend▁of▁sentence\uff5c>", "<\uff5cUser\uff5c>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>", "<bos>",
    "<eos>", "<pad>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>", "<think>", "</think>", "<tool_call>",
    "</tool_call>", "[AVAILABLE_TOOLS]", "[/TOOL_RESULTS]", "<BOS_TOKEN>", "<turn|>", "[gMASK]", "<extra_id_0>",
    "### Response:", "### Instruction:",
]
# fmt: on


@pytest.mark.parametrize("token", TOKENS)
def test_no_control_token_survives(token: str) -> None:
    """Alone, doubled, nested and within words; breaking twice is breaking once."""
    for text in (token, f"a{token}{token}b", f"{token[:2]}{token}{token[2:]}", f"#{token}#"):
        broken = neutralise(text)
        assert token not in broken
        assert neutralise(broken) == broken
        assert broken.replace(" ", "") == text.replace(" ", "")


def test_pseudo_turns_are_broken_at_the_start_of_a_line() -> None:
    """People write `Patient:`; and they write of systems."""
    assert neutralise("Human: hi\n\nAssistant: ok\nSystem: x") == "H uman: hi\n\nA ssistant: ok\nS ystem: x"
    prose = "Patient: 45 y old\nDoctor: yes. Nervous System: normal [PHONE] ### Plan"
    assert neutralise(prose) == prose


UNITS = (
    "<|(|a| |-|\xa0|\u200d|<!--|<script>|<b x='|&amp;|revert to a |For more |é|Thanks for |take care. |Regards Dr |welcome to "
    "|Q. |(attachment |a.Bc@|[|#|no chest "
)


@pytest.mark.timeout(30)  # in proportion: under a second; by the square: minutes
@pytest.mark.parametrize("step", [unicode, html, boilerplate, glued_sentences, neutralise, urgency_words])
@pytest.mark.parametrize(
    "unit",
    UNITS.split("|"),
)
def test_no_text_hangs(step: Callable[[str], object], unit: str) -> None:
    """120,000 characters of whatever a pattern begins with are read to their end."""
    assert step(unit * (120_000 // len(unit))) is not None


def test_urgency_words_hear_a_no() -> None:
    """A denied sign is none, up to where the sentence turns."""
    assert urgency_words("He has crushing chest pain and passed out.") == ["chest pain", "unconscious"]
    assert urgency_words("No chest pain, fainting or seizures, but I feel suicidal.") == ["suicidal"]
    assert urgency_words("I have no idea why my chest feels tight; I can\u2019t breathe") == [
        "chest pain",
        "breathlessness",
    ]
    assert urgency_words("My 3 week old has fever") == ["infant fever"]
    assert urgency_words("I am not suicidal and never had a stroke.") == []
