"""Scopes, combinations, and the whole conversation."""

from pathlib import Path

import pytest

from medllm.config.guard import RedFlagGuardConf
from medllm.conversation import Conversation, Message
from medllm.errors import ConfigError
from medllm.guard.flags import Finder
from medllm.guard.guard import Guard
from medllm.guard.lexicon import BUNDLED, load_lexicon
from medllm.guard.scope import Scope, Text
from medllm.guard.urgency import Urgency

FINDER = Finder(load_lexicon())


def say(*texts: str) -> Conversation:
    """What a user wrote, each but the last answered by a question."""
    turns = [m for text in texts for m in (Message("user", text), Message("assistant", "What else?"))]
    return Conversation(tuple(turns[:-1]))


def acute(*texts: str) -> list[str]:
    """Groups that mean an emergency now."""
    return [flag.group for flag in FINDER.find(say(*texts)) if flag.urgency is Urgency.D]


def scopes(text: str, words: str) -> set[Scope]:
    """Of some words in a text."""
    read = Text(text)
    start = read.plain.index(words)
    return read.scopes(start, start + len(words))


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("I have chest pain.", "chest pain", set()),
        ("I have no chest pain.", "chest pain", {Scope.denied}),
        ("No fever, cough or chest pain.", "chest pain", {Scope.denied}),
        ("She denies fever, headache and chest pain", "chest pain", {Scope.denied}),
        ("I don\u2019t have any chest pain", "chest pain", {Scope.denied}),
        ("Chest pain: no. Cough: yes.", "chest pain", {Scope.denied}),
        ("No fever, but chest pain since noon.", "chest pain", set()),
        ("No fever, severe chest pain.", "chest pain", set()),
        ("I have no appetite because my chest hurts", "chest hurts", set()),
        ("I have no idea why my chest is tight", "chest is tight", set()),
        ("No wind for three days, vomiting", "vomiting", set()),
        ("I don't know if this is chest pain", "chest pain", set()),
        ("Is not responding, has chest pain", "chest pain", set()),
        ("Ten years ago I had a stroke.", "a stroke", {Scope.past}),
        ("I had a stroke ten years ago and my face is drooping", "face is drooping", set()),
        ("Years ago I had chest pain, and today it is back.", "chest pain", set()),
        ("When I was 12 I fainted", "fainted", {Scope.past}),
        ("My four year old has fever", "fever", set()),
        ("There is a history of stroke", "stroke", {Scope.past}),
        ("My father had a stroke at 60.", "a stroke", {Scope.family}),
        ("Family history of seizures", "seizures", {Scope.family}),
        ("My mother had a seizure ten minutes ago", "a seizure", set()),
        ("My father suddenly has crushing chest pain", "chest pain", set()),
        ("What if I get chest pain on the plane", "chest pain", {Scope.hypothetical}),
        ("What are the signs of a stroke?", "a stroke", {Scope.hypothetical}),
        ("I am worried about meningitis", "meningitis", {Scope.hypothetical}),
        ("I'm worried about the chest pain that started an hour ago", "chest pain", set()),
    ],
)
def test_scope_by_hand(text: str, words: str, expected: set[Scope]) -> None:
    """Denied, past, family and hypothetical, at the level of the clause."""
    assert scopes(text, words) == expected


@pytest.mark.parametrize(
    ("group", "text"),
    [
        ("acs", "Crushing chest pain going into my left arm, I am sweating"),
        ("stroke", "My husband's mouth droops and he cannot speak"),
        ("stroke", "A sudden headache, the worst of my life"),
        ("breathing", "She can't breathe and her lips are blue"),
        ("anaphylaxis", "After the wasp sting my tongue is swelling and I wheeze"),
        ("sepsis", "Chemo last week, and tonight 38.6 with chills, fever"),
        ("bleeding", "I keep vomiting blood"),
        ("poisoning", "I took 30 paracetamol tablets"),
        ("self_harm", "I want to kill myself"),
        ("violence", "A voice tells me to hurt my baby"),
        ("collapse", "He is having a seizure for six minutes"),
        ("pregnancy", "I'm pregnant, bleeding and with strong belly pain"),
        ("child", "My 4 week old has a temperature of 38.4"),
        ("torsion", "My son woke up with terrible pain in one testicle"),
        ("spine", "Back pain, I can't pee since yesterday and my saddle is numb"),
        ("abdomen", "Sudden terrible belly pain, hard as a board, and vomiting"),
        ("eye", "I suddenly lost the vision in my left eye"),
        ("injury", "Boiling water went over my child's face, it is blistered"),
    ],
)
def test_every_group_knows_its_emergency(group: str, text: str) -> None:
    """One plain case of each group."""
    assert group in acute(text)
    assert {g.name for g in FINDER.lexicon.groups} == {
        "acs", "stroke", "breathing", "anaphylaxis", "sepsis", "bleeding", "poisoning", "self_harm", "violence", "collapse",
        "pregnancy", "child", "torsion", "spine", "abdomen", "eye", "injury",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "A cough since Monday. No chest pain, no fever, I can breathe normally.",
        "I had a heart attack eight years ago. May I swim?",
        "My uncle died of a stroke. When should I check my blood pressure?",
        "What are the symptoms of anaphylaxis?",
        "My nose is stuffy and I can't breathe through it.",
        "I sweat a lot at night in summer.",
        "My new shoes are killing me.",
        "I am not suicidal and I'd never hurt myself.",
        "Hay fever makes me tired.",
        "I use 10 mg of lisinopril and feel fine.",
    ],
)
def test_no_emergency_where_there_is_none(text: str) -> None:
    """Denied, past, family's, asked about, and single words of a combination."""
    assert acute(text) == []


