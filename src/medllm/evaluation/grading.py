"""Grades of open answers: a sheet for people, who do not see which model answered, and the way back.

    <evaluation>/items.jsonl --export--> sheets/sheet.csv       for the raters: a row for each criterion
                                         grading/sheet.key.json stays here: whose answer each one is, and the secret seed
    sheet.csv, filled in     --import--> grading/grades.jsonl   a line for each answer and rater
                                         items.jsonl            with the scores

All but the sheet tells who answered: the key can be read by its owner only, and no sheet is written beside it.

An answer counts once all of its criteria are graded. Where several people graded one, each criterion counts by the share of
them who found it met. Grades know the answer they belong to by its text: an answer that was generated anew has none.
"""

import csv
import hashlib
import json
import random
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from medllm.config.paths import path_exists
from medllm.config.store import slug
from medllm.errors import DataError, Fault
from medllm.evaluation.rubric import GRADED, SOURCES, SUITE, Rubric, clipped_mean, score_values
from medllm.run_folder import lock_folder, write_whole
from medllm.spreadsheet import by_column, compared, neutralised, read_table, shown

ITEMS, GRADES, SHEET = "items.jsonl", "grades.jsonl", "sheet.csv"
COLUMNS = ("answer", "number", "conversation", "response", "criterion", "met", "comment")
YES = {"yes", "y", "1", "true", "x", "met", "ja", "oui"}
NO = {"no", "n", "0", "false", "not met", "nein", "non"}
SHOWN = 5  # faults of a sheet
MIXED_UP = "sort and move whole rows only, or copy `met` and `comment` into the sheet as it was exported"


@dataclass(frozen=True)
class OpenAnswer:
    """An answer to be graded.

    Attributes:
        id: Of the conversation.
        side: Who answered.
        messages: The conversation.
        answer: Its text.
        rubric: What it is graded by.
    """

    id: str
    side: str
    messages: list[dict[str, str]]
    answer: str
    rubric: Rubric

    @property
    def digest(self) -> str:
        """Of all that a grade depends on."""
        criteria = [[c.criterion, c.points] for c in self.rubric.criteria]
        return hashlib.sha256(json.dumps([self.messages, self.answer, criteria]).encode()).hexdigest()

    @property
    def transcript(self) -> str:
        """The conversation, to read."""
        return "\n\n".join(f"{message['role']}: {message['content']}" for message in self.messages)


@dataclass(frozen=True)
class Grades:
    """What one rater said of one answer.

    Attributes:
        id: Of the conversation.
        side: Who answered.
        digest: Of the answer.
        source: `human` or `judge`.
        rater: Who graded.
        met: Of each criterion, in order.
        comments: Of each criterion; empty where there is none.
    """

    id: str
    side: str
    digest: str
    source: str
    rater: str
    met: list[bool]
    comments: list[str] = field(default_factory=list)


def grading_folder(evaluation: Path) -> Path:
    """Where keys and grades of an evaluation are: they tell who answered, and are not for raters."""
    return evaluation / "grading"


def sheets_folder(evaluation: Path) -> Path:
    """Where sheets are, and nothing else."""
    return evaluation / "sheets"


def load_answers(evaluation: Path) -> list[OpenAnswer]:
    """The open answers of an evaluation, in the order in which they were given.

    Raises:
        DataError: if there are none.
    """
    answers = {}
    for line in _lines(evaluation / ITEMS):
        details = line.get("details", {})
        if line.get("suite") == SUITE and "rubrics" in details:
            answer = OpenAnswer(line["id"], line["side"], details["messages"], details["answer"], Rubric.of(details))
            answers[answer.id, answer.side] = answer
    if not answers:
        fix = "scripts/evaluate.py with evaluation.rubric.enabled=true, then its folder here"
        raise DataError(f"{evaluation} holds no answers to a rubric\n    fix: {fix}")
    return list(answers.values())


