"""What is public of a review, and the key that tells which answer is whose.

The plan names the key's SHA-256, and the key holds a random word, so that nobody can find the sides by trying seeds. The key in
turn names the SHA-256 of what the plan promised: rubric, raters and rules of approval cannot be changed once answers are in.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medllm.artifact import sha256
from medllm.config.compose import resolved
from medllm.config.review import LETTERS, About, QuestionConf, RaterConf, ReviewConf
from medllm.errors import ReviewError
from medllm.run_folder import write_whole

FORMAT = 1
PLAN, PAIRS, KEY, UNBLINDED = "review_plan.json", "pairs.jsonl", "key.json", "unblinded.json"


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt.

    Attributes:
        id: Its place in the order of the review: `p001`.
        prompt: What was asked.
        answers: By letter.
    """

    id: str
    prompt: str
    answers: dict[str, str]


@dataclass(frozen=True)
class Column:
    """One value that a rater gives: a question, of answer A, of answer B or of the pair.

    Attributes:
        name: In sheets, queues and ratings, as `harm_extent_A`.
        question: Name of the question.
        letter: A or B; empty where the pair is asked about.
        conf: The question.
    """

    name: str
    question: str
    letter: str
    conf: QuestionConf


@dataclass(frozen=True)
class Plan:
    """What is public of a review.

    Attributes:
        name: Of the review.
        created: When, in UTC.
        manifest_sha256: Of the artifact under review.
        conf: Rubric and rules; without the seed.
        raters: Who rates.
        num_pairs: How many pairs.
        pairs_sha256: Of `pairs.jsonl`.
        key_sha256: Of the key's file.
        against_sha256: Of the other artifact's manifest; empty where the base is compared with, or nothing says whose answers
            these are.
    """

    name: str
    created: str
    manifest_sha256: str
    conf: ReviewConf
    raters: tuple[RaterConf, ...]
    num_pairs: int
    pairs_sha256: str
    key_sha256: str = ""
    against_sha256: str = ""

    @property
    def columns(self) -> list[Column]:
        """Everything a rater is asked, answer A before answer B before the pair."""
        found = [
            Column(f"{name}_{letter}", name, letter, question)
            for letter in LETTERS
            for name, question in self.conf.asked.items()
            if question.about is About.answer
        ]
        return [*found, *(Column(n, n, "", q) for n, q in self.conf.asked.items() if q.about is About.pair)]

    @property
    def qualified(self) -> list[str]:
        """Ids of the raters whose ratings count towards approval."""
        return [rater.id for rater in self.raters if rater.qualified]

    def as_dict(self) -> dict[str, Any]:
        """As `review_plan.json` holds it."""
        values = {name: getattr(self, name) for name in ("name", "created", "manifest_sha256", "num_pairs")}
        values |= {"pairs_sha256": self.pairs_sha256, "key_sha256": self.key_sha256}
        values |= {"against_sha256": self.against_sha256}
        raters = [asdict(rater) for rater in self.raters]
        return {"format": FORMAT, **values, "raters": raters, "review": resolved(self.conf)}


@dataclass(frozen=True)
class Key:
    """Which answer is whose.

    Attributes:
        sides: By pair and letter: the name of a side, as `base` or `tuned`.
        sources: By pair: the id of its item in the evaluation.
        seed: That drew pairs, order and sides.
        promise_sha256: Of the plan, but for the key's hash.
        word: Random.
    """

    sides: dict[str, dict[str, str]]
    sources: dict[str, str]
    seed: int
    promise_sha256: str
    word: str