def test_a_sign_is_more_than_its_words() -> None:
    """Sweating alone and an ache alone are nothing; together with chest pain they are something."""
    assert acute("I am sweating") == []
    assert acute("My jaw aches since the dentist") == []
    assert acute("My jaw aches and I am drenched in sweat") == ["acs"]


def test_what_belongs_together_stands_together() -> None:
    """Two halves of a sign at the ends of a long message are two things."""
    filler = "We moved house and painted the rooms in many colours. " * 12
    assert acute(f"I wheeze a little. {filler} My cat is getting worse.") == []


def test_the_whole_conversation_is_heard() -> None:
    """A sign may be spread over the user's turns, and stays when they go on to something else."""
    first, second = "I have some pain in the chest when I climb the stairs.", "Yes, and I am sweating and feel faint."
    assert acute(first) == []
    assert acute(first, second) == ["acs"]
    assert acute(first, second, "Which tea is good for sleep?") == ["acs"]
    flags = FINDER.find(say(first, second, "Which tea is good for sleep?"))
    assert [flag.turn for flag in flags] == [1]


def test_only_the_user_is_heard() -> None:
    """What the assistant or the system says is no sign."""
    asked = (Message("system", "Chest pain and sweating are dangerous."), Message("user", "Hello"))
    answered = (
        *asked,
        Message("assistant", "Do you have chest pain and are you sweating?"),
        Message("user", "I have a cold."),
    )
    assert FINDER.find(Conversation(asked)) == FINDER.find(Conversation(answered)) == []


def test_spelling_does_not_matter() -> None:
    """Typographic hyphens and quotes, capitals, line ends."""
    assert acute("COFFEE\u2011GROUND VOMIT") == ["bleeding"]
    assert acute("I can\u2019t breathe\n\nplease help") == ["breathing"]


@pytest.mark.timeout(60)  # in proportion: a second or two each; by the square: an hour
def test_no_text_hangs() -> None:
    """Sixty thousand characters of anything are read to their end."""
    for piece in ("chest pain and sweating. ", "no fever, no cough, ", "a " * 10, "my baby took "):
        text = (piece * 20_000)[:60_000]
        assert FINDER.find(say(text)) is not None


def test_every_group_names_its_sources() -> None:
    """A sign without a source is an opinion."""
    assert all(group.sources and group.signs for group in FINDER.lexicon.groups)
    used = {
        term
        for group in FINDER.lexicon.groups
        for sign in group.signs
        for entry in (*sign.all, sign.unless)
        for term in entry
    }
    assert set(FINDER.lexicon.terms) - used == set()


def test_a_faulty_lexicon_names_its_faults(tmp_path: Path) -> None:
    """All of them, before anything is screened."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        'version: 1\nterms: {a: ["("], b: ["%nothing%"]}\n'
        "groups: {g: {title: t, sources: [s], protocol: loud, signs: [{all: [c], urgency: B}, {any: [a]}]}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        Guard(RedFlagGuardConf(lexicon=str(path)))
    message = str(caught.value)
    for part in (
        "term a",
        "no part is called nothing",
        "no term is called c",
        "urgency is C or D, not B",
        "'loud'",
        "`all`",
    ):
        assert part in message
    with pytest.raises(ConfigError, match=r"guard\.lexicon=.*missing\.yaml: cannot be read"):
        Guard(RedFlagGuardConf(lexicon=str(tmp_path / "missing.yaml")))


def test_a_lexicon_of_ones_own(tmp_path: Path) -> None:
    """A copy with another version is what verdicts name."""
    path = tmp_path / "mine.yaml"
    path.write_text(BUNDLED.read_text().replace('version: "', 'version: "ours-'))
    verdict = Guard(RedFlagGuardConf(lexicon=str(path))).screen(say("I keep vomiting blood"))
    assert verdict.lexicon.startswith("ours-")
