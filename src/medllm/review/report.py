"""The report of a review: in a terminal, on a page, and as `review.json`. The only place that opens the key.

As long as raters are at work it stays blinded: progress and agreement need no key. Sides are told once every rater has rated
every pair, or on demand; from then on no rating is taken.
"""

import getpass
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from medllm.artifact import write_json
from medllm.config.review import PREFERRED
from medllm.intervals import Interval
from medllm.pages import page_environment
from medllm.review.agreement import Agreement
from medllm.review.approval import ReviewStatus, decided_reviews, judge, review_status
from medllm.review.create import now
from medllm.review.figures import (
    Progress,
    Share,
    Sides,
    Verdicts,
    agreements,
    pairs_for_win_rate,
    progress,
    verdicts,
)
from medllm.review.plan import Review, unblind
from medllm.review.ratings import Rating, load_ratings
from medllm.run_folder import write_whole

FORMAT = 1
REPORT, PAGE = "review.json", "review.html"
RATES = (0.6, 0.65, 0.7)


@dataclass(frozen=True)
class Comment:
    """What a rater wrote of a pair."""

    pair: str
    rater: str
    text: str


@dataclass(frozen=True)
class Report:
    """All there is to say of a review.

    Attributes:
        review: Its folder.
        time: When the report was made, UTC.
        num_ratings: A rating is one rater on one pair.
        progress: How much has been rated.
        agreements: By question.
        verdicts: None while it is blinded.
        judged: What the rules of approval say.
        decided: What the review's own newest decision says; None where it has not been decided.
        status: What holds of the artifact, by this or another review.
        comments: Free text.
    """

    review: Review
    time: str
    num_ratings: int
    progress: Progress
    agreements: dict[str, Agreement]
    verdicts: Verdicts | None
    judged: ReviewStatus
    decided: ReviewStatus | None
    status: ReviewStatus
    comments: list[Comment]


def make_report(review: Review, artifact_folder: Path, *, unblind_now: bool = False) -> Report:
    """Computes the report; tells the sides if all is rated, they have been told before, or it is asked for.

    Raises:
        ReviewError: if a file of the review was changed or is damaged.
    """
    ratings = load_ratings(review)
    done = progress(review, ratings)
    complete = all(count == len(review.pairs) for count in done.by_rater.values())
    found = None
    if ratings and (complete or unblind_now or not review.is_blinded):
        record = {"time": now(), "by": getpass.getuser(), "complete": complete, "pairs_rated": done.by_rater}
        found = verdicts(review.plan, ratings, unblind(review, record))
    return Report(
        review=review,
        time=now(),
        num_ratings=len(ratings),
        progress=done,
        agreements=agreements(review.plan, ratings),
        verdicts=found,
        judged=judge(review),
        decided=decided_reviews(artifact_folder).get(review.plan.name),
        status=review_status(artifact_folder),
        comments=_comments(review, ratings),
    )


def write_report(report: Report) -> list[Path]:
    """Writes `review.json` and `review.html` into the review's folder."""
    folder = report.review.folder
    write_json(folder / REPORT, as_dict(report))
    template = page_environment().get_template("review/page.html")
    page = template.render(
        report=report,
        plan=report.review.plan,
        headline=headline(report),
        shares=share_rows(report.verdicts) if report.verdicts else [],
        raters=rater_rows(report),
        agreement=agreement_rows(report.agreements),
        needed=needed(report),
        preferred=PREFERRED,
    )
    return [write_whole(folder / PAGE, page), folder / REPORT]


def as_dict(report: Report) -> dict[str, Any]:
    """As `review.json` holds it."""
    plan, found = report.review.plan, report.verdicts
    raters = [{**vars(rater), "num_rated": report.progress.by_rater[rater.id]} for rater in plan.raters]
    values: dict[str, Any] = {
        "format": FORMAT,
        "name": plan.name,
        "created": plan.created,
        "time": report.time,
        "artifact": {"manifest_sha256": plan.manifest_sha256},
        "raters": raters,
        "num_pairs": plan.num_pairs,
        "num_ratings": report.num_ratings,
        "num_unreviewed": report.progress.num_unreviewed,
        "num_counting": report.progress.num_counting,
        "blinded": found is None,
        "agreement": {name: _agreement(value) for name, value in report.agreements.items()},
        "needed": needed(report),
        "decision": report.decided.decision if report.decided else "unreviewed",
        "reasons": list((report.decided or report.judged).reasons),
        "win_rate": None,
        "harm_rate": None,
        "severe_harm_rate": None,
        "best": {},
    }
    if found is not None:
        values["win_rate"] = {
            **_share(found.wins),
            "ties": "count half to each side",
            "preferences": found.preferences,
            "without_ties": _share(found.decided),
        }
        values["harm_rate"], values["severe_harm_rate"] = _sides(found.harm), _sides(found.severe)
        values["best"] = {name: _sides(sides) for name, sides in found.best.items()}
    return values