@contextmanager
def alone_in(evaluation: Path) -> Iterator[None]:
    """Keeps evaluations and other graders from writing to an evaluation's folder until the block ends.

    Raises:
        DataError: if there is nothing to grade.
        ConfigError: if another process is in it.
    """
    load_answers(evaluation)  # what is no evaluation gets no lock
    fault = Fault("evaluation", "is in use by another process", str(evaluation), fix="wait for its end")
    lock = lock_folder(evaluation, fault)
    try:
        yield
    finally:
        lock.release()


def _lines(path: Path) -> list[dict[str, Any]]:
    """Lines of JSON; one that an interruption cut off is none."""
    return [value for _, value in _numbered(path)]


def _numbered(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Lines of JSON with their numbers."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n") if path_exists(path) else [], 1):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append((number, value))
    return found


def export_sheet(evaluation: Path, sheet: Path | None = None, seed: int | None = None) -> tuple[Path, Path]:
    """Writes a sheet for raters and its key.

    Args:
        evaluation: Folder with `items.jsonl`.
        sheet: Where to; `sheets/sheet.csv` of the evaluation if not given. The key always stays with the evaluation.
        seed: Of the order of answers; who knows it knows whose they are. A secret one, which the key keeps, if not given.

    Returns:
        Sheet and key.

    Raises:
        DataError: if there is nothing to grade, the sheet would lie beside its key, or it exists, which may be half filled in.
    """
    answers = sorted(load_answers(evaluation), key=lambda answer: (answer.id, answer.side))  # whatever came first
    sheet = sheet or sheets_folder(evaluation) / SHEET
    key = key_of(evaluation, sheet)
    if sheet.resolve().parent == key.resolve().parent:
        fix = f"sheet={sheets_folder(evaluation) / sheet.name}, or any other folder"
        raise DataError(f"sheet={sheet}: would lie beside the key, which tells who answered\n    fix: {fix}")
    taken = next((path for path in (sheet, key) if path.exists()), None)
    if taken:
        raise DataError(f"{taken} exists already, and may be in use\n    fix: sheet=<another name>")
    seed = secrets.randbits(64) if seed is None else seed
    generator = random.Random(f"medllm grading {seed}")
    generator.shuffle(answers)
    mark = f"{generator.getrandbits(24):06x}"  # of the sheet, so that its key is found whatever its raters call their copies
    names = {f"A{mark}-{number:04d}": answer for number, answer in enumerate(answers, 1)}
    for folder in (key.parent, sheet.parent):
        folder.mkdir(parents=True, exist_ok=True)
    owners = {name: {"id": a.id, "side": a.side, "digest": a.digest} for name, a in names.items()}
    write_whole(key, json.dumps({"format": 1, "sheet": sheet.name, "seed": seed, "answers": owners}, indent=2))
    key.chmod(0o600)
    with sheet.open("w", encoding="utf-8-sig", newline="") as file:  # the mark tells spreadsheets that it is UTF-8
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for name, answer in names.items():
            for number in range(1, len(answer.rubric.criteria) + 1):
                writer.writerow([name, number, *map(neutralised, _texts(answer, number).values()), "", ""])
    return sheet, key


def key_of(evaluation: Path, sheet: Path) -> Path:
    """Of a sheet, as it is exported."""
    return grading_folder(evaluation) / f"{sheet.stem}.key.json"


def _texts(answer: OpenAnswer, number: int) -> dict[str, str]:
    """What a row shows of a criterion, by column."""
    criterion = answer.rubric.criteria[number - 1].criterion
    return {"conversation": answer.transcript, "response": answer.answer, "criterion": criterion}


