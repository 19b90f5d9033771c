"""Rows become conversations."""

import json
from typing import Any

import pytest

from medllm.config.data import ColumnsConf
from medllm.data.messages import build_conversations
from medllm.data.sources.log import ReadingLog
from medllm.errors import DataError

Row = dict[str, Any]

NOT_ALTERNATING = "turns do not alternate from user to assistant"
PAIR = "user: a | assistant: b"


def chat(*turns: str) -> list[dict[str, str]]:
    """`role: text` as OpenAI writes it."""
    return [dict(zip(("role", "content"), turn.split(": ", 1), strict=True)) for turn in turns]


def built(rows: list[Row], **columns: Any) -> tuple[list[str], ReadingLog]:
    """Each conversation as one line, and what was met."""
    log = ReadingLog()
    entries = list(build_conversations(((f"row {i}", row) for i, row in enumerate(rows)), ColumnsConf(**columns), log))
    assert sum(log.rows.values()) == len(rows) == len(entries) + sum(log.rejected.values())
    return [" | ".join(f"{m.role}: {m.content}" for m in entry.conversation.messages) for entry in entries], log


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"Description": "d", "Patient": "a", "Doctor": "b"}, PAIR),
        ({"question": "a", "answer": "b"}, PAIR),
        ({"instruction": "a", "input": "", "output": "b"}, PAIR),
        ({"instruction": "a", "input": "c", "output": "b"}, "user: a\n\nc | assistant: b"),
        ({"instruction": "a", "output": "b"}, PAIR),
        ({"instruction": "a", "response": "b"}, PAIR),
        ({"prompt": "a", "completion": "b"}, PAIR),
        ({"prompt": "a", "response": "b"}, PAIR),
        ({"input": "a", "output": "b"}, PAIR),
        ({"question": "x", "answer": "y", "Patient": "a", "Doctor": "b"}, PAIR),
        ({"messages": chat("user: a", "assistant: b")}, PAIR),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, PAIR),
        ({"conversation": chat("patient: a", "DOCTOR: b")}, PAIR),
        ({"messages": json.dumps(chat("User: a", "Model: b"))}, PAIR),
        ({"Patient": "x", "Doctor": "y", "messages": chat("user: a", "assistant: b")}, PAIR),
        ({"messages": chat("system: s", "user: a", "assistant: b")}, f"system: s | {PAIR}"),
    ],
)
def test_usual_layouts_are_recognised(row: Row, expected: str) -> None:
    """Without a word about columns; where a row has both, its messages win."""
    found, log = built([row])
    assert (found, log.notes) == ([expected], [])


def test_case_and_spaces_of_names_do_not_matter_but_are_noted() -> None:
    """A column spelled exactly as asked for comes before one that only looks like it."""
    found, log = built([{" patient": " a ", "DOCTOR ": "b"}])
    assert found == [PAIR]
    assert log.notes == ["column ' patient' read as Patient", "column 'DOCTOR ' read as Doctor"]
    found, log = built([{"Patient": "a", "patient": "x", "Doctor": "b"}])
    assert (found, log.notes) == ([PAIR], [])


def test_columns_by_name() -> None:
    """One named, its partner by its usual name; context below the question, empty parts left out."""
    row = {"frage": "a", "mehr": "c", "Doctor": "b", "antwort": "d"}
    assert built([row], patient="frage")[0] == [PAIR]
    assert built([row], patient="Frage", context="mehr", doctor="antwort")[0] == ["user: a\n\nc | assistant: d"]
    assert built([{**row, "mehr": None}], patient="frage", context="mehr")[0] == [PAIR]
    assert built([{"talk": chat("user: a", "assistant: b")}], messages="talk")[0] == [PAIR]


def test_rows_without_messages_fall_back_to_the_pair() -> None:
    """Null, an empty cell of a CSV or an empty list; without a pair there is nothing to fall back to."""
    for nothing in (None, "", "  ", "null", [], "[]"):
        assert built([{"Patient": "a", "Doctor": "b", "messages": nothing}])[0] == [PAIR]
        assert built([{"messages": nothing}])[1].rejected == {"empty message": 1}


@pytest.mark.parametrize("messages", ["free text", "7", '{"role": "user"}', "[" * 100_000, [1], ["hi"], [None]])
def test_messages_that_are_no_chat_are_rejected(messages: Any) -> None:
    """Not replaced by the pair: somebody meant something by them."""
    found, log = built([{"Patient": "a", "Doctor": "b", "messages": messages}])
    assert (found, log.rejected) == ([], {NOT_ALTERNATING: 1})


def test_a_turn_of_something_else_than_text_spoils_its_conversation() -> None:
    """A picture cannot be left out so that the answer to it follows another question; a null content says nothing."""
    turns = chat("user: a", "assistant: b", "user: c", "assistant: d")
    assert built([{"messages": [*turns[:2], {"role": "user", "content": [{"type": "image"}]}, turns[3]]}])[0] == []
    nothing = {"role": "assistant", "content": None}
    assert built([{"messages": [turns[0], nothing, *turns[1:]]}])[0] == [f"{PAIR} | user: c | assistant: d"]


def test_a_system_prompt_of_the_row() -> None:
    """Put in front, only where it is named and where there is none yet."""
    row = {"Patient": "a", "Doctor": "b", "system": "s"}
    assert built([row])[0] == [PAIR]
    assert built([row, {**row, "system": " "}], system="system")[0] == [f"system: s | {PAIR}", PAIR]
    turns = {"system": "s", "messages": chat("system: own", "user: a", "assistant: b")}
    assert built([turns], system="system")[0] == [f"system: own | {PAIR}"]


