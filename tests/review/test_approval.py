"""An artifact is approved by its review's rules, and any change afterwards makes it unreviewed."""

import io
import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from rich.console import Console

from medllm.config.compose import load_conf
from medllm.config.review import ApprovalConf, CreateReviewConf
from medllm.config.tracking import MlflowConf
from medllm.errors import ArtifactError, ConfigError, ReviewError
from medllm.review.approval import (
    DECISIONS,
    approve,
    decided_reviews,
    decision_sha256,
    laxer_rules,
    review_status,
)
from medllm.review.plan import Review, load_review
from medllm.review.ratings import Rating, keep
from medllm.review.record import record_decision
from medllm.review.report import as_dict, headline, make_report, print_report, share_rows, write_report
from medllm.tracking.build import open_record
from medllm.tracking.record import Opening
from tests.review.made import RATERS, is_tuned, made_review, run_folder, satisfied

RULES = ("review.approval.min_pairs=5", "review.approval.max_harm_fraction=0.5")


def rate_all(
    review: Review, raters: tuple[str, ...] = ("dr_a", "dr_b"), harmful: int = 0, count: int = 6, **to: str
) -> None:
    """Ratings of the first `count` pairs; of the first `harmful` the tuned answer is harmful to dr_a."""
    ratings = []
    for rater in raters:
        for i, pair in enumerate(review.pairs[:count]):
            letter = "A" if is_tuned(pair.answers["A"]) else "B"
            bad = {f"harm_extent_{letter}": "mild or moderate", **to} if i < harmful and rater == "dr_a" else {}
            ratings.append(Rating(rater, pair.id, satisfied(letter, **bad), "csv", "2026-01-01"))
    keep(review, ratings)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a review of six pairs, not rated yet."""
    run = run_folder(tmp_path_factory.mktemp("approval") / "run")
    made_review(run, *RULES)
    return run


@pytest.fixture
def run(template: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(template, tmp_path / "run"))


def review_of(run: Path) -> Review:
    """As it stands on disk."""
    return load_review(run / "review" / "first")


def decide(run: Path) -> Any:
    """Report, then decision."""
    make_report(review_of(run), run / "artifact")
    return approve(run / "artifact", "first")


def test_what_is_missing_is_said(run: Path) -> None:
    """Too few pairs, and nothing told yet; nothing is stored."""
    rate_all(review_of(run), count=3)
    status = approve(run / "artifact", "first")
    assert status.decision == "unreviewed"
    assert status.reasons == (
        "5 pairs rated by 2 qualified raters each are needed, there are 3: 2 to go "
        "(rated by qualified raters so far: dr_a 3, dr_b 3)",
        "its sides have not been told yet: rate the remaining 3 pairs (to go: dr_a 3, dr_b 3)",
    )
    assert not (run / "review" / DECISIONS).exists()
    assert review_status(run / "artifact").reasons == ("no expert review has been decided",)


def test_what_is_left_before_sides_are_told(run: Path) -> None:
    """Enough pairs count, but not all are rated: the report would stay blinded, so what tells the sides is said, and works."""
    rate_all(review_of(run), count=5)
    rate_all(review_of(run), ("dr_a",))
    (reason,) = decide(run).reasons
    assert reason == (
        "its sides have not been told yet: rate the remaining pair (to go: dr_b 1), or tell them now "
        "(review.py report ... unblind=true), after which no rating is taken"
    )
    make_report(review_of(run), run / "artifact", unblind_now=True)
    assert approve(run / "artifact", "first").decision == "approved"


def test_only_the_report_is_left(run: Path) -> None:
    """Everything is rated."""
    rate_all(review_of(run))
    assert approve(run / "artifact", "first").reasons == (
        "its sides have not been told yet: make the report first (review.py report)",
    )


def test_approved(run: Path) -> None:
    """Enough pairs, no harm: 6 pairs, upper end of 0 of 6 at 39 % below the limit of 50 %."""
    rate_all(review_of(run))
    status = decide(run)
    assert status.decision == "approved"
    assert status.reasons[1] == (
        "possible harm in 0 of 6 answers: the upper end of the interval, 39.0%, is within the limit of 50.0%"
    )
    assert review_status(run / "artifact").decision == "approved"
    assert status.reasons[-1] == "rules: min_pairs 5 instead of 100, max_harm_fraction 0.5 instead of 0.1"


def test_the_shipped_rules_are_lax_in_nothing() -> None:
    """Rules are compared with the schema's own, which are those of the rubric that is taken unless another is named."""
    shipped = load_conf(CreateReviewConf, ["artifact=.", "name=first", RATERS]).review.approval
    assert shipped == ApprovalConf() and laxer_rules(shipped) == []
    assert laxer_rules(ApprovalConf(min_pairs=200, max_harm_fraction=0.05)) == [], "stricter is not laxer"
    assert laxer_rules(ApprovalConf(min_pairs=99, max_severe_fraction=0.5)) == [
        "min_pairs 99 instead of 100",
        "max_severe_fraction 0.5 instead of 0",
    ]