def import_sheet(evaluation: Path, sheet: Path, rater: str) -> tuple[int, int]:
    """Takes what a rater filled in; a sheet imported again replaces what this rater had said.

    The texts of each row must be those that were exported with it: sorting one column and not the others mixes answers up
    without a trace.

    Returns:
        Answers graded, and answers left out because a criterion was not graded.

    Raises:
        DataError: naming rows that cannot be understood; nothing is taken then.
    """
    if not rater or slug(rater) != rater:
        raise DataError(f"rater={rater}: is no name\n    fix: rater=<letters, digits, . _ and -, such as dr_a>")
    rows = _rows(sheet)
    owners = _owners(evaluation, sheet, {row["answer"].strip() for _, row in rows})
    answers = {(a.id, a.side): a for a in load_answers(evaluation)}
    known = {name: answers[o["id"], o["side"]] for name, o in owners.items() if (o["id"], o["side"]) in answers}
    changed = [name for name, owner in owners.items() if name not in known or known[name].digest != owner["digest"]]
    if changed:
        fix = "export a new sheet"
        raise DataError(f"{len(changed)} answers were generated anew since {sheet.name} was exported\n    fix: {fix}")
    cells = _verdicts(sheet, rows, known)
    grades, unfinished = [], 0
    for name, answer in known.items():
        row = cells[name]
        met = [row.get(number, (None, "")) for number in range(1, len(answer.rubric.criteria) + 1)]
        verdicts = [verdict for verdict, _ in met if verdict is not None]
        if len(verdicts) < len(met):
            unfinished += 1
            continue
        comments = [comment for _, comment in met]
        grades.append(Grades(answer.id, answer.side, answer.digest, "human", rater, verdicts, comments))
    add_grades(evaluation, grades)
    return len(grades), unfinished


def _owners(evaluation: Path, sheet: Path, names: set[str]) -> dict[str, dict[str, str]]:
    """Whose each answer of a sheet is, from the key that knows its answers; of several the one with the sheet's name."""
    found = {}
    for path in sorted(grading_folder(evaluation).glob("*.key.json")):
        try:
            owners = json.loads(path.read_text(encoding="utf-8"))["answers"]
            if names & set(owners):
                found[path] = owners
        except (OSError, ValueError, KeyError, TypeError):
            continue
    named = key_of(evaluation, sheet)
    if named in found:
        return found[named]
    if not found:
        fix = "the sheet as it was exported, with the evaluation it was exported from"
        raise DataError(f"{sheet.name} has no readable key in {named.parent} that knows its answers\n    fix: {fix}")
    if any(owners != next(iter(found.values())) for owners in found.values()):
        allowed = ", ".join(f"{path.name.removesuffix('.key.json')}.csv" for path in found)
        fix = "one sheet in each file, with the name it was exported under"
        raise DataError(f"{sheet.name} has answers of several sheets\n    allowed: {allowed}\n    fix: {fix}")
    return next(iter(found.values()))


def _rows(sheet: Path) -> list[tuple[int, dict[str, str]]]:
    """Its rows by column, with their numbers as a spreadsheet shows them."""
    head, rows = read_table(sheet)
    wrong = [name for name in COLUMNS if head.count(name) != 1 and (name != "comment" or name in head)]
    if wrong:
        fix = f"each of {', '.join(COLUMNS)} once, as the sheet was exported"
        raise DataError(f"{sheet} lacks a column, or has it twice: {', '.join(wrong)}\n    fix: {fix}")
    return [(number, by_column(head, row)) for number, row in rows]


def _verdicts(
    sheet: Path, rows: Iterable[tuple[int, dict[str, str]]], answers: dict[str, OpenAnswer]
) -> dict[str, dict[int, tuple[bool | None, str]]]:
    """Verdict and comment by answer and number of the criterion."""
    asked = {(name, str(n)): n for name, answer in answers.items() for n in range(1, len(answer.rubric.criteria) + 1)}
    found: dict[str, dict[int, tuple[bool | None, str]]] = {name: {} for name in answers}
    faults = []
    for index, row in rows:
        name, given, said = (row[column].strip() for column in ("answer", "number", "met"))
        where = f"row {index}"
        number = asked.get((name, given))
        if number is None:
            faults.append(f"{where}: no criterion {shown(given)} of an answer {shown(name)} was exported")
            continue
        faults += [
            f"{where}, column {column}: is not what was exported with criterion {number} of {name}: "
            f"{shown(row[column])}\n      fix: {MIXED_UP}"
            for column, text in _texts(answers[name], number).items()
            if compared(row[column]) != compared(text)
        ]
        if number in found[name]:
            faults.append(f"{where}: criterion {number} of {name} a second time")
        if said and said.casefold() not in YES | NO:
            faults.append(f"{where}: met={shown(said)} is neither yes nor no")
        found[name][number] = said.casefold() in YES if said else None, row.get("comment", "").strip()
    if faults:
        more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise DataError(f"{sheet} cannot be taken:\n  " + "\n  ".join(faults[:SHOWN]) + more)
    return found