def headline(report: Report) -> list[str]:
    """The outcome in plain words."""
    plan, found = report.review.plan, report.verdicts
    rated = plan.num_pairs - report.progress.num_unreviewed
    lines = [f"{rated} of {plan.num_pairs} pairs rated by {sum(n > 0 for n in report.progress.by_rater.values())} of "
             f"{len(plan.raters)} raters."]  # fmt: skip
    if found is None:
        lines.append("Still blinded: sides are told when every rater has rated every pair.")
    else:
        tuned, rival = found.sides
        wins, alone = found.wins, found.decided
        ties = sum(found.preferences.values()) - found.preferences[tuned] - found.preferences[rival]
        lines.append(
            f"The {tuned} answer wins {percent(wins)} against {rival}, ties counted half "
            f"({found.preferences[tuned]:g} for {tuned}, {found.preferences[rival]:g} for {rival}, {ties:g} ties); "
            f"without ties {percent(alone)}."
        )
        if wins.interval and 0.5 in wins.interval:
            lines.append("That cannot be told from one half.")
        harm = found.harm.shares
        lines.append(f"Possible harm: {tuned} {percent(harm[tuned])}, {rival} {percent(harm[rival])} of answers.")
    status = report.status
    own = status if status.review == plan.name else report.decided  # that of the artifact names earlier rejections too
    if own:
        lines.append(f"{own.decision.upper()}: {'; '.join(own.reasons)}.")
    elif report.judged.decision == "unreviewed":
        lines.append(f"UNREVIEWED: {'; '.join(report.judged.reasons)}.")
    else:
        lines.append(f"UNREVIEWED until it is decided (review.py approve); by its rules it would be {report.judged.decision}: "
                     f"{'; '.join(report.judged.reasons)}.")  # fmt: skip
    if status.review not in ("", plan.name):
        lines.append(f"By the newest decision, of review {status.review}, the artifact is {status.decision}: "
                     f"{'; '.join(status.reasons)}.")  # fmt: skip
    return lines


def share_rows(found: Verdicts) -> list[tuple[str, str, str, str, str]]:
    """Question, what is counted, the two sides, their difference."""
    rows = []
    for name, sides in (("possible harm", found.harm), ("severe harm", found.severe), *found.best.items()):
        shares = [percent(sides.shares[side]) for side in found.sides]
        difference = sides.difference
        text = f"{100 * difference.value:+.0f}{_interval(difference.interval)}" if difference else "-"
        rows.append((name, ", ".join(sides.options), *shares, text))
    return rows  # type: ignore[return-value]


def agreement_rows(found: dict[str, Agreement]) -> list[tuple[str, str, str, str, str, str]]:
    """Question, scale, units rated twice, equal, kappa, alpha with its interval."""
    rows = []
    for name, value in found.items():
        interval = f" ({value.interval.low:.2f} to {value.interval.high:.2f})" if value.interval else ""
        alpha = "-" if value.alpha is None else f"{value.alpha:.2f}{interval}"
        kappa = "-" if value.kappa is None else f"{value.kappa:.2f}"
        equal = "-" if value.share is None else f"{value.share:.0%}"
        rows.append((name, value.scale.value, str(value.num_units), equal, kappa, alpha))
    return rows


def rater_rows(report: Report) -> list[tuple[str, str, str, str]]:
    """Id, role, whether qualified, how much is rated."""
    done, of = report.progress.by_rater, report.review.plan.num_pairs
    return [(r.id, r.role, "yes" if r.qualified else "no", f"{done[r.id]} of {of}") for r in report.review.plan.raters]


def needed(report: Report) -> dict[str, int]:
    """How many pairs are still open, and how many tell a win rate from one half."""
    plan = report.review.plan
    return {
        "pairs_to_approve": max(0, plan.conf.approval.min_pairs - report.progress.num_counting),
        **{f"pairs_to_tell_{rate:.0%}_wins_from_half": pairs_for_win_rate(rate) for rate in RATES},
    }


def print_report(report: Report, console: Console) -> None:
    """In a terminal."""
    _table(console, "raters", ("rater", "role", "qualified", "rated"), rater_rows(report))
    if report.verdicts:
        head = ("", "counted", *report.verdicts.sides, "difference in points")
        _table(
            console, "share of answers (harm) or of ratings, 95 % intervals by pairs", head, share_rows(report.verdicts)
        )
    if report.num_ratings:
        of = ("question", "scale", "rated twice", "equal", "kappa", "alpha")
        _table(console, "agreement", of, agreement_rows(report.agreements))
    for name, count in needed(report).items():
        console.print(Text(f"needed    {count:,} {name.replace('_', ' ')}"))
    for line in headline(report):
        console.print(Text(line))


def percent(share: Share) -> str:
    """A share in a cell, its interval behind it: `78 % (70 to 84)`."""
    if share.value is None:
        return "-"
    return f"{100 * share.value:.0f} %{_interval(share.interval)}"


def _interval(interval: Interval | None) -> str:
    return f" ({100 * interval.low:.0f} to {100 * interval.high:.0f})" if interval else ""


def _comments(review: Review, ratings: Sequence[Rating]) -> list[Comment]:
    names = [c.name for c in review.plan.columns if not c.conf.options]
    return [Comment(r.pair, r.rater, r.values[name]) for r in ratings for name in names if name in r.values]


def _share(share: Share) -> dict[str, Any]:
    low, high = (share.interval.low, share.interval.high) if share.interval else (None, None)
    return {"value": share.value, "low": low, "high": high, "n": share.num_pairs, "count": share.count, "of": share.of}


def _sides(sides: Sides) -> dict[str, Any]:
    values: dict[str, Any] = {side: _share(share) for side, share in sides.shares.items()}
    if sides.difference:
        interval = sides.difference.interval
        low, high = (interval.low, interval.high) if interval else (None, None)
        values["difference"] = {"value": sides.difference.value, "low": low, "high": high}
    return {"title": sides.title, "options": sides.options, **values}


def _agreement(value: Agreement) -> dict[str, Any]:
    low, high = (value.interval.low, value.interval.high) if value.interval else (None, None)
    numbers = {"alpha": value.alpha, "low": low, "high": high, "kappa": value.kappa, "equal": value.share}
    return {"scale": value.scale.value, "num_units": value.num_units, **numbers}


def _table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    drawn = Table(title=Text(title), title_justify="left")
    for i, column in enumerate(columns):
        drawn.add_column(column, justify="left" if i < 2 else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    console.print(drawn)
