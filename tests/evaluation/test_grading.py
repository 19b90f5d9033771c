"""The round trip of a grading sheet: blinded on the way out, checked on the way in."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from medllm.errors import ConfigError, DataError
from medllm.evaluation.grading import (
    COLUMNS,
    add_grades,
    alone_in,
    export_sheet,
    import_sheet,
    key_of,
    load_answers,
    load_grades,
    summary,
    ungraded,
)

RUBRICS = [
    {"criterion": "Asks since when.", "points": 4, "tags": ["axis:context_awareness"]},
    {"criterion": "Promises a cure.", "points": -2, "tags": ["axis:accuracy"]},
]


def line(name: str, side: str, answer: str) -> dict[str, Any]:
    """An ungraded answer as it stands in `items.jsonl`."""
    details = {"messages": [{"role": "user", "content": f"I {name}"}], "answer": answer, "finished": True}
    details |= {"rubrics": RUBRICS, "tags": ["theme:context_seeking"]}
    return {"suite": "rubric", "side": side, "id": name, "values": {"rubric/graded": [0, 1]}, "details": details}


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """Ten conversations, two sides, a line of another suite, and one that was cut off."""
    lines = [line(f"cough{i}", side, f"{i} {side[::-1]}") for side in ("base", "tuned") for i in range(10)]
    lines.append({"suite": "safety", "side": "base", "id": "cough0", "values": {"x": [1, 1]}, "details": {}})
    text = "".join(json.dumps(value) + "\n" for value in lines)
    (tmp_path / "items.jsonl").write_text(text + '{"suite": "rub')
    return tmp_path


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a sheet."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def fill(path: Path, rows: list[dict[str, str]], delimiter: str = ",") -> Path:
    """Writes a sheet as a spreadsheet would."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def values(evaluation: Path) -> dict[tuple[str, str], dict[str, list[float]]]:
    """What stands in `items.jsonl`, by conversation and side."""
    lines = [json.loads(text) for text in (evaluation / "items.jsonl").read_text().splitlines()]
    return {(entry["id"], entry["side"]): entry["values"] for entry in lines if entry["suite"] == "rubric"}


def test_the_sheet_does_not_say_who_answered(evaluation: Path) -> None:
    """One row for each criterion; sides are mixed, in no field, and only the key tells them."""
    sheet, key = export_sheet(evaluation)
    rows = read(sheet)
    assert len(rows) == 2 * 20
    assert tuple(rows[0]) == COLUMNS
    assert "base" not in sheet.read_text() and "tuned" not in sheet.read_text()
    assert all(row["met"] == "" for row in rows)
    owners = json.loads(key.read_text())["answers"]
    order = [owners[row["answer"]]["side"] for row in rows[::2]]
    assert sorted(order) == ["base"] * 10 + ["tuned"] * 10
    assert order[:10] not in (["base"] * 10, ["tuned"] * 10)
    answers = {(answer.id, answer.side): answer.answer for answer in load_answers(evaluation)}
    assert all(answers[owners[r["answer"]]["id"], owners[r["answer"]]["side"]] == r["response"] for r in rows)


def test_a_sheet_in_use_is_not_overwritten(evaluation: Path) -> None:
    """The second one needs another name; the same seed gives the same order, whatever was answered first."""
    sheet, _ = export_sheet(evaluation, seed=5)
    with pytest.raises(DataError, match="exists already"):
        export_sheet(evaluation)
    items = evaluation / "items.jsonl"
    items.write_text("\n".join(items.read_text().split("\n")[:-1][::-1]))
    again, key = export_sheet(evaluation, evaluation / "other" / "again.csv", seed=5)
    assert again.read_bytes() == sheet.read_bytes()
    assert key.parent == evaluation / "grading"


