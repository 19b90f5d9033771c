"""The way by spreadsheet: what goes out cannot act, what comes back is checked whole."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from medllm.errors import ReviewError
from medllm.review.plan import Review
from medllm.review.ratings import RATINGS, RatingsError, keep, load_ratings
from medllm.review.report import make_report
from medllm.review.sheets import export_sheets, neutralised, read_sheet, sheet
from tests.review.made import filled, made_review, run_folder, satisfied


@pytest.fixture
def review(tmp_path: Path) -> Review:
    """Three pairs."""
    return made_review(run_folder(tmp_path / "run", 3))


def write(review: Review, text: str, encoding: str = "utf-8") -> Path:
    """A sheet that came back."""
    path = review.folder / "back.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_round_trip(review: Review) -> None:
    """What was filled in arrives; the second import of the same sheet changes nothing, a changed one what changed."""
    text = filled(sheet(review, "dr_a"), lambda row: satisfied("A", comment="=1+1 was -> fine"))
    kept = keep(review, read_sheet(review, write(review, text)))
    assert (kept.new, kept.changed, kept.same) == (3, 0, 0)
    before = (review.folder / RATINGS).read_bytes()
    kept = keep(review, read_sheet(review, write(review, text)))
    assert (kept.new, kept.changed, kept.same) == (0, 0, 3)
    assert (review.folder / RATINGS).read_bytes() == before
    rating = load_ratings(review)[0]
    assert (rating.rater, rating.values["preferred"], rating.values["comment"]) == ("dr_a", "A", "=1+1 was -> fine")
    text = filled(text, lambda row: {"preferred": "B"} if row["pair"] == "p002" else {})
    kept = keep(review, read_sheet(review, write(review, text)))
    assert (kept.new, kept.changed, kept.same) == (0, 1, 2)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_dialects_of_spreadsheets(review: Review, delimiter: str, encoding: str) -> None:
    """Separators, byte order mark, CRLF, case and numbers as spreadsheet programs store them."""
    text = filled(sheet(review, "dr_a"), lambda row: satisfied("TIE ", empathy_A="4.0"))
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, lineterminator="\r\n").writerows(csv.reader(io.StringIO(text)))
    ratings = read_sheet(review, write(review, file.getvalue(), encoding))
    assert len(ratings) == 3
    assert (ratings[0].values["preferred"], ratings[0].values["empathy_A"]) == ("tie", "4")


def test_open_rows_are_passed_over_and_half_ones_refused(review: Review) -> None:
    """A rater may stop between rows, not within one."""
    some = filled(sheet(review, "dr_a"), lambda row: satisfied() if row["pair"] == "p002" else {})
    assert [rating.pair for rating in read_sheet(review, write(review, some))] == ["p002"]
    half = filled(some, lambda row: {"urgency_B": ""} if row["pair"] == "p002" else {})
    with pytest.raises(RatingsError, match="row 3, column urgency_B: is empty, but others"):
        read_sheet(review, write(review, half))


def rows(text: str, change: Callable[[list[list[str]]], None]) -> str:
    """A sheet whose cells were changed."""
    table = list(csv.reader(io.StringIO(text)))
    change(table)
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(table)
    return file.getvalue()


def test_every_fault_is_named_and_nothing_is_kept(review: Review) -> None:
    """Row, column, value, what is allowed; all of them at once; no rating of the good rows."""
    text = filled(
        sheet(review, "dr_a"),
        lambda row: satisfied("C") if row["pair"] == "p001" else satisfied(harm_extent_B="huge", rater="dr_x"),
    )
    with pytest.raises(RatingsError) as caught:
        keep(review, read_sheet(review, write(review, text)))
    told = str(caught.value)
    assert told.startswith("back.csv: nothing was kept, because of\n")
    assert "row 2, column preferred=C: is not allowed\n      allowed: A, B, tie, both bad" in told
    assert (
        "row 3, column harm_extent_B=huge: is not allowed\n      allowed: none, mild or moderate, severe or death"
        in told
    )
    assert "row 4, column rater=dr_x: is no rater of the review\n      allowed: dr_a, dr_b" in told
    assert caught.value.exit_code == 2
    assert load_ratings(review) == []


def test_rows_that_were_mixed_up_are_found(review: Review) -> None:
    """Sorting one column without the others would give each answer another's rating."""

    def swap(table: list[list[str]]) -> None:
        table[1][2], table[2][2] = table[2][2], table[1][2]

    text = rows(filled(sheet(review, "dr_a"), lambda row: satisfied()), swap)
    with pytest.raises(RatingsError, match=r"row 2, column prompt=.*is not the text of p002"):
        read_sheet(review, write(review, text))
    moved = rows(filled(sheet(review, "dr_a"), lambda row: satisfied()), lambda table: table.insert(1, table.pop()))
    assert len(read_sheet(review, write(review, moved))) == 3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t[0].__setitem__(6, "consensus"), "row 1=consensus_A: has no such column"),
        (lambda t: t.append(t[1]), "row 5, column pair=p001: is rated twice"),
        (lambda t: t[1].append("x"), "row 2: has 1 cells more than there are columns"),
        (lambda t: t[1].__setitem__(0, "second"), "row 2, column review=second: is another review"),
        (lambda t: t[1].__setitem__(2, "p009"), "row 2, column pair=p009: is no pair of the review"),
        (lambda t: t[1].__setitem__(1, "dr_b"), "column rater=dr_a, dr_b: several raters in one sheet"),
    ],
)
def test_sheets_of_another_shape(review: Review, change: Callable[[list[list[str]]], None], told: str) -> None:
    """Columns, rows and names that do not belong here."""
    text = rows(filled(sheet(review, "dr_a"), lambda row: satisfied()), change)
    with pytest.raises(RatingsError) as caught:
        read_sheet(review, write(review, text))
    assert told in str(caught.value)