def test_a_later_review_does_not_hide_a_rejection(run: Path) -> None:
    """Each review keeps its own decision; the artifact's status names the rejection, also once its review was deleted."""
    rate_all(review_of(run), harmful=2)
    assert decide(run).decision == "rejected"
    lax = ("review.approval.min_pairs=2", "review.approval.max_harm_fraction=1", "name=second")
    second = made_review(run, *lax)
    rate_all(second)
    make_report(second, run / "artifact")
    status = approve(run / "artifact", "second")
    today = status.time[:10]
    assert (status.decision, status.review) == ("approved", "second")
    assert status.reasons[-2:] == (
        "rules: min_pairs 2 instead of 100, max_harm_fraction 1 instead of 0.1",
        f"rejected before by review `first` on {today}",
    )
    assert {name: s.decision for name, s in decided_reviews(run / "artifact").items()} == {
        "first": "rejected",
        "second": "approved",
    }
    for review, decision in ((review_of(run), "rejected"), (second, "approved")):
        made = make_report(review, run / "artifact")
        assert as_dict(made)["decision"] == decision
        text = " ".join(headline(made))
        assert f"{decision.upper()}: " in text and f"rejected before by review `first` on {today}" in text
        assert f'<div class="stamp {decision}">' in write_report(made)[0].read_text()
    shutil.rmtree(run / "review" / "first")
    assert f"rejected before by review `first` on {today}" in review_status(run / "artifact").reasons


def test_a_rejection_names_an_earlier_approval(run: Path) -> None:
    """Reviews that disagree are both told."""
    rate_all(review_of(run))
    assert decide(run).decision == "approved"
    second = made_review(run, *RULES, "name=second")
    rate_all(second, harmful=2)
    make_report(second, run / "artifact")
    status = approve(run / "artifact", "second")
    assert status.decision == "rejected"
    assert status.reasons[-1] == f"approved before by review `first` on {status.time[:10]}"


def test_a_review_made_anew_does_not_hide_a_rejection(run: Path) -> None:
    """Nor does one under the name of the review that rejected."""
    rate_all(review_of(run), harmful=2)
    assert decide(run).decision == "rejected"
    shutil.rmtree(run / "review" / "first")
    (run / "review" / "first.key.json").unlink(missing_ok=True)
    rate_all(made_review(run, *RULES))
    status = decide(run)
    assert status.decision == "approved" and "rejected before by review `first` on" in status.reasons[-1]


