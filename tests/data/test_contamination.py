"""Benchmark questions in training data."""

from pathlib import Path

import pytest

from medllm.config.preparation import Action, ContaminationConf
from medllm.data.preparation.contamination import ContaminationCheck, Question, read_questions
from medllm.data.preparation.prepare import prepare
from medllm.errors import DataError
from tests.data.files import SHARED, needs_shared, plain, write_csv, write_jsonl

STEM = "Which of the following is the most likely diagnosis in this patient?"
CASE = "A 34-year-old man comes to the clinic because of a dry cough that wakes him every night since he moved house. "
SHORT = "What causes the scarlet fever rash?"


def held(text: str, *questions: str, threshold: float = 0.5) -> list[int]:
    """Numbers of the questions that the text holds."""
    return ContaminationCheck([Question("a.jsonl", q) for q in questions], threshold).held(text)


def test_a_question_is_found_within_a_longer_text() -> None:
    """Case, punctuation and line ends apart; every question held is named."""
    text = (
        f"Hello doctor!\n{(CASE + STEM).upper().replace(' ', '  ')}\nPlease help me. {SHORT} Thank you for your answer."
    )
    assert held(text, "something else that is quite long and not in it at all", CASE + STEM, SHORT) == [1, 2]
    assert held(CASE, CASE + STEM, threshold=1.0) == []
    assert held(CASE + STEM, CASE + STEM, threshold=1.0) == [0]


def test_changed_words_lower_the_share() -> None:
    """A changed word takes up to eight runs with it: 20 words have 13 runs, of which 8, then 5 remain."""
    question = " ".join(f"w{i}" for i in range(20))
    for changed, share in (((), 13), ((4,), 8), ((7,), 5), ((7, 15), 0)):
        text = " ".join("x" if i in changed else f"w{i}" for i in range(20))
        for threshold in (share / 13, (share + 1) / 13) if share < 13 else (1.0,):
            expected = [0] if share and threshold <= share / 13 else []
            assert held(text, question, threshold=threshold) == expected


def test_a_common_stem_is_no_question() -> None:
    """What all questions of an exam end with is a small share of each; a question of a stem alone is itself."""
    assert held(f"My other exam: {STEM}", CASE + STEM) == []
    assert held(f"My other exam: {STEM}", STEM) == [0]


@pytest.mark.parametrize(
    ("question", "found"),
    [
        ("scarlet fever rash", False),
        ("what causes the scarlet fever", False),
        (SHORT, True),
        ("what causes the scarlet fever rash today", False),
        ("so doctor what causes the scarlet fever rash", True),
        ("", False),
    ],
)
def test_short_questions_must_occur_whole(question: str, found: bool) -> None:
    """Below six words they tell nothing; from six to eight all of them are needed, whatever the threshold."""
    assert (held(f"So, doctor: {SHORT} Now tell me.", question, threshold=0.01) == [0]) is found


def test_questions_are_read_from_any_table(tmp_path: Path) -> None:
    """Each with its file; what is no text is none, a missing column is told."""
    one = str(write_jsonl(tmp_path / "one.jsonl", [{"question": CASE}, {"question": None}]))
    two = str(write_csv(tmp_path / "two.csv", [(STEM, "a")], ("question", "answer")))
    conf = ContaminationConf(benchmarks=[one, two])
    assert read_questions(conf) == [Question(one, CASE), Question(two, STEM)]
    with pytest.raises(DataError) as caught:
        read_questions(ContaminationConf(benchmarks=[two], column="stem"))
    assert str(caught.value) == (
        f"data.contamination.column=stem: no such column in {two}\n    allowed: question, answer"
    )


@pytest.mark.parametrize(
    ("action", "kept", "step"), [(Action.keep, 3, None), (Action.flag, 3, (0, 1)), (Action.drop, 2, (1, 0))]
)
def test_actions(action: Action, kept: int, step: tuple[int, int] | None, tmp_path: Path) -> None:
    """Nothing, counted, or left out as well; the answer is looked at, too."""
    benchmark = str(write_jsonl(tmp_path / "b.jsonl", [{"question": CASE + STEM}, {"question": CASE + STEM}]))
    path = write_csv(
        tmp_path / "a.csv", [("My knee hurts", "Rest it."), ("A riddle", CASE + STEM), ("I cough", "Tea.")]
    )
    prepared = prepare(plain(path, contamination=ContaminationConf([benchmark], action=action)))
    assert len(prepared.conversations) == kept
    found = {s.name: (s.dropped, s.flagged) for s in prepared.report.steps}.get("contamination")
    assert found == step
    assert prepared.report.benchmarks == ({benchmark: 2} if step else {})


@needs_shared
def test_planted_questions_of_real_exams_are_found_and_nothing_else(tmp_path: Path) -> None:
    """Three questions among real dialogues, against 5,000 of MedQA and MedMCQA."""
    import json

    import pyarrow.parquet as pq

    files = [SHARED / f"mcq_{name}.jsonl" for name in ("medqa_usmle_dev", "medqa_usmle_test", "medmcqa_dev")]
    planted = []
    for path in files:
        questions = [json.loads(line)["question"] for line in path.open(encoding="utf-8")]
        planted.append(next(q for q in questions if len(q.split()) >= 12))
    rows = [
        (row["Patient"], row["Doctor"])
        for name in ("icliniq2k_chatdoctor", "kqa")
        for row in pq.read_table(SHARED / f"dialogues_{name}.parquet").to_pylist()
    ]
    for i, question in enumerate(planted):
        rows.insert(200 * i, (f"Dear doctor, I read this: {question.lower()} Can you explain?", "Yes, I can."))
    conf = plain(write_csv(tmp_path / "a.csv", rows), contamination=ContaminationConf([str(path) for path in files]))
    conf.contamination.action = Action.drop
    report = prepare(conf).report
    (step,) = (step for step in report.steps if step.name == "contamination")
    assert step.dropped == 3
    assert [example.id for example in step.examples] == [f"a.csv row {200 * i}" for i in range(3)]
    assert report.benchmarks == dict.fromkeys(map(str, files), 1)
