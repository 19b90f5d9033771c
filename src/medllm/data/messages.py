"""Turns rows into conversations by the names of their columns, and rejects what is none."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from medllm.config.data import ColumnsConf
from medllm.conversation import Conversation, Message
from medllm.data.sources.log import ReadingLog
from medllm.data.sources.read import columns_of
from medllm.data.sources.tables import Row, Rows
from medllm.errors import DataError

# Who speaks in chat-format data sets (OpenAI, ShareGPT) and in transcribed visits.
ROLE_NAMES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "patient": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "doctor": "assistant",
}

# Longer than any column's.
LONGEST_NAME = 40

# Columns by their usual names, the first ones found: the reference data set, the instruction format, pairs.
PAIRS = (
    ColumnsConf(patient="Patient", doctor="Doctor"),
    ColumnsConf(patient="instruction", context="input", doctor="output"),
    ColumnsConf(patient="instruction", doctor="output"),
    ColumnsConf(patient="instruction", doctor="response"),
    ColumnsConf(patient="question", doctor="answer"),
    ColumnsConf(patient="prompt", doctor="completion"),
    ColumnsConf(patient="prompt", doctor="response"),
    ColumnsConf(patient="input", doctor="output"),
)
CHATS = tuple(ColumnsConf(messages=name) for name in ("messages", "conversations", "conversation"))
NAMES = ("patient", "context", "doctor", "messages", "system", "group")


@dataclass(frozen=True)
class Entry:
    """A conversation, the name of its source in a mix, and the id of the patient or visit it belongs to; empty without."""

    conversation: Conversation
    source: str = ""
    group: str = ""


def build_conversations(rows: Rows, columns: ColumnsConf, log: ReadingLog) -> Iterator[Entry]:
    """A stream of conversations from a stream of rows; what is none is rejected in `log`.

    Raises:
        DataError: if a column is missing.
    """
    present, rows = columns_of(rows)
    if not present:
        return
    found = match_columns(columns, present, log)
    for place, row in rows:
        log.rows[log.source] += 1
        place = f"{log.source}: {place}" if log.source else place
        conversation = Conversation(_messages(row, found), place)
        if conversation.fault:
            log.reject(conversation.fault, place)
        else:
            group = row.get(found.group) if found.group else None
            yield Entry(conversation, log.source, "" if group is None else str(group))


def match_columns(columns: ColumnsConf, present: list[str], log: ReadingLog) -> ColumnsConf:
    """The columns to read, spelled as the source spells them: the ones named, else those with the usual names.

    Raises:
        DataError: if one is missing, or none was named and none is known.
    """
    spelled = {name.strip().lower(): name for name in present}
    given = {name: getattr(columns, name) for name in NAMES if getattr(columns, name)}
    if given.keys() & {"patient", "doctor"}:
        given = {"patient": "Patient", "doctor": "Doctor", **given}
    elif "messages" in given:
        given = {**_usual(PAIRS, spelled), **given}
    else:
        given = {**_usual(PAIRS, spelled), **_usual(CHATS, spelled), **given}
        if not given.keys() & {"patient", "messages"}:
            raise DataError(
                f"data.columns: none of the usual names among {_told(present)}\n"
                "    fix: data.columns.patient=<column> data.columns.doctor=<column>, or data.columns.messages=<a column in "
                "chat format>"
            )
    for name, value in given.items():
        if value.strip().lower() not in spelled:
            raise DataError(
                f"data.columns.{name}={value}: no such column\n    allowed: {_told(present)}\n"
                f"    fix: data.columns.{name}=<one of them>"
                + (", or data.columns.messages=<a column in chat format>" if name in ("patient", "doctor") else "")
            )
        given[name] = value if value in present else spelled[value.strip().lower()]
        if given[name] != value:
            log.note(f"column {given[name]!r} read as {value}")
    return ColumnsConf(**dict.fromkeys(NAMES) | given, roles=columns.roles)


def _told(present: list[str]) -> str:
    """Names of columns; of what is rather the first row of a file without a header, a patient's words, only its length."""
    named = [name if len(name) <= LONGEST_NAME else f"a text of {len(name)} characters" for name in present]
    return ", ".join(named) + ("" if named == present else " (does the first line name the columns?)")


def _usual(layouts: tuple[ColumnsConf, ...], spelled: dict[str, str]) -> dict[str, str]:
    for layout in layouts:
        wanted = {name: getattr(layout, name) for name in NAMES if getattr(layout, name)}
        if all(name.lower() in spelled for name in wanted.values()):
            return wanted
    return {}


def _messages(row: Row, columns: ColumnsConf) -> tuple[Message, ...]:
    turns = row.get(columns.messages) if columns.messages else None
    if isinstance(turns, str):  # as a CSV holds it
        try:
            turns = json.loads(turns) if turns.strip() else None
        except (ValueError, RecursionError):
            return ()
    if turns:
        if not isinstance(turns, list | tuple) or not all(map(_is_turn, turns)):
            return ()
        spoken = _regular([_message(turn, columns.roles) for turn in turns])
    else:
        question = [_text(row.get(name)) for name in (columns.patient, columns.context) if name]
        answer = _text(row.get(columns.doctor)) if columns.doctor else ""
        spoken = [Message("user", "\n\n".join(filter(None, question))), Message("assistant", answer)]
    system = _text(row.get(columns.system)) if columns.system else ""
    if system and not (spoken and spoken[0].role == "system"):
        spoken.insert(0, Message("system", system))
    return tuple(spoken)


def _regular(messages: list[Message]) -> list[Message]:
    """A visit as a chat: from the patient's first words to the doctor's last, turns of one speaker in a row joined.

    What a doctor says before the patient is a greeting nobody asked for, and a patient's last words have no answer; empty
    turns say nothing.
    """
    regular: list[Message] = []
    for message in messages:
        if not message.content and message.role != "system":
            continue
        if regular and regular[-1].role == message.role:
            regular[-1] = Message(message.role, f"{regular[-1].content}\n{message.content}")
        elif message.role != "assistant" or any(m.role == "user" for m in regular):
            regular.append(message)
    while regular and regular[-1].role == "user":
        regular.pop()
    return regular


def _is_turn(turn: Any) -> bool:
    """Whether its content is text or nothing; turns of parts or pictures cannot be left out of a dialogue silently."""
    return isinstance(turn, dict) and isinstance(turn.get("content", turn.get("value")), str | None)


def _message(turn: dict[str, Any], roles: dict[str, str]) -> Message:
    role = str(turn.get("role", turn.get("from", "")))
    known = next((to for pattern, to in roles.items() if fnmatchcase(role.lower(), pattern.lower())), None)
    return Message(known or ROLE_NAMES.get(role.lower(), role), _text(turn.get("content", turn.get("value"))))


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""
