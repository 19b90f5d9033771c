"""Turns rows into conversations by the column names of the configuration, and counts what it has to reject."""

import json
from collections import Counter
from typing import Any

from medllm.config.data import ColumnsConf
from medllm.conversation import Conversation, Message
from medllm.errors import DataError

# Spellings of the roles in chat-format data sets (OpenAI, ShareGPT).
ROLE_NAMES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "patient": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "doctor": "assistant",
}


def build_conversations(rows: list[dict[str, Any]], columns: ColumnsConf) -> tuple[list[Conversation], Counter[str]]:
    """Conversations in the order of their rows, and how many rows were rejected for which reason.

    Raises:
        DataError: if a column is missing, or if no row is left.
    """
    if not rows:
        raise DataError("the data source has no rows")
    _check_columns(rows, columns)
    conversations, rejected = [], Counter[str]()
    for number, row in enumerate(rows):
        conversation = Conversation(_messages(row, columns), f"row {number}")
        if conversation.fault:
            rejected[conversation.fault] += 1
        else:
            conversations.append(conversation)
    if not conversations:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in rejected.most_common())
        raise DataError(f"none of the {len(rows)} rows is a conversation ({reasons})")
    return conversations, rejected


def _messages(row: dict[str, Any], columns: ColumnsConf) -> tuple[Message, ...]:
    turns = row.get(columns.messages) if columns.messages else None
    if isinstance(turns, str):  # as a CSV holds it
        try:
            turns = json.loads(turns)
        except json.JSONDecodeError:
            return ()
    if isinstance(turns, list | tuple) or hasattr(turns, "tolist"):
        return tuple(_message(turn) for turn in turns)  # type: ignore[union-attr]
    return (Message("user", _text(row.get(columns.patient))), Message("assistant", _text(row.get(columns.doctor))))


def _message(turn: Any) -> Message:
    turn = turn if isinstance(turn, dict) else {}
    role = str(turn.get("role", turn.get("from", "")))
    return Message(ROLE_NAMES.get(role.lower(), role), _text(turn.get("content", turn.get("value"))))


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def _check_columns(rows: list[dict[str, Any]], columns: ColumnsConf) -> None:
    present = list(rows[0])
    if columns.messages and columns.messages not in present:
        raise DataError(
            f"data.columns.messages={columns.messages}: no such column\n    allowed: {', '.join(present)}\n"
            "    fix: name one of them, or leave the key out for the columns Patient and Doctor"
        )
    if columns.messages:
        return
    for key, name in (("patient", columns.patient), ("doctor", columns.doctor)):
        if name not in present:
            raise DataError(
                f"data.columns.{key}={name}: no such column\n    allowed: {', '.join(present)}\n"
                f"    fix: data.columns.{key}=<one of them>, or data.columns.messages=<a column in chat format>"
            )
