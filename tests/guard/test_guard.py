"""Texts before an answer, screens behind it, the model's own urgency."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from medllm.config.guard import NoGuardConf, RedFlagGuardConf
from medllm.conversation import Conversation
from medllm.guard.answers import guarded_answers
from medllm.guard.guard import Guard, NoGuard, Verdict, build_guard
from medllm.guard.lexicon import Protocol
from medllm.guard.screens import advises_urgency, advises_visit, disclaims, doses, invented_doses, reassures
from medllm.guard.urgency import OPTIONS, ModelUrgency, Opinion, Urgency
from medllm.inference.generate import Answer
from tests.guard.test_red_flags import say

GOOD = "Please call an ambulance. I am a computer program and can be wrong; see a doctor."


@dataclass(frozen=True)
class Score:
    """A likelihood."""

    log_likelihood: float


class Model:
    """Prefers the option that a word in the conversation asks for, and D for everything a little."""

    def __init__(self) -> None:
        self.asked = 0

    def likelihoods(self, requests: Sequence[tuple[Conversation, str]]) -> list[Score]:
        """By words."""
        self.asked += len(requests)
        scores = []
        for conversation, text in requests:
            said = conversation.messages[-1].content
            level = next(level for level, option in OPTIONS.items() if option == text)
            wanted = next((Urgency[letter] for letter in "ABCD" if f"level {letter}" in said), None)
            scores.append(Score(-10.0 + 3 * (level is Urgency.D) + 5 * (level is wanted)))
        return scores

    def answers(self, conversations: Sequence[Conversation]) -> list[Answer]:
        """The same for all."""
        return [Answer(c.messages[-1].content, "Take 500 mg of ibuprofen.", True) for c in conversations]


def guard(**values: object) -> Guard:
    """With some settings."""
    built = build_guard(RedFlagGuardConf(**values))  # type: ignore[arg-type]
    assert isinstance(built, Guard)
    return built


def test_an_emergency_is_answered_before_the_model() -> None:
    """The fixed text is known from the conversation alone, with the local number in it."""
    verdict = guard(emergency_number="112").screen(say("I keep vomiting blood"))
    assert verdict.urgency is Urgency.D
    assert "Call 112 now" in verdict.before
    assert verdict.record == {
        "urgency": "D",
        "flags": {"bleeding": "D"},
        "model": None,
        "protocols": ["emergency"],
        "repeated": False,
        "lexicon": verdict.lexicon,
    }


def test_self_harm_has_its_own_protocol() -> None:
    """Its own words and number; with an overdose the emergency comes first."""
    thoughts = guard(crisis_line="988").screen(say("I want to end my life"))
    assert thoughts.protocols == (Protocol.self_harm,)
    assert "call 988" in thoughts.before
    assert "This may be an emergency" not in thoughts.before
    done = guard().screen(say("I took 30 paracetamol tablets because I want to die"))
    assert done.protocols == (Protocol.poisoning, Protocol.self_harm)
    assert done.before.index("This may be an emergency") < done.before.index("make anybody vomit")
    assert done.before.index("make anybody vomit") < done.before.index("You do not have to be alone")


def test_danger_from_others_has_its_own_protocol() -> None:
    """Where to be safe, and whom to call."""
    verdict = guard(abuse_line="the women's line").screen(say("He strangled me and says he will kill me"))
    assert verdict.protocols == (Protocol.violence,)
    assert "the women's line" in verdict.before


def test_nothing_new_is_said_shortly() -> None:
    """The long text is not repeated under every later turn, and comes back with a new sign."""
    screen = guard().screen
    assert screen(say("I keep vomiting blood", "Which tea is good?")).repeated
    assert "still holds" in screen(say("I keep vomiting blood", "Which tea is good?")).before
    assert "This may be an emergency" in screen(say("I keep vomiting blood", "Now my face droops and I slur")).before


def test_no_text_claims_to_see_everything() -> None:
    """Words shown to people never say that there is no emergency, or that all are found."""
    conf = RedFlagGuardConf()
    for name in (name for name in vars(conf) if name.endswith(("_text", "_note"))):
        text = getattr(conf, name).lower()
        assert not any(
            claim in text for claim in ("no emergency", "not an emergency", "safe to wait", "always", "every emergency")
        )


def test_nothing_of_the_answer_is_left_out() -> None:
    """Whatever the guard adds, the model's words stand whole between."""
    conversation = say("I keep vomiting blood")
    answer = "Just wait and see. Take 500 mg of ibuprofen."
    guarded = guard().review(conversation, answer)
    assert guarded.text == f"{guarded.before}\n\n{answer}\n\n{guarded.after}"
    assert guarded.notes == ("urgency", "dose", "disclaimer")
    assert guarded.invented_doses == ("500 mg",)


def test_a_good_answer_is_left_alone() -> None:
    """No note where none is due."""
    guarded = guard().review(say("Which tea is good for sleep?"), "Lime blossom. " + GOOD)
    assert (guarded.before, guarded.after, guarded.notes) == ("", "", ())
    assert guard().review(say("I keep vomiting blood"), GOOD).notes == ()


