"""Reading rows and turning them into conversations."""

import json
from pathlib import Path

import pandas as pd
import pytest

from medllm.config.data import ColumnsConf, LocalDataConf
from medllm.data.messages import build_conversations
from medllm.data.sources import read_rows
from medllm.errors import DataError

ROWS = [{"Patient": "I cough", "Doctor": "Since when?"}, {"Patient": "NaN", "Doctor": "007"}]


def write(path: Path) -> LocalDataConf:
    """The rows in the format that the file's name asks for."""
    frame = pd.DataFrame(ROWS)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix in (".csv", ".tsv"):
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    else:
        frame.to_json(path, orient="records", lines=path.suffix == ".jsonl")
    return LocalDataConf(path=str(path))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_rows(suffix: str, tmp_path: Path) -> None:
    """Text stays text: `NaN` is no number, `007` no seven."""
    assert read_rows(write(tmp_path / f"rows{suffix}")) == ROWS


def test_faults_of_files_are_told(tmp_path: Path) -> None:
    """Missing, empty, unknown and broken files: one sentence with the key."""
    with pytest.raises(DataError, match=r"data.path=none.csv: no such file"):
        read_rows(LocalDataConf(path="none.csv"))
    for name, content, reason in (
        ("a.csv", "", "the file is empty"),
        ("a.xlsx", "x", "unknown format"),
        ("a.json", "{", "cannot be read as json"),
        ("b.jsonl", '[1, 2]\n3\n"x"\n', "cannot be read as jsonl"),
        ("a.parquet", "no parquet", "cannot be read as parquet"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=reason):
            read_rows(LocalDataConf(path=str(tmp_path / name)))


def test_missing_column_names_those_that_exist() -> None:
    """The message shows the way."""
    with pytest.raises(DataError) as caught:
        build_conversations([{"question": "a", "answer": "b"}], ColumnsConf())
    assert "data.columns.patient=Patient: no such column" in str(caught.value)
    assert "allowed: question, answer" in str(caught.value)


def test_a_misspelt_messages_column_is_told() -> None:
    """It is not silently ignored; a column of plain text holds no conversations."""
    rows = [{"Patient": "a", "Doctor": "b"}]
    with pytest.raises(DataError, match=r"data\.columns\.messages=typo: no such column"):
        build_conversations(rows, ColumnsConf(messages="typo"))
    with pytest.raises(DataError, match="none of the 1 rows is a conversation"):
        build_conversations(rows, ColumnsConf(messages="Patient"))


def test_rejected_rows_are_counted_by_reason() -> None:
    """Empty messages leave with a count; ids keep the row's number."""
    rows = [{"Patient": "a", "Doctor": "b"}, {"Patient": " ", "Doctor": "b"}, {"Patient": "c", "Doctor": None}]
    conversations, rejected = build_conversations(rows, ColumnsConf())
    assert [c.id for c in conversations] == ["row 0"]
    assert rejected == {"empty message": 2}


def test_no_usable_row_is_an_error() -> None:
    """With the reasons."""
    with pytest.raises(DataError, match="empty message: 1"):
        build_conversations([{"Patient": "", "Doctor": "b"}], ColumnsConf())
    with pytest.raises(DataError, match="has no rows"):
        build_conversations([], ColumnsConf())


def test_chat_format_wins_where_a_row_has_it() -> None:
    """OpenAI and ShareGPT spellings; rows without turns fall back to the two columns."""
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    in_csv = json.dumps([{"role": "patient", "content": "e"}, {"role": "doctor", "content": "f"}])
    rows = [
        {"messages": in_csv},
        {"messages": None},
        {"Patient": "x", "Doctor": "y", "messages": turns},
        {"Patient": "x", "Doctor": "y", "messages": None},
        {
            "Patient": "x",
            "Doctor": "y",
            "messages": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}],
        },
    ]
    conversations, rejected = build_conversations(rows, ColumnsConf(messages="messages"))
    assert [[m.content for m in c.messages] for c in conversations] == [["e", "f"], ["a", "b"], ["x", "y"], ["c", "d"]]
    assert rejected == {"empty message": 1}


def test_the_bundled_file_keeps_its_promises() -> None:
    """The datasheet's minimum: size, specialties, emergencies, questions back, visits, no dose in an answer."""
    import re

    path = Path(__file__).parents[2] / "data" / "dialogues.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 240
    assert len({row["specialty"] for row in rows}) >= 24
    assert sum(row["urgency"] == "emergency" for row in rows) >= 40
    assert sum(row["asks_back"] for row in rows) >= 40
    assert sum(bool(row["messages"]) for row in rows) >= 40
    dose = re.compile(r"\b\d+([.,]\d+)?\s*(mg|mcg|µg|ml|g|iu|units?|tablets?|pills?|drops|puffs|milligrams?)\b", re.I)
    for row in rows:
        turns = row["messages"] or [{"role": "assistant", "content": row["Doctor"]}]
        assert not [t for t in turns if t["role"] == "assistant" and dose.search(t["content"])], row["id"]
        if row["messages"]:
            assert (turns[0]["content"], turns[1]["content"]) == (row["Patient"], row["Doctor"])
    answers = [row["Doctor"] for row in rows]
    assert len(set(answers)) == len(answers)