def test_who_knows_the_code_does_not_know_the_sides(evaluation: Path) -> None:
    """Each sheet has a secret seed, kept with the key, which lies in another folder and is its owner's alone to read."""
    written = [export_sheet(evaluation, evaluation / "sheets" / f"{name}.csv") for name in ("one", "two")]
    owners = [list(json.loads(key.read_text())["answers"].values()) for _, key in written]
    seeds = {json.loads(key.read_text())["seed"] for _, key in written}
    assert len(seeds) == 2 and owners[0] != owners[1]
    for sheet, key in written:
        assert key.stat().st_mode & 0o777 == 0o600
        assert key.parent != sheet.parent
    assert export_sheet(evaluation)[0] == evaluation / "sheets" / "sheet.csv"
    assert {path.suffix for path in (evaluation / "sheets").iterdir()} == {".csv"}
    with pytest.raises(DataError, match=r"beside the key(.|\n)*fix: sheet="):
        export_sheet(evaluation, evaluation / "grading" / "three.csv")


def test_no_cell_is_a_formula(evaluation: Path) -> None:
    """What a model wrote must not run in a spreadsheet."""
    (evaluation / "items.jsonl").write_text(json.dumps(line("x", "base", '=HYPERLINK("http://x")')) + "\n")
    sheet, _ = export_sheet(evaluation)
    assert {row["response"] for row in read(sheet)} == {'\'=HYPERLINK("http://x")'}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_grades_reach_their_answers(evaluation: Path, delimiter: str) -> None:
    """Through the key, in any order of rows: base asks (4 of 4 points), tuned also promises a cure (2 of 4)."""
    sheet, key = export_sheet(evaluation)
    owners = json.loads(key.read_text())["answers"]
    rows = read(sheet)[::-1]
    for row in rows:
        tuned = owners[row["answer"]]["side"] == "tuned"
        row["met"] = "yes" if row["number"] == "1" or tuned else "No"
    assert import_sheet(evaluation, fill(sheet, rows, delimiter), "dr_a") == (20, 0)
    for (_, side), found in values(evaluation).items():
        expected = 1.0 if side == "base" else 0.5
        assert found["rubric/graded"] == [1, 1]
        assert found["rubric/score"] == [expected, 1] == found["rubric/theme/context_seeking"]
        assert found["rubric/axis/context_awareness"] == [1, 1]
        assert "rubric/axis/accuracy" not in found  # nothing to win there
        assert not any("judge" in name for name in found)
    assert summary(evaluation)[-1] == ("rubric/theme/context_seeking", "tuned", 10, (0.5, 0.5, 0.5))
    text = (evaluation / "items.jsonl").read_text()
    assert '"suite": "safety"' in text


def grade_all(evaluation: Path, rater: str, met: str) -> None:
    """One verdict on everything, by a rater with a sheet of their own."""
    sheet = evaluation / f"{rater}.csv"
    if not sheet.exists():
        export_sheet(evaluation, sheet)
    import_sheet(evaluation, fill(sheet, [{**row, "met": met} for row in read(sheet)]), rater)


def test_raters_who_disagree_count_by_share_and_may_think_again(evaluation: Path) -> None:
    """One says all, one says nothing: half of 4 less 2 points. A sheet taken again replaces the rater's own grades only."""
    grade_all(evaluation, "dr_a", "yes")
    grade_all(evaluation, "dr_b", "no")
    assert values(evaluation)["cough3", "tuned"]["rubric/score"] == [0.25, 1]
    grade_all(evaluation, "dr_b", "yes")
    assert values(evaluation)["cough3", "tuned"]["rubric/score"] == [0.5, 1]
    assert {grades.rater for grades in load_grades(evaluation)} == {"dr_a", "dr_b"}


def test_raters_name_their_copies_as_they_like(evaluation: Path, tmp_path: Path) -> None:
    """A sheet's key is found by its answers, also where there are several sheets; two sheets in one file are refused."""
    sheet, _ = export_sheet(evaluation)
    other, _ = export_sheet(evaluation, evaluation / "sheets" / "other.csv")
    for rater, met in (("dr_a", "yes"), ("dr_b", "no")):
        copy = fill(tmp_path / f"{rater}.csv", [{**row, "met": met} for row in read(sheet)])
        assert import_sheet(evaluation, copy, rater) == (20, 0)
    misnamed = fill(tmp_path / "sheet.csv", [{**row, "met": "no"} for row in read(other)])
    assert import_sheet(evaluation, misnamed, "dr_c") == (20, 0)
    assert values(evaluation)["cough3", "tuned"]["rubric/score"] == [pytest.approx(1 / 6), 1]
    both = fill(tmp_path / "both.csv", read(sheet) + read(other))
    with pytest.raises(DataError, match=r"several sheets\n    allowed: other.csv, sheet.csv\n    fix: one sheet"):
        import_sheet(evaluation, both, "dr_d")


