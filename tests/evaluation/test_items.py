"""Outcomes on disk: an interruption loses nothing, and nothing is mixed."""

import json
import math
from pathlib import Path

import pytest

from medllm.conversation import Conversation, Message
from medllm.errors import FolderError, NonFiniteError
from medllm.evaluation.items import IDENTITY, ITEMS, Journal, draw_items, identity
from medllm.evaluation.suite import Item, Outcome, Side
from tests.evaluation.made import MadeSuite


def item(name: str, text: str = "Why?") -> Item:
    """A question."""
    return Item(name, Conversation((Message("user", text),)))


def outcome(value: float = 1.0) -> Outcome:
    """With one metric."""
    return Outcome({"made/rate": (value, 1.0)}, {"answer": "\u00e4\n\u2028x"})


def test_what_was_written_is_known_again(tmp_path: Path) -> None:
    """Line by line, texts and numbers as they were; a second side is apart."""
    journal = Journal.open(tmp_path, {"made": "1"})
    journal.add("made", Side.base, item("a"), outcome())
    journal.add("made", Side.tuned, item("a"), outcome(0.0))
    again = Journal.open(tmp_path, {"made": "1"})
    assert again.known == {("made", Side.base): {"a": outcome()}, ("made", Side.tuned): {"a": outcome(0.0)}}
    (line, _) = [json.loads(text) for text in (tmp_path / ITEMS).read_text("utf-8").split("\n") if text]
    assert set(line) == {"suite", "side", "id", "values", "details", "prompt"}
    assert (line["values"], line["prompt"]) == ({"made/rate": [1.0, 1.0]}, "Why?")


def test_a_line_that_was_cut_off_is_asked_again(tmp_path: Path) -> None:
    """The lines before it stay, and the next one begins on a line of its own."""
    journal = Journal.open(tmp_path, {"made": "1"})
    for name in ("a", "b"):
        journal.add("made", Side.base, item(name), outcome())
    text = (tmp_path / ITEMS).read_bytes()
    (tmp_path / ITEMS).write_bytes(text[:-9])
    again = Journal.open(tmp_path, {"made": "1"})
    assert list(again.of("made", Side.base)) == ["a"]
    again.add("made", Side.base, item("b"), outcome())
    assert (tmp_path / ITEMS).read_bytes() == text


WHOLE = {"suite": "made", "side": "base", "id": "a", "values": {"made/rate": [1, 1]}, "details": {}}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (IDENTITY, "{"),
        (IDENTITY, "[1]"),
        (ITEMS, "[1]"),
        (ITEMS, "[" * 100_000),
        *((ITEMS, json.dumps({**WHOLE, key: None})) for key in WHOLE),
        (ITEMS, json.dumps({**WHOLE, "values": {"made/rate": [1]}})),
    ],
)
def test_a_damaged_file_is_told(tmp_path: Path, file: str, text: str) -> None:
    """By its name, with the remedy; nothing is changed."""
    Journal.open(tmp_path, {"made": "1"}).add("made", Side.base, item("a"), outcome())
    (tmp_path / file).write_text(text + "\n")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FolderError, match=rf"{tmp_path / file} is damaged(.|\n)*fix: move that file away"):
        Journal.open(tmp_path, {"made": "1"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_another_identity_starts_anew_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the suite that changed; the lines of suites that are not asked for now stay."""
    journal = Journal.open(tmp_path, {"made": "1", "other": "1"})
    for suite in ("made", "other"):
        journal.add(suite, Side.base, item("a"), outcome())
    again = Journal.open(tmp_path, {"made": "2"})
    assert again.of("made", Side.base) == {}
    assert capsys.readouterr().err.count("made: asked before about another artifact") == 1
    third = Journal.open(tmp_path, {"other": "1"})
    assert list(third.of("other", Side.base)) == ["a"]
    assert capsys.readouterr().err == ""


def test_what_an_identity_is_made_of() -> None:
    """Settings, items, their texts and fields; the order of keys is none."""
    suite = MadeSuite()
    first = identity(suite, [item("a")], {"x": 1, "y": 2})
    assert first == identity(suite, [item("a")], {"y": 2, "x": 1})
    changed = [
        identity(suite, [item("a")], {"x": 2, "y": 2}),
        identity(suite, [item("a"), item("b")], {"x": 1, "y": 2}),
        identity(suite, [item("a", "How?")], {"x": 1, "y": 2}),
        identity(suite, [Item("a", item("a").conversation, {"reference": "r"})], {"x": 1, "y": 2}),
    ]
    assert len({first, *changed}) == 5


def test_a_value_that_is_no_number_is_refused(tmp_path: Path) -> None:
    """A damaged model has no figure, not a figure of NaN; nothing is written."""
    journal = Journal.open(tmp_path, {"made": "1"})
    with pytest.raises(NonFiniteError, match="a: made/rate of the tuned model"):
        journal.add("made", Side.tuned, item("a"), outcome(math.nan))
    assert (tmp_path / ITEMS).read_text() == ""


def test_a_larger_limit_holds_a_smaller_ones_items() -> None:
    """Drawn by id and kept in order, whatever their order; null takes all."""
    items = [item(str(i)) for i in range(50)]
    few, more = draw_items(items, 5), draw_items(items, 20)
    assert [i for i in more if i in few] == few
    assert [i for i in items if i in more] == more
    assert {i.id for i in draw_items(items[::-1], 5)} == {i.id for i in few}
    assert few != items[:5]
    assert draw_items(items, None) == draw_items(items, 99) == items