def test_urgent_is_not_an_emergency() -> None:
    """C adds nothing in front, and a note behind where the answer sends to nobody."""
    conversation = say("I have had blood in my stool for two days, a little.")
    verdict = guard().screen(conversation)
    assert (verdict.urgency, verdict.before) == (Urgency.C, "")
    assert "soon" in guard().review(conversation, "Eat more fibre.", verdict).notes
    assert "soon" not in guard().review(conversation, "Please see your doctor tomorrow.", verdict).notes


def test_screens_can_be_switched_off() -> None:
    """Each by its key."""
    quiet = guard(screen_doses=False, screen_urgency=False, disclaimer=False)
    assert quiet.review(say("I keep vomiting blood"), "Take 500 mg of ibuprofen.").notes == ()
    assert guard(red_flags=False).screen(say("I keep vomiting blood")).urgency is Urgency.A


def test_no_guard_is_an_object() -> None:
    """It lets everything through."""
    none = build_guard(NoGuardConf())
    assert type(none) is NoGuard
    assert none.review(say("I keep vomiting blood"), "x").text == "x"
    assert none.screen_all([say("a"), say("b")]) == [Verdict(), Verdict()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Take 500 mg of paracetamol every six hours.", {("500", "mg")}),
        ("1,000 mg or 1.5 g", {("1000", "mg")}),
        ("Take 1 g twice a day", {("1", "g")}),
        ("5-10 ml of the syrup", {("5", "ml"), ("10", "ml")}),
        ("two tablets, then one puff", {("2", "tablet"), ("1", "puff")}),
        ("Your sugar was 126 mg/dL.", set()),
        ("Drink 500 ml of water with 2 g of salt.", set()),
        ("Walk for 30 minutes, 3 times a week.", set()),
        ("400 IU of vitamin D", {("400", "iu")}),
    ],
)
def test_doses_by_hand(text: str, expected: set[tuple[str, str]]) -> None:
    """Number and unit of medicines; laboratory values, food and drink are none."""
    assert doses(text) == expected


def test_a_dose_is_invented_if_nobody_mentioned_it() -> None:
    """Spelling and unit do not matter: half a gram is 500 mg."""
    assert invented_doses("Take 500 mg", "Can I take ibuprofen?") == {("500", "mg")}
    assert invented_doses("Take 500mg", "I take 500 mg tablets") == set()
    assert invented_doses("Take 500 mg", "I was told to take 0.5 g of it") == set()
    assert invented_doses("Take 400 mg", "I take 500 mg tablets") == {("400", "mg")}


def test_words_of_answers_by_hand() -> None:
    """What sends to help, what belittles, what disclaims."""
    assert advises_urgency("Go to the nearest hospital now.")
    assert not advises_urgency("It will pass in a week.")
    assert advises_visit("Please see a doctor about it.")
    assert not advises_visit("Put ice on it.")
    assert reassures("There is nothing to worry about.")
    assert disclaims("This is not a substitute for a doctor.")
    assert not disclaims("Put ice on it.")


def test_the_models_urgency_is_the_likelihood_of_four_answers() -> None:
    """Among each other, from four likelihoods a conversation."""
    model = Model()
    opinions = ModelUrgency(model.likelihoods).opinions([say("level A"), say("level D")])
    assert [opinion.urgency() for opinion in opinions] == [Urgency.A, Urgency.D]
    total = math.exp(5) + math.exp(3) + 2
    assert opinions[0].probabilities == pytest.approx((math.exp(5) / total, 1 / total, 1 / total, math.exp(3) / total))
    assert model.asked == 8
    assert ModelUrgency(model.likelihoods).opinions([]) == []


def test_caution_raises_urgency() -> None:
    """The highest level that is reached or passed with at least 1 - caution."""
    opinion = Opinion((0.4, 0.2, 0.1, 0.3))
    assert [opinion.urgency(caution) for caution in (0.0, 0.5, 0.65, 0.75, 1.0)] == [
        Urgency.A, Urgency.B, Urgency.C, Urgency.D, Urgency.D,
    ]  # fmt: skip


def test_the_higher_urgency_counts() -> None:
    """Red flags and the model: neither can lower the other."""
    asked = build_guard(RedFlagGuardConf(), Model().likelihoods)
    only_model = asked.screen(say("level D"))
    assert (only_model.urgency, only_model.flags) == (Urgency.D, ())
    assert "may need help at once" in only_model.before
    only_flags = asked.screen(say("level A. I keep vomiting blood"))
    assert only_flags.urgency is Urgency.D
    assert "This may be an emergency" in only_flags.before
    unasked = build_guard(RedFlagGuardConf(model_urgency=False), Model().likelihoods)
    assert unasked.screen(say("level D")).urgency is Urgency.A


def test_guarded_answers_are_what_people_see() -> None:
    """Text in front, the model's answer, notes; the rest of the answer stays."""
    model = Model()
    conversations = [say("level A"), say("I keep vomiting blood")]
    built = build_guard(RedFlagGuardConf(), model.likelihoods)
    plain, urgent = guarded_answers(built, model, conversations)
    assert plain.text.startswith("Take 500 mg of ibuprofen.")
    assert urgent.text.startswith("This may be an emergency")
    assert "Take 500 mg of ibuprofen." in urgent.text
    assert (urgent.question, urgent.finished) == ("I keep vomiting blood", True)