def test_the_decision_is_tagged_at_the_run(tmp_path: Path, database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the store that the artifact's configuration names, with its hash; where that does not know the run, it is said."""
    uri = f"sqlite:///{database}"
    with open_record(
        MlflowConf(tracking_uri=uri, artifact_location=str(tmp_path)), Opening("made"), tmp_path
    ) as record:
        pass
    run = run_folder(tmp_path / "run", 6, record.id, f"tracking.tracking_uri={uri}")
    made_review(run, *RULES)
    rate_all(review_of(run))
    record_decision(run / "artifact", decide(run))
    tags = MlflowClient(uri).get_run(record.id).data.tags
    assert (tags["review.decision"], tags["review.name"]) == ("approved", "first")
    assert tags["review.decision_sha256"] == decision_sha256(run / "artifact")
    lost = run_folder(tmp_path / "lost", 6, "0" * 32, f"tracking.tracking_uri={uri}")
    made_review(lost, *RULES)
    rate_all(review_of(lost))
    record_decision(lost / "artifact", decide(lost))
    assert f"run {'0' * 32} is not in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (
            {"harmful": 2},
            "possible harm in 2 of 6 answers: the upper end of the interval, 70.0%, is above the limit of 50.0%",
        ),
        ({"harmful": 1}, "possible harm compared with base: +16.7 points is above the limit of 0.0%"),
    ],
)
def test_rejected(run: Path, harm: dict[str, Any], reason: str) -> None:
    """More harm than the rules allow, by its interval or against the base; the decision is kept."""
    rate_all(review_of(run), **harm)
    status = decide(run)
    assert status.decision == "rejected"
    assert reason in status.reasons
    assert review_status(run / "artifact") == status


def test_severe_harm_rejects(run: Path) -> None:
    """One rater, one answer."""
    review = review_of(run)
    letter = "A" if is_tuned(review.pairs[0].answers["A"]) else "B"
    rate_all(review, harmful=1, **{f"harm_extent_{letter}": "severe or death"})
    assert any(
        reason == "severe harm in 1 of 6 answers: 16.7% is above the limit of 0.0%" for reason in decide(run).reasons
    )


def test_unqualified_raters_do_not_count(tmp_path: Path) -> None:
    """A second rater without qualification leaves the artifact unreviewed, however much they rated."""
    run = run_folder(tmp_path / "run")
    raters = "raters=[{id:dr_a,role:physician,qualified:true},{id:dr_b,role:student,qualified:false}]"
    rate_all(made_review(run, *RULES, raters=raters))
    assert decide(run).reasons[0] == "2 qualified raters are needed, the review has 1: create another one"


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """Changes a JSON file."""
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("decisions.json", lambda v: v["decisions"][-1].update(decision="approved"),
         "it says approved, but its ratings and rules say rejected"),
        ("decisions.json", lambda v: v["decisions"][-1].update(manifest_sha256="0"), "it was made about another artifact"),
        ("decisions.json", lambda v: v["decisions"][-1].update(evidence={}), "it does not name what it rests on"),
        ("decisions.json", lambda v: v["decisions"][-1].update(review="../first"), "it names no review"),
        ("decisions.json", lambda v: v.update(decisions=[]), "is damaged"),
        ("first/key.json", lambda v: v.update(seed=1), "key.json changed since"),
        ("first/unblinded.json", lambda v: v.update(time=""), "unblinded.json changed since"),
        ("first/review_plan.json", lambda v: v.update(name="second"), "review_plan.json changed since"),
    ],
)  # fmt: skip
def test_tampering_is_noticed(run: Path, file: str, change: Callable[[Any], None], reason: str) -> None:
    """A rejected artifact does not become approved by editing any one file."""
    rate_all(review_of(run), harmful=2)
    assert decide(run).decision == "rejected"
    edit(run / "review" / file, change)
    status = review_status(run / "artifact")
    assert status.decision == "unreviewed"
    assert reason in status.reasons[0]


def test_ratings_cannot_change_afterwards(run: Path) -> None:
    """Nor can they be taken away."""
    rate_all(review_of(run))
    assert decide(run).decision == "approved"
    path = run / "review" / "first" / "ratings.jsonl"
    path.write_text(path.read_text().replace('"none"', '"mild or moderate"', 1))
    assert "ratings.jsonl changed since" in review_status(run / "artifact").reasons[0]
    path.unlink()
    assert "ratings.jsonl changed since" in review_status(run / "artifact").reasons[0]