def test_files_that_are_no_sheet(review: Review) -> None:
    """Another encoding, nothing, no file."""
    with pytest.raises(RatingsError, match="is not UTF-8"):
        read_sheet(review, write(review, "review;Größe", "cp1252"))
    with pytest.raises(RatingsError, match="is empty"):
        read_sheet(review, write(review, ""))
    with pytest.raises(RatingsError, match="cannot be read"):
        read_sheet(review, review.folder / "none.csv")


def test_formulas_are_neutralised(review: Review) -> None:
    """No cell of a sheet begins as a formula does; a text that begins so gets an apostrophe."""
    for text in ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1"):
        assert neutralised(text) == f"'{text}"
    assert neutralised("plain = text") == "plain = text"
    for row in csv.reader(io.StringIO(sheet(review, "dr_a"))):
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row)


def test_export_never_overwrites_answers(review: Review) -> None:
    """A sheet that somebody has written into stays; the guide explains every question."""
    written = export_sheets(review)
    assert [path.name for path in written.sheets] == ["dr_a.csv", "dr_b.csv"] and not written.kept
    assert written.sheets[0].read_bytes().startswith(b"\xef\xbb\xbf")
    assert export_sheets(review).kept == []
    written.sheets[0].write_text(filled(sheet(review, "dr_a"), lambda row: satisfied()))
    assert export_sheets(review).kept == [written.sheets[0]]
    guide = written.guide.read_text()
    assert all(question.asks in guide for question in review.plan.conf.asked.values())


def test_nothing_is_taken_once_sides_are_told(review: Review) -> None:
    """A rater who has seen the report is not blind any more."""
    text = filled(sheet(review, "dr_a"), lambda row: satisfied())
    ratings = read_sheet(review, write(review, text))
    keep(review, ratings[:1])
    make_report(review, review.folder.parents[1] / "artifact", unblind_now=True)
    with pytest.raises(ReviewError, match="sides have been told"):
        keep(review, ratings)