def test_groups() -> None:
    """An id of whatever type; none without a column, or where it is null."""
    log, rows = (
        ReadingLog(source="clinic"),
        [{"Patient": "a", "Doctor": "b", "visit": visit} for visit in (7, None, "x")],
    )
    for columns, groups in ((ColumnsConf(group="Visit"), ["7", "", "x"]), (ColumnsConf(), ["", "", ""])):
        entries = list(build_conversations(((f"row {i}", row) for i, row in enumerate(rows)), columns, log))
        assert [entry.group for entry in entries] == groups
        assert {entry.source for entry in entries} == {"clinic"}
        assert entries[1].conversation.id == "clinic: row 1"


def test_roles_under_other_names() -> None:
    """Our names overrule the usual ones, `*` stands for any ending, upper case does not matter."""
    turns = chat("Nurse: hello", "other:son: a", "doctor: c", "nurse: b")
    columns = {"roles": {"nurse": "assistant", "OTHER:*": "user"}}
    assert built([{"messages": turns}], **columns)[0] == ["user: a | assistant: c\nb"]
    turns = chat("assistant: a", "user: b")
    assert built([{"messages": turns}], roles={"assistant": "user", "user": "assistant"})[0] == [PAIR]


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        (["doctor: hello", "doctor: well?", "patient: a", "doctor: b"], PAIR),
        (["system: s", "doctor: hello", "patient: a", "doctor: b"], f"system: s | {PAIR}"),
        (["patient: a", "patient: c", "doctor: b", "doctor: d"], "user: a\nc | assistant: b\nd"),
        (["patient: a", "doctor: b", "patient: thanks", "patient: bye"], PAIR),
        (["patient: a", "doctor:  ", "patient: c", "doctor: b"], "user: a\nc | assistant: b"),
        (["patient: a", "doctor: b", "patient: c", "doctor: d"], f"{PAIR} | user: c | assistant: d"),
    ],
)
def test_a_visit_becomes_a_chat(turns: list[str], expected: str) -> None:
    """From the patient's first words to the doctor's last; turns in a row are joined, empty ones say nothing."""
    assert built([{"messages": chat(*turns)}])[0] == [expected]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"Patient": " ", "Doctor": "b"}, "empty message"),
        ({"Patient": "a", "Doctor": None}, "empty message"),
        ({"Patient": 7, "Doctor": "b"}, "empty message"),
        ({"Patient": "a", "Doctor": "b \ud83d"}, "half a character"),
        ({"messages": chat("user: a", "nurse: x", "assistant: b")}, "unknown role"),
        ({"messages": chat("user: a", "assistant: b", "nurse: x")}, "unknown role"),
        ({"messages": [{"content": "a"}]}, "unknown role"),
        ({"messages": chat("user: a", "system: s", "assistant: b")}, "system message after the start"),
        ({"messages": chat("user: a")}, NOT_ALTERNATING),
        ({"messages": chat("assistant: b")}, NOT_ALTERNATING),
        ({"messages": [{"role": "user"}, {"role": "assistant"}]}, NOT_ALTERNATING),
    ],
)
def test_what_is_no_conversation_is_counted_by_reason(row: Row, reason: str) -> None:
    """And listed by its place, never by its text."""
    good = {"Patient": "a", "Doctor": "b", "messages": None}
    found, log = built([good, {**dict.fromkeys(good), **row}, good])
    assert found == [PAIR, PAIR]
    assert log.places == {reason: ["row 1"]}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {},
            "data.columns: none of the usual names among ask, tell\n"
            "    fix: data.columns.patient=<column> data.columns.doctor=<column>, or data.columns.messages=<a column in chat "
            "format>",
        ),
        (
            {"patient": "question"},
            "data.columns.patient=question: no such column\n    allowed: ask, tell\n"
            "    fix: data.columns.patient=<one of them>, or data.columns.messages=<a column in chat format>",
        ),
        (
            {"patient": "ask"},
            "data.columns.doctor=Doctor: no such column\n    allowed: ask, tell\n"
            "    fix: data.columns.doctor=<one of them>, or data.columns.messages=<a column in chat format>",
        ),
        (
            {"patient": "ask", "doctor": "tell", "group": "visit"},
            "data.columns.group=visit: no such column\n    allowed: ask, tell\n    fix: data.columns.group=<one of them>",
        ),
        (
            {"messages": "typo"},
            "data.columns.messages=typo: no such column\n    allowed: ask, tell\n"
            "    fix: data.columns.messages=<one of them>",
        ),
    ],
)
def test_missing_columns_are_told_with_those_that_exist(columns: dict[str, str], message: str) -> None:
    """Word for word, before any row is read."""
    with pytest.raises(DataError) as caught:
        built([{"ask": "a", "tell": "b"}], **columns)
    assert str(caught.value) == message


def test_a_column_may_be_missing_from_some_rows() -> None:
    """Lines of JSON hold what they hold; the first ones together tell the columns."""
    found, log = built([{"Patient": "a"}, {"Patient": "a", "Doctor": "b"}])
    assert (found, log.rejected) == ([PAIR], {"empty message": 1})


def test_no_rows_are_no_conversations() -> None:
    """An empty stream has no columns to miss."""
    assert built([])[0] == []