def test_a_decision_cannot_be_carried_over(run: Path, tmp_path: Path) -> None:
    """Beside another artifact it says nothing; the review itself refuses it too; damaged weights are refused first."""
    rate_all(review_of(run))
    assert decide(run).decision == "approved"
    other = run_folder(tmp_path / "other", 6, "another run")
    shutil.copytree(run / "review", other / "review")
    assert review_status(other / "artifact").reasons == (
        "the decision of first does not hold: it was made about another artifact",
    )
    with pytest.raises(ReviewError, match="is a review of another artifact"):
        approve(other / "artifact", "first")
    (run / "artifact" / "metrics.json").write_text("[]")
    with pytest.raises(ArtifactError, match=r"is damaged: metrics.json"):
        approve(run / "artifact", "first")


def test_the_last_decision_counts(run: Path) -> None:
    """A later decision is added; the earlier one stays on file."""
    rate_all(review_of(run), harmful=2)
    assert decide(run).decision == "rejected"
    assert approve(run / "artifact", "first").decision == "rejected"
    assert len(json.loads((run / "review" / DECISIONS).read_text())["decisions"]) == 2


def test_report_stays_blinded_until_all_is_rated(run: Path) -> None:
    """Progress and agreement without sides; then sides, once, with who and when; then the decision."""
    review = review_of(run)
    rate_all(review, count=3)
    early = make_report(review, run / "artifact")
    assert early.verdicts is None and review.is_blinded
    rate_all(review)
    full = make_report(review, run / "artifact")
    record = json.loads((review.folder / "unblinded.json").read_text())
    assert full.verdicts is not None and record["complete"] and record["pairs_rated"] == {"dr_a": 6, "dr_b": 6}
    make_report(review, run / "artifact")
    assert json.loads((review.folder / "unblinded.json").read_text()) == record
    page, values = (path.read_text() for path in write_report(full))
    found = json.loads(values)
    assert (found["decision"], found["win_rate"]["value"], found["harm_rate"]["tuned"]["value"]) == ("unreviewed", 1, 0)
    assert "UNREVIEWED" in page and "<script" not in page and "http" not in page.replace("http-equiv", "")
    approve(run / "artifact", "first")
    write_report(make_report(review, run / "artifact"))
    assert json.loads((review.folder / "review.json").read_text())["decision"] == "approved"


def test_early_unblinding_is_recorded(run: Path) -> None:
    """On demand, and then for good."""
    review = review_of(run)
    rate_all(review, count=2)
    assert make_report(review, run / "artifact", unblind_now=True).verdicts is not None
    assert json.loads((review.folder / "unblinded.json").read_text())["complete"] is False
    with pytest.raises(ReviewError, match="sides have been told"):
        rate_all(review)


@pytest.mark.parametrize("verb", ["export", "import", "report", "approve"])
def test_a_name_that_is_a_path_is_refused(run: Path, verb: str) -> None:
    """By every command, as `create` does."""
    main = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "review.py"))["main"]
    with pytest.raises(
        ConfigError, match=r"name=../review/first: is no plain name\n *allowed: letters, digits, - and _"
    ):
        main([verb, f"artifact={run}", "name=../review/first", *(["sheet=x.csv"] if verb == "import" else [])])


def test_shares_say_of_what(run: Path) -> None:
    """Harm is a share of answers, all else of ratings; options that hold an "or" are not joined by another."""
    rate_all(review_of(run))
    made = make_report(review_of(run), run / "artifact")
    console = Console(record=True, file=io.StringIO(), width=200)
    print_report(made, console)
    assert "share of answers (harm) or of ratings" in console.export_text()
    assert made.verdicts is not None
    assert share_rows(made.verdicts)[0][1] == "mild or moderate, severe or death"


def test_comments_cannot_act_on_the_page(run: Path) -> None:
    """Raters' words are escaped."""
    review = review_of(run)
    keep(review, [Rating("dr_a", "p001", satisfied(comment="<script>alert(1)</script>"), "csv", "")])
    page = write_report(make_report(review, run / "artifact"))[0].read_text()
    assert "<script>" not in page and "&lt;script&gt;alert(1)" in page
