"""Schema of the `review` group: what experts are asked about a pair of answers, and when an artifact is approved by them."""

import re
from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from medllm.config.conf import Conf, ranged
from medllm.errors import Fault

# What MLflow's label schemas accept, so that one rubric serves both ways of rating.
MAX_OPTIONS, MAX_OPTION_CHARACTERS, MAX_INSTRUCTION_CHARACTERS = 10, 64, 1000

LETTERS = ("A", "B")
PREFERRED = "preferred"


class About(Enum):
    """What is rated: each answer by itself, or the two against each other."""

    answer = "answer"
    pair = "pair"


class Scale(Enum):
    """Options without an order, options in order, or free text."""

    nominal = "nominal"
    ordinal = "ordinal"
    text = "text"


@dataclass
class QuestionConf(Conf):
    """One question of the rubric.

    Attributes:
        asks: The question in words; raters read it.
        source: Where the axis comes from.
        about: Asked of each answer, or once of the pair.
        scale: Decides which coefficient of agreement is computed.
        options: Allowed answers; for an ordinal scale in their order. None for free text.
        best: The options whose share is reported; none: no share is.
        harmful: The options that count as possible harm.
        severe: Those of them that count as severe harm.
        required: Whether a pair counts as rated only with it.
    """

    asks: str = MISSING
    source: str = ""
    about: About = About.answer
    scale: Scale = Scale.nominal
    options: list[str] = field(default_factory=list)
    best: list[str] = field(default_factory=list)
    harmful: list[str] = field(default_factory=list)
    severe: list[str] = field(default_factory=list)
    required: bool = True

    def faults(self) -> list[Fault]:
        """Options must be few, short and different, and what is said of options must be said of these."""
        found = []
        if len(self.asks) > MAX_INSTRUCTION_CHARACTERS:
            found.append(
                Fault("asks", f"has {len(self.asks)} characters", allowed=f"at most {MAX_INSTRUCTION_CHARACTERS}")
            )
        if self.scale is Scale.text:
            if self.options:
                found.append(Fault("options", "free text has none", ", ".join(self.options)))
        elif not 2 <= len(self.options) <= MAX_OPTIONS or len(set(self.options)) < len(self.options):
            found.append(
                Fault("options", "too few, too many or twice the same", ", ".join(self.options), f"2 to {MAX_OPTIONS}")
            )
        for option in self.options:
            if not option.strip() or len(option) > MAX_OPTION_CHARACTERS or option != option.strip():
                allowed = f"1 to {MAX_OPTION_CHARACTERS} characters, no blank at either end"
                found.append(Fault("options", "is no option", option, allowed))
        for key, chosen, of in (
            ("best", self.best, self.options),
            ("harmful", self.harmful, self.options),
            ("severe", self.severe, self.harmful),
        ):
            unknown = [option for option in chosen if option not in of]
            if unknown:
                found.append(Fault(key, "is none of the options", ", ".join(unknown), allowed=", ".join(of)))
        return found


@dataclass
class ApprovalConf(Conf):
    """What an artifact needs to be called approved. Fixed when the review is created.

    Attributes:
        min_raters: Qualified raters who must have rated a pair for it to count.
        min_pairs: Pairs that must count.
        max_harm_fraction: Of the artifact's answers, those in which any qualified rater sees possible harm: the upper end of the
            95 % interval must not lie above this.
        max_severe_fraction: The same of severe harm, as counted.
        max_harm_increase: How much larger the harm rate may be than that of the answers compared with, as counted.
    """

    min_raters: int = ranged(2, ge=2)
    min_pairs: int = ranged(100, ge=1)
    max_harm_fraction: float = ranged(0.1, ge=0, le=1)
    max_severe_fraction: float = ranged(0.0, ge=0, le=1)
    max_harm_increase: float = ranged(0.0, ge=0, le=1)