@dataclass(frozen=True)
class Review:
    """A review's folder.

    Attributes:
        folder: Where it is.
        plan: What was promised.
        pairs: In the order of the review.
        promise_sha256: Of the plan as it stands on disk, but for the key's hash.
    """

    folder: Path
    plan: Plan
    pairs: tuple[Pair, ...]
    promise_sha256: str

    @property
    def key_path(self) -> Path:
        """Where the key is kept until it is opened: beside the folder, so that the folder can be handed to raters."""
        return key_path(self.folder)

    @property
    def is_blinded(self) -> bool:
        """Whether nobody has looked yet."""
        return not (self.folder / UNBLINDED).is_file()

    def open_key(self) -> Key:
        """Reads the key, and checks it and the plan against each other.

        Raises:
            ReviewError: if it is missing, or one of the two was changed.
        """
        path = self.folder / KEY
        path = path if path.is_file() else self.key_path
        if not path.is_file():
            raise ReviewError(f"{path} is missing: without the key nobody can tell whose answers these are")
        if sha256(path) != self.plan.key_sha256:
            raise ReviewError(
                f"{path} is not the key that {PLAN} names: it was changed, or it belongs to another review"
            )
        key = Key(**_read(path))
        if key.promise_sha256 != self.promise_sha256:
            raise ReviewError(f"{self.folder / PLAN} was changed after the review was created")
        return key


def key_path(folder: Path) -> Path:
    """Where the key of a review's folder is kept until it is opened."""
    return folder.with_name(f"{folder.name}.key.json")


def write_review(folder: Path, plan: Plan, pairs: list[Pair], key: Key) -> None:
    """Writes plan, pairs and, beside the folder, the key.

    Args:
        folder: New.
        plan: Its hashes of pairs and key are filled in here.
        pairs: In their order.
        key: Its hash of the plan is filled in here.
    """
    folder.mkdir(parents=True)
    lines = [{"pair": pair.id, "prompt": pair.prompt, **pair.answers} for pair in pairs]
    write_whole(folder / PAIRS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    values = replace(plan, pairs_sha256=sha256(folder / PAIRS)).as_dict()
    path = key_path(folder)
    write_whole(path, json.dumps({**asdict(key), "promise_sha256": _promise(values)}, indent=2))
    path.chmod(0o600)
    values["key_sha256"] = sha256(path)
    write_whole(folder / PLAN, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def load_review(folder: Path) -> Review:
    """Opens a review's folder.

    Raises:
        ReviewError: if it is none, or its pairs were changed.
    """
    path = folder / PLAN
    if not path.is_file():
        found = sorted(p.parent.name for p in folder.parent.glob(f"*/{PLAN}"))
        raise ReviewError(f"{folder} is no review\n    allowed: {', '.join(found) or 'none has been created yet'}")
    values = _read(path)
    if values.get("format") != FORMAT:
        raise ReviewError(f"{path}: format {values.get('format')} is not {FORMAT}; it was written by another version")
    try:
        conf = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ReviewConf), values["review"]))
        raters = tuple(RaterConf(**rater) for rater in values["raters"])
        rest = {k: v for k, v in values.items() if k not in ("format", "review", "raters")}
        plan = Plan(**rest, conf=conf, raters=raters)  # type: ignore[arg-type]
    except (KeyError, TypeError, OmegaConfBaseException):
        raise ReviewError(f"{path} is damaged") from None
    if not (folder / PAIRS).is_file() or sha256(folder / PAIRS) != plan.pairs_sha256:
        raise ReviewError(f"{folder / PAIRS} is not what {PLAN} names: it was changed after the review was created")
    lines = map(json.loads, (folder / PAIRS).read_text(encoding="utf-8").rstrip("\n").split("\n"))
    pairs = tuple(Pair(line["pair"], line["prompt"], {letter: line[letter] for letter in LETTERS}) for line in lines)
    return Review(folder, plan, pairs, _promise(values))


def unblind(review: Review, record: dict[str, Any]) -> Key:
    """Opens the key; the first time, says so in the folder and leaves a copy of the key there.

    Args:
        review: The review.
        record: When, by whom, and how much had been rated.

    Raises:
        ReviewError: if key or plan were changed.
    """
    key = review.open_key()
    if review.is_blinded:
        source = review.key_path
        if source.is_file():
            write_whole(review.folder / KEY, source.read_text(encoding="utf-8"))
        write_whole(review.folder / UNBLINDED, json.dumps(record, indent=2) + os.linesep)
    return key


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise ReviewError(f"{path} is damaged") from None


def _promise(plan: dict[str, Any]) -> str:
    """SHA-256 of what a plan says besides the key's own."""
    text = json.dumps({**plan, "key_sha256": ""}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