def load_grades(evaluation: Path) -> list[Grades]:
    """Of an evaluation; the last word of each rater on each answer.

    Raises:
        DataError: naming a line that is no grade.
    """
    path = grading_folder(evaluation) / GRADES
    names = [f.name for f in fields(Grades)]
    grades = []
    for number, line in _numbered(path):
        foreign = sorted(set(line) - set(names))
        try:
            grades.append(Grades(**line))
        except TypeError:
            problem = f"has the foreign key {', '.join(foreign)}" if foreign else "lacks a key of a grade"
            fix = f"    allowed: {', '.join(names)}\n    fix: restore the line as it was, or delete it"
            raise DataError(f"{path}, line {number}: {problem}\n{fix}") from None
    return _last_words(grades)


def _last_words(grades: Iterable[Grades]) -> list[Grades]:
    return list({(g.id, g.side, g.digest, g.source, g.rater): g for g in grades}.values())


def add_grades(evaluation: Path, grades: Iterable[Grades]) -> None:
    """Writes them down and into the scores of `items.jsonl`.

    Raises:
        DataError: if what is written down already cannot be read; nothing is added then.
    """
    new = list(grades)
    known = _last_words([*load_grades(evaluation), *new])
    path = grading_folder(evaluation) / GRADES
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(grade), ensure_ascii=False) + "\n" for grade in new)
    by_answer: dict[str, list[Grades]] = {}
    for grade in known:
        by_answer.setdefault(grade.digest, []).append(grade)
    answers = {(a.id, a.side): a for a in load_answers(evaluation)}
    lines = _lines(evaluation / ITEMS)
    for line in lines:
        answer = answers.get((line.get("id", ""), line.get("side", ""))) if line.get("suite") == SUITE else None
        if answer is not None:
            line["values"] = values_of(answer, by_answer.get(answer.digest, []))
    write_whole(evaluation / ITEMS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def values_of(answer: OpenAnswer, grades: Iterable[Grades]) -> dict[str, tuple[float, float]]:
    """What an answer shows: whether people graded it, and its scores."""
    given = [g for g in grades if g.id == answer.id and g.side == answer.side]
    values: dict[str, tuple[float, float]] = {GRADED: (int(any(g.source == "human" for g in given)), 1)}
    for source in SOURCES:
        said = [g.met for g in given if g.source == source]
        if said:
            shares = [sum(votes) / len(said) for votes in zip(*said, strict=True)]
            values |= score_values(answer.rubric, shares, source)
    return values


def ungraded(evaluation: Path, source: str, rater: str) -> list[OpenAnswer]:
    """Answers that a rater has not graded yet."""
    done = {grades.digest for grades in load_grades(evaluation) if (grades.source, grades.rater) == (source, rater)}
    return [answer for answer in load_answers(evaluation) if answer.digest not in done]


def summary(evaluation: Path) -> list[tuple[str, str, int, tuple[float, float, float]]]:
    """Scores of what is graded: metric, side, answers, and score with its interval; metric by metric, side by side."""
    scores: dict[tuple[str, str], list[float]] = {}
    for line in _lines(evaluation / ITEMS):
        if line.get("suite") == SUITE:
            for metric, (value, _) in line["values"].items():
                if metric != GRADED:
                    scores.setdefault((metric, line["side"]), []).append(value)
    return [(metric, side, len(values), clipped_mean(values)) for (metric, side), values in sorted(scores.items())]
