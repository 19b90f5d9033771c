"""Schema of the `guard` group: what stands before and after the model.

The fixed texts are written without a country: numbers and names of services are keys of their own. Have texts and lexicon
reviewed by clinicians where you work; nothing here has been.
"""

import string
from dataclasses import dataclass

from medllm.config.conf import Conf, ranged
from medllm.errors import Fault

PLACEHOLDERS = ("emergency_number", "crisis_line", "poison_line", "abuse_line")


@dataclass
class GuardConf(Conf):
    """Base of the group."""


@dataclass
class NoGuardConf(GuardConf):
    """Nothing stands between people and the model."""


@dataclass
class RedFlagGuardConf(GuardConf):
    """Red flags, the model's own urgency, fixed texts, screens of answers.

    Attributes:
        emergency_number: As it reads after "call": `112`, `911`, or words where the country is not known.
        crisis_line: For people who think of suicide, as it reads after "call".
        poison_line: Advice on poisoning, as it reads after "call".
        abuse_line: For people who are hurt by others, as it reads after "call".
        lexicon: A file in the format of the bundled `red_flags.yaml`, for instance one that your clinicians reviewed; null for
            the bundled one.
        red_flags: Whether to look for them.
        model_urgency: Whether to ask the model as well, by constrained likelihood of four options; the higher counts.
        model_caution: In [0, 1]. The model's urgency is the highest level that is reached or passed with a probability of at
            least 1 - model_caution: by default 0.8; more caution means more false alarms.
        screen_doses: Whether an answer that states a dose which nobody mentioned gets a note.
        screen_urgency: Whether an answer that does not send somebody with an urgent problem to help gets a note.
        disclaimer: Whether an answer without one gets one.
        emergency_text: In front of the answer to an emergency.
        model_emergency_text: The same where only the model takes it for one.
        self_harm_text: In front of the answer to somebody who may hurt themselves.
        violence_text: In front of the answer where another person is in danger, or the user by another.
        poisoning_text: After `emergency_text` where poisoning is possible.
        repeated_text: Instead of these, where nothing new was said since they were shown.
        urgency_note: Behind an answer to an emergency that does not say so itself.
        soon_note: Behind an answer that does not say to see somebody within a day or two, where that was due.
        dose_note: Behind an answer that states a dose which nobody mentioned.
        disclaimer_text: Behind an answer without a disclaimer.
    """

    emergency_number: str = "your local emergency number"
    crisis_line: str = "a suicide or crisis line in your country"
    poison_line: str = "your poison information centre"
    abuse_line: str = "a support line for people who are hurt or threatened at home"
    lexicon: str | None = None
    red_flags: bool = True
    model_urgency: bool = True
    model_caution: float = ranged(0.2, ge=0, le=1)
    screen_doses: bool = True
    screen_urgency: bool = True
    disclaimer: bool = True
    emergency_text: str = (
        "This may be an emergency. Call {emergency_number} now, or have somebody call. Do not drive yourself, and do not wait "
        "for an answer here. If it gets worse while you wait, call again."
    )
    model_emergency_text: str = (
        "What you describe may need help at once. If somebody is getting worse, has severe pain, trouble breathing, or is hard "
        "to wake, call {emergency_number} now; if you are not sure, call and ask."
    )
    self_harm_text: str = (
        "I am glad that you wrote this, and I am sorry that it is so hard. You do not have to be alone with it. If you might act "
        "on these thoughts, or have already hurt yourself or taken something, call {emergency_number} now. Otherwise call "
        "{crisis_line}; talking to somebody helps, at any hour. If you can, go to where somebody is with you, and put what you "
        "could hurt yourself with out of reach. If you write about somebody else, stay with them and make these calls together."
    )
    violence_text: str = (
        "Somebody's safety may be at stake. If you or anybody else is in danger now, or you fear that you might hurt somebody, "
        "go to where you and they are safe and call {emergency_number}. A child or a person who depends on you should be with "
        "somebody else until help is there. If somebody hurts or threatens you, {abuse_line} can help; call from a phone that "
        "they do not see."
    )
    poisoning_text: str = (
        "Do not make anybody vomit. Keep the packaging. If nobody is ill yet, call {poison_line} at once and "
        "follow what they say."
    )
    repeated_text: str = (
        "What I wrote above still holds: if you have not called {emergency_number} yet, please do it now."
    )
    urgency_note: str = (
        "Please do not let the answer above keep you from calling {emergency_number}: what you wrote can be an "
        "emergency."
    )
    soon_note: str = (
        "With what you describe, please be seen by a doctor or nurse within the next day or two, sooner if it "
        "gets worse."
    )
    dose_note: str = (
        "The answer above names a dose that you had not mentioned. It may be wrong for you or for anybody. Take or change no "
        "medicine on its word; ask a pharmacist or doctor, or read the leaflet."
    )
    disclaimer_text: str = "I am a computer program and can be wrong; this does not replace a doctor who knows you."

    def faults(self) -> list[Fault]:
        """Texts must be complete sentences with known placeholders."""
        found = []
        for name in (name for name in vars(self) if name.endswith(("_text", "_note"))):
            text = getattr(self, name)
            try:
                used = {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}
            except ValueError as error:
                found.append(Fault(name, f"cannot be filled in: {error}", text, fix="write {{ and }} for braces"))
                continue
            unknown = sorted(used - set(PLACEHOLDERS))
            if unknown:
                allowed = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
                found.append(Fault(name, "has a placeholder that is not known", f"{{{unknown[0]}}}", allowed=allowed))
            if not text.strip():
                found.append(Fault(name, "is empty", fix="guard=none where no guard is wanted"))
        empty = [name for name in PLACEHOLDERS if not getattr(self, name).strip()]
        return found + [Fault(name, "is empty", allowed="a number, or words that follow `call`") for name in empty]