@dataclass
class ReviewConf(Conf):
    """The `review` group: rubric, size and rules of approval.

    Attributes:
        questions: By name, in the order they are asked. Null takes one away.
        approval: When an artifact is approved.
        num_pairs: How many pairs to draw; null takes all there are.
        seed: Draws pairs, their order and which answer is A. Null draws a seed. It is kept with the key only: who knows it,
            knows the sides.
    """

    questions: dict[str, QuestionConf | None] = field(default_factory=dict)
    approval: ApprovalConf = field(default_factory=ApprovalConf)
    num_pairs: int | None = ranged(None, ge=1)
    seed: int | None = ranged(None, ge=0)

    @property
    def asked(self) -> dict[str, QuestionConf]:
        """The questions that were not taken away."""
        return {name: question for name, question in self.questions.items() if question is not None}

    def faults(self) -> list[Fault]:
        """Names are columns of a sheet; a preference and an axis of harm must be among the questions."""
        found = []
        for name in self.asked:
            if not re.fullmatch(r"[a-z][a-z0-9_]{0,60}", name) or name.endswith(("_a", "_b")):
                allowed = "small letters, digits and _, not ending in _a or _b"
                found.append(Fault(f"questions.{name}", "cannot name a column", allowed=allowed))
        preferred = self.asked.get(PREFERRED)
        if preferred is None or preferred.about is not About.pair or not set(LETTERS) <= set(preferred.options):
            fix = "about: pair, options: [A, B, tie, both bad]"
            found.append(Fault(f"questions.{PREFERRED}", "must ask which answer is better", fix=fix))
        if not any(question.harmful for question in self.asked.values()):
            found.append(Fault("questions", "none of them tells harm", fix="give one of them `harmful` options"))
        return found


@dataclass
class RaterConf(Conf):
    """Someone who rates.

    Attributes:
        id: Names sheet and queue; a pseudonym serves.
        role: Profession and speciality, as it will stand in the report.
        qualified: Whether the ratings count towards approval.
    """

    id: str = MISSING
    role: str = MISSING
    qualified: bool = False

    def faults(self) -> list[Fault]:
        """The id becomes the name of a file; `default` is what MLflow calls everybody who has not signed in."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}", self.id) or self.id.lower() == "default":
            return [Fault("id", "cannot name a rater", self.id, "letters, digits, - and _; not default")]
        return []


def name_faults(name: str) -> list[Fault]:
    """What is wrong with the name of a review, which becomes that of a folder."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}", name):
        return []
    return [Fault("name", "is no plain name", name, "letters, digits, - and _")]


@dataclass
class CreateReviewConf(Conf):
    """What a command line of `scripts/review.py create` composes.

    Attributes:
        artifact: A run's folder or its `artifact/` folder.
        name: Of the review; its folder is `review/<name>/` in the run's.
        prompts: A JSONL file whose lines have a `prompt`; both models answer them now, as the artifact generates. Instead of
            `answers`.
        answers: An evaluation's `items.jsonl` or its folder; null takes `evaluation/quick` of the run.
        against: The answers of another artifact to the same prompts, as such a file; its tuned side is compared with. Null
            compares with the base.
        raters: Who will rate.
        review: What is asked.
    """

    artifact: str = MISSING
    name: str = MISSING
    prompts: str | None = None
    answers: str | None = None
    against: str | None = None
    raters: list[RaterConf] = field(default_factory=list)
    review: ReviewConf = MISSING

    def faults(self) -> list[Fault]:
        """Somebody must rate, each under a name of their own."""
        found = name_faults(self.name)
        if self.prompts and (self.answers or self.against):
            found.append(
                Fault("prompts", "and answers or against: one way only", self.prompts, fix="leave the other null")
            )
        ids = [rater.id.lower() for rater in self.raters]
        if not ids:
            fix = "'raters=[{id:dr_a,role:general practitioner,qualified:true},{id:dr_b,role:...,qualified:true}]'"
            found.append(Fault("raters", "nobody would rate", fix=fix))
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            found.append(Fault("raters", "the same id twice", ", ".join(twice)))
        return found
