"""What raters said. Every value is checked before any is kept, whichever way it came."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from medllm.config.review import Scale
from medllm.errors import ConfigError, Fault, ReviewError
from medllm.review.plan import Column, Plan, Review
from medllm.run_folder import write_whole
from medllm.spreadsheet import shown

RATINGS = "ratings.jsonl"
MAX_TEXT_CHARACTERS = 10_000


@dataclass(frozen=True)
class Rating:
    """All that one rater said of one pair.

    Attributes:
        rater: Who.
        pair: Of what.
        values: By column.
        source: `csv` or `mlflow`.
        time: When it was read in, UTC.
    """

    rater: str
    pair: str
    values: dict[str, str]
    source: str
    time: str


@dataclass(frozen=True)
class Kept:
    """What became of ratings that were read in: how many are new, differ from before, or say the same again."""

    new: int
    changed: int
    same: int


def load_ratings(review: Review) -> list[Rating]:
    """All ratings, by pair and rater.

    Raises:
        ReviewError: if the file is damaged.
    """
    path = review.folder / RATINGS
    if not path.is_file():
        return []
    try:
        ratings = [Rating(**json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (ValueError, TypeError):
        raise ReviewError(f"{path} is damaged") from None
    faults = [f for r in ratings for f in value_faults(review.plan, r.values, f"{r.pair}, {r.rater}")]
    unknown = {r.rater for r in ratings} - {r.id for r in review.plan.raters}
    if faults or unknown or {r.pair for r in ratings} - {pair.id for pair in review.pairs}:
        raise ReviewError(
            f"{path} is damaged: {faults[0] if faults else 'a rater or pair that the review does not have'}"
        )
    return ratings


def keep(review: Review, ratings: Sequence[Rating]) -> Kept:
    """Adds ratings whose values have been checked; what says the same again changes nothing.

    Raises:
        ReviewError: if sides have been told already: such ratings would not be blind.
    """
    refuse_unblinded(review)
    known = {(r.pair, r.rater): r for r in load_ratings(review)}
    new = changed = same = 0
    for rating in ratings:
        before = known.get((rating.pair, rating.rater))
        if before is not None and before.values == rating.values:
            same += 1
            continue
        new, changed = (new + 1, changed) if before is None else (new, changed + 1)
        known[rating.pair, rating.rater] = rating
    if new or changed:
        lines = [json.dumps(asdict(known[at]), ensure_ascii=False) + "\n" for at in sorted(known)]
        write_whole(review.folder / RATINGS, "".join(lines))
    return Kept(new, changed, same)


def refuse_unblinded(review: Review) -> None:
    """Nobody rates blind after the sides were told.

    Raises:
        ReviewError: if they were.
    """
    if not review.is_blinded:
        raise ReviewError(
            f"{review.plan.name}: its sides have been told, so that ratings given now are not blind\n"
            "    fix: create a new review"
        )


def value_faults(plan: Plan, values: dict[str, str], where: str) -> list[Fault]:
    """What is wrong with a rating: values that are not allowed, and questions left open.

    Args:
        plan: The questions.
        values: By column; an open question is missing or empty.
        where: The place to name, such as `row 3`.
    """
    found = [Fault(f"{where}, column {name}", "no such question") for name in values if name not in _names(plan)]
    for column in plan.columns:
        value = values.get(column.name, "")
        at, allowed = f"{where}, column {column.name}", ", ".join(column.conf.options)
        if not value:
            if column.conf.required:
                found.append(Fault(at, "is empty, but others of this pair are answered", allowed=allowed or "text"))
        elif column.conf.scale is Scale.text:
            if len(value) > MAX_TEXT_CHARACTERS:
                found.append(Fault(at, f"has {len(value):,} characters", allowed=f"at most {MAX_TEXT_CHARACTERS:,}"))
        elif value not in column.conf.options:
            found.append(Fault(at, "is not allowed", shown(value), allowed=allowed))
    return found


def normalised(column: Column, value: str) -> str:
    """A value as its options spell it: case and blanks around it do not matter, nor does `4.0` for `4`."""
    text = value.strip()
    if column.conf.scale is Scale.text:
        return text
    spelled = {option.casefold(): option for option in column.conf.options}
    return spelled.get(text.casefold()) or spelled.get(text.removesuffix(".0")) or text


def refuse(faults: Iterable[Fault], what: str) -> None:
    """Nothing is kept of what holds a fault.

    Raises:
        ConfigError: with all of them, the first 20 in full.
    """
    faults = list(faults)
    if faults:
        more = [Fault("", f"and {len(faults) - 20} more")] if len(faults) > 20 else []
        raise RatingsError(what, [*faults[:20], *more])


class RatingsError(ConfigError):
    """Ratings that cannot be kept; none of them were."""

    def __init__(self, what: str, faults: Sequence[Fault]):
        super().__init__(faults)
        self.what = what
        self.args = (what, faults)

    def __str__(self) -> str:
        lines = [f"  {fault}".replace("\n", "\n  ") for fault in self.faults]
        return "\n".join([f"{self.what}: nothing was kept, because of", *lines])


def _names(plan: Plan) -> set[str]:
    return {column.name for column in plan.columns}
