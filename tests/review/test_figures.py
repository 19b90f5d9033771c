"""Win rate, harm rate and shares, worked by hand."""

import math

import pytest

from medllm.intervals import paired_proportions, wilson
from medllm.review.figures import agreements, pairs_for_win_rate, progress, verdicts
from medllm.review.plan import Review
from medllm.review.ratings import Rating
from medllm.review.report import share_rows
from tests.review.made import is_tuned, made_review, run_folder, satisfied


@pytest.fixture(scope="module")
def review(tmp_path_factory: pytest.TempPathFactory) -> Review:
    """Ten pairs."""
    return made_review(run_folder(tmp_path_factory.mktemp("figures") / "run", 10))


def rate(review: Review, rater: str, pair: int, prefers: str, **tuned: str) -> Rating:
    """A rating whose values are told by side; `prefers` tuned, base or a kind of tie."""
    found = review.pairs[pair]
    letter = {"tuned": "A", "base": "B"} if is_tuned(found.answers["A"]) else {"tuned": "B", "base": "A"}
    values = {f"{name.removesuffix('_base')}_{letter['base' if name.endswith('_base') else 'tuned']}": value
              for name, value in tuned.items()}  # fmt: skip
    return Rating(rater, found.id, satisfied(letter.get(prefers, prefers), **values), "csv", "")


def test_wins_and_ties(review: Review) -> None:
    """Two raters, 4 pairs: 4 for tuned, 1 for base, 2 ties, 1 both bad: (4 + 3 / 2) / 8, and 4 / 5 without ties."""
    said = ["tuned", "tuned", "tie", "base", "tuned", "tuned", "tie", "both bad"]
    ratings = [rate(review, rater, i % 4, what) for i, (rater, what) in enumerate(zip("aaaabbbb", said, strict=True))]
    found = verdicts(review.plan, ratings, review.open_key())
    assert found.preferences == {"tuned": 4, "base": 1, "tie": 2, "both bad": 1}
    assert (found.wins.count, found.wins.of, found.wins.num_pairs) == (5.5, 8, 4)
    assert found.wins.interval == wilson(5.5 / 8 * 4, 4)  # as wide as four pairs allow, not eight ratings
    assert (found.decided.value, found.decided.num_pairs) == (0.8, 3)


def test_harm_is_seen_if_anybody_sees_it(review: Review) -> None:
    """Of 5 tuned answers one rater sees harm in 2, another in 1 of the same: 2 of 5; severe in 1; base in 0."""
    mild, severe = {"harm_extent": "mild or moderate"}, {"harm_extent": "severe or death"}
    ratings = [rate(review, "dr_a", i, "tie", **({0: mild, 1: mild}.get(i, {}))) for i in range(5)]
    ratings += [rate(review, "dr_b", i, "tie", **({1: severe}.get(i, {}))) for i in range(5)]
    found = verdicts(review.plan, ratings, review.open_key())
    harm, severe_harm = found.harm.shares, found.severe.shares
    assert (harm["tuned"].count, harm["tuned"].of, harm["tuned"].num_pairs) == (2, 5, 5)
    assert harm["tuned"].interval == wilson(2, 5)
    assert (harm["base"].count, severe_harm["tuned"].count, severe_harm["base"].count) == (0, 1, 0)
    assert found.harm.difference is not None and found.harm.difference.value == pytest.approx(0.4)
    # harm in the best options: 7 of 10 ratings of tuned answers say `none`
    assert found.best["harm_extent"].shares["tuned"].value == pytest.approx(0.7)


def test_best_share_is_by_side(review: Review) -> None:
    """What is said of an answer goes to whoever gave it, whichever letter it had."""
    ratings = [rate(review, "dr_a", i, "tie", empathy="2", empathy_base="5") for i in range(10)]
    best = verdicts(review.plan, ratings, review.open_key()).best["empathy"]
    assert (best.shares["tuned"].value, best.shares["base"].value) == (0, 1)
    assert best.difference is not None and best.difference.value == -1
    assert best.difference.interval is None  # ten pairs that all differ by -1 do not make it certain


def test_few_pairs_are_not_certain(review: Review) -> None:
    """No harm in 3 pairs, by hand (1 + 1) / 5 on both sides: +-1.96 * sqrt(0.4 / 5); none for shares that are equal."""
    found = verdicts(review.plan, [rate(review, "dr_a", i, "tie") for i in range(3)], review.open_key())
    for sides in (found.harm, found.severe):
        assert sides.difference is not None and sides.difference.interval == paired_proportions(0, 0, 3)
        assert sides.difference.interval.high == pytest.approx(1.959964 * math.sqrt(0.4 / 5))
    rows = {name: difference for name, *_, difference in share_rows(found)}
    assert (rows["possible harm"], rows["severe harm"], rows["empathy"]) == ("+0 (-55 to 55)", "+0 (-55 to 55)", "+0")


def test_more_harm_is_above_zero(review: Review) -> None:
    """Harm in 4 tuned answers, in 1 of the base's and in both of 1 pair, of 10: gained 4, lost 1."""
    bad = "mild or moderate"
    seen = {**{i: {"harm_extent": bad} for i in range(4)}, 4: {"harm_extent_base": bad}}
    seen[5] = {"harm_extent": bad, "harm_extent_base": bad}
    ratings = [rate(review, "dr_a", i, "tie", **seen.get(i, {})) for i in range(10)]
    difference = verdicts(review.plan, ratings, review.open_key()).harm.difference
    assert difference is not None and difference.value == pytest.approx(0.3)
    assert difference.interval == paired_proportions(4, 1, 10)


def test_agreement_needs_no_key(review: Review) -> None:
    """Each answer is a unit of its own: 20 of 10 pairs, 10 for what is asked of the pair."""
    ratings = [
        rate(review, r, i, "tuned" if i % 2 else "base", empathy=str(1 + i % 5))
        for r in ("dr_a", "dr_b")
        for i in range(10)
    ]
    found = agreements(review.plan, ratings)
    assert (found["empathy"].num_units, found["preferred"].num_units) == (20, 10)
    assert found["empathy"].alpha == 1 and found["preferred"].kappa == 1
    assert found["urgency"].alpha is None and found["urgency"].share == 1
    assert "comment" not in found


def test_progress(review: Review) -> None:
    """Unreviewed pairs, and those that two qualified raters have rated."""
    ratings = [rate(review, "dr_a", i, "tie") for i in range(6)] + [rate(review, "dr_b", i, "tie") for i in range(2)]
    found = progress(review, ratings)
    assert (found.by_rater, found.num_unreviewed, found.num_counting) == ({"dr_a": 6, "dr_b": 2}, 4, 2)


def test_pairs_needed() -> None:
    """Fleiss, one proportion: 60 % against 50 %, 80 % power, two-sided 5 %: (1.96 * .5 + .8416 * .4899)^2 / .01 = 193.8."""
    assert pairs_for_win_rate(0.6) == 194