def test_half_an_answer_is_not_graded(evaluation: Path) -> None:
    """A criterion left open leaves its answer out, and no other."""
    sheet, _ = export_sheet(evaluation)
    rows = [{**row, "met": "y"} for row in read(sheet)]
    rows[5]["met"] = ""
    assert import_sheet(evaluation, fill(sheet, rows), "dr_a") == (19, 1)
    assert sum(found["rubric/graded"][0] for found in values(evaluation).values()) == 19
    assert len(ungraded(evaluation, "human", "dr_a")) == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"met": "perhaps"}, "met=perhaps is neither yes nor no"),
        ({"answer": "A9999"}, "no criterion 1 of an answer A9999"),
        ({"number": "7"}, "no criterion 7"),
        ({"number": "one"}, "no criterion one"),
        ({"number": "2"}, "a second time"),
    ],
)
def test_a_row_that_cannot_be_understood_stops_the_import(evaluation: Path, change: dict[str, str], told: str) -> None:
    """By its row; nothing is taken then."""
    sheet, _ = export_sheet(evaluation)
    rows = [{**row, "met": "1"} for row in read(sheet)]
    rows[0 if "a second" not in told else 2] |= change
    before = (evaluation / "items.jsonl").read_text()
    with pytest.raises(DataError) as error:
        import_sheet(evaluation, fill(sheet, rows), "dr_a")
    assert told in str(error.value)
    assert load_grades(evaluation) == []
    assert (evaluation / "items.jsonl").read_text() == before


@pytest.mark.parametrize("column", ["answer", "number", "conversation", "response", "criterion"])
def test_a_column_that_was_sorted_alone_stops_the_import(evaluation: Path, column: str) -> None:
    """As a spreadsheet does where one column is selected: told by row and column, and nothing is taken."""
    sheet, _ = export_sheet(evaluation)
    rows = [{**row, "met": "yes"} for row in read(sheet)]
    cells = sorted((row[column] for row in rows), reverse=column == "answer")  # those come in ascending order
    mixed = [{**row, column: cell} for row, cell in zip(rows, cells, strict=True)]
    with pytest.raises(
        DataError, match=r"row \d+, column \w+: is not what was exported(.|\n)*fix: sort and move whole"
    ):
        import_sheet(evaluation, fill(sheet, mixed), "dr_a")
    assert load_grades(evaluation) == []


def test_what_a_spreadsheet_does_to_texts_does_not_matter(evaluation: Path) -> None:
    """Line ends, blanks, and the apostrophe before a formula; the row that a message names is the spreadsheet's."""
    text = json.dumps(line("x", "base", "=1+1\n\n- one\n- two "))
    (evaluation / "items.jsonl").write_text(text + "\n")
    sheet, _ = export_sheet(evaluation)
    rows = [{**row, "met": "yes", "response": "=1+1\r\n- one\r\n- two"} for row in read(sheet)]
    assert import_sheet(evaluation, fill(sheet, rows), "dr_a") == (1, 0)
    rows[1]["met"] = "maybe"
    head, _, rest = fill(sheet, rows).read_text().partition("\n")
    sheet.write_text(f"{head}\n\n{rest}")
    with pytest.raises(DataError, match="row 4: met=maybe"):
        import_sheet(evaluation, sheet, "dr_a")


def test_what_does_not_belong_together_is_told(evaluation: Path, tmp_path: Path) -> None:
    """No rater, no key, a file that is none, columns that are gone, answers that were generated anew."""
    sheet, key = export_sheet(evaluation)
    for rater in ("", "Dr. A/B"):
        with pytest.raises(DataError, match="is no name"):
            import_sheet(evaluation, sheet, rater)
    with pytest.raises(DataError, match="no readable key"):
        import_sheet(evaluation, fill(evaluation / "another.csv", [{**read(sheet)[0], "answer": "A0001"}]), "dr_a")
    assert key == key_of(evaluation, tmp_path / "elsewhere" / "sheet.csv")
    with pytest.raises(DataError, match="No such file"):
        import_sheet(evaluation, evaluation / "elsewhere" / "sheet.csv", "dr_a")
    good = sheet.read_bytes()
    sheet.write_bytes("answer,number,met\nA0001,1,ü\n".encode("cp1252"))
    with pytest.raises(DataError, match="CSV UTF-8"):
        import_sheet(evaluation, sheet, "dr_a")
    sheet.write_text("a,b\n")
    with pytest.raises(DataError, match="lacks a column"):
        import_sheet(evaluation, sheet, "dr_a")
    sheet.write_bytes(good)
    text = (evaluation / "items.jsonl").read_text().replace("3 esab", "3 other")
    (evaluation / "items.jsonl").write_text(text)
    with pytest.raises(DataError, match="1 answers were generated anew"):
        import_sheet(evaluation, sheet, "dr_a")
    with pytest.raises(DataError, match="holds no answers to a rubric"):
        export_sheet(tmp_path / "empty")


def test_a_sheet_that_is_no_csv_is_told(evaluation: Path) -> None:
    """A quote that nobody closed, also before much text; a long comment is none of it."""
    sheet, _ = export_sheet(evaluation)
    rows = [{**row, "met": "yes", "comment": "long " * 40_000} for row in read(sheet)[:2]]
    assert import_sheet(evaluation, fill(sheet, rows), "dr_a") == (1, 19)
    for length in (1, 200_000):
        sheet.write_text(",".join(COLUMNS) + '\nA0001,1,"' + "x" * length + "\n")
        with pytest.raises(DataError, match=r"is no CSV file: .*\n    fix: close every quote"):
            import_sheet(evaluation, sheet, "dr_b")


@pytest.mark.parametrize(
    ("change", "told"), [({"mood": "good"}, "has the foreign key mood"), ({"met": None}, "lacks a key of a grade")]
)
def test_a_line_that_is_no_grade_is_told(evaluation: Path, change: dict[str, Any], told: str) -> None:
    """By its number, before anything is added."""
    grade_all(evaluation, "dr_a", "yes")
    grades = evaluation / "grading" / "grades.jsonl"
    first = {
        name: value for name, value in {**json.loads(grades.read_text().split("\n")[0]), **change}.items() if value
    }
    grades.write_text('{"id": "cut o\n' + json.dumps(first) + "\n")
    before = grades.read_text()
    with pytest.raises(DataError, match=rf"grades\.jsonl, line 2: {told}\n    allowed: id, side, .*\n    fix: restore"):
        add_grades(evaluation, [])
    with pytest.raises(DataError, match=told):
        grade_all(evaluation, "dr_b", "yes")
    assert grades.read_text() == before


def test_a_grade_stays_with_the_answer_it_was_given_to(evaluation: Path) -> None:
    """An answer generated anew is ungraded again, the others are not."""
    grade_all(evaluation, "dr_a", "yes")
    text = (evaluation / "items.jsonl").read_text().replace('"3 esab"', '"3 other"')
    (evaluation / "items.jsonl").write_text(text)
    add_grades(evaluation, [])
    found = values(evaluation)
    assert found["cough3", "base"] == {"rubric/graded": [0, 1]}
    assert sum(v["rubric/graded"][0] for v in found.values()) == 19


def test_nobody_grades_what_is_being_evaluated(evaluation: Path, tmp_path: Path) -> None:
    """Both write to `items.jsonl`; and a folder that is no evaluation gets no lock."""
    others = FileLock(evaluation / ".lock")
    with others, pytest.raises(ConfigError, match=r"is in use by another process"), alone_in(evaluation):
        pass
    with pytest.raises(DataError, match="holds no answers"), alone_in(tmp_path / "gone"):
        pass
    assert not (tmp_path / "gone").exists()
