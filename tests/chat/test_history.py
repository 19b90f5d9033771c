"""What was said, cut by whole turns, saved and loaded."""

import json
import stat
from pathlib import Path

import pytest

from medllm.chat.history import History, fitting
from medllm.config.compose import load_run_conf
from medllm.conversation import Conversation, Message, Renderer
from medllm.errors import ChatError
from medllm.models.base import build_tokenizer


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    """Of the tiny tokenizer."""
    return Renderer(
        build_tokenizer(load_run_conf(["model=tiny_random", "quantization=none"]).model).tokenizer, "Be kind."
    )


def turns(number: int) -> list[Message]:
    """Questions and answers in turn, the last one a question."""
    roles = ("user", "assistant")
    return [Message(roles[i % 2], f"turn {i} " + "word " * 10) for i in range(2 * number - 1)]


def test_old_turns_leave_whole_and_in_pairs(renderer: Renderer) -> None:
    """What is kept fits, one turn more would not, and the system message stays."""
    whole = Conversation((Message("system", "Be brief."), *turns(6)))
    length = len(renderer.render_prompt(whole))
    assert fitting(whole, renderer, length) == (whole, 0)
    for room in range(len(renderer.render_prompt(Conversation((whole.messages[0], whole.messages[-1])))), length):
        kept, left_out = fitting(whole, renderer, room)
        assert len(renderer.render_prompt(kept)) <= room
        assert kept.messages == (whole.messages[0], *whole.messages[1 + 2 * left_out :])
        more = Conversation((whole.messages[0], *whole.messages[1 + 2 * (left_out - 1) :]))
        assert len(renderer.render_prompt(more)) > room


def test_a_message_that_does_not_fit_is_refused(renderer: Renderer) -> None:
    """With both lengths and what to do."""
    with pytest.raises(
        ChatError, match=r"the message has \d+ tokens .* reads 10 in front(.|\n)*fix: a shorter message"
    ):
        fitting(Conversation(tuple(turns(2))), renderer, 10)


def test_undo_takes_question_and_answer() -> None:
    """Also where the answer is missing; on nothing it says so."""
    history = History(messages=turns(2))
    assert history.undo() and history.messages == turns(2)[:2]
    assert history.undo() and history.messages == []
    assert not history.undo()


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    """To the letter, for its owner's eyes only, and never over another file."""
    history = History("Sei kurz. ÄÖ", turns(3)[:4])
    path = tmp_path / "chat.json"
    history.save(path, "abc")
    assert History.load(path) == history
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ChatError, match="is there already"):
        History().save(path, "abc")
    assert History.load(path) == history
    with pytest.raises(ChatError, match="cannot be written: No such file"):
        history.save(tmp_path / "none" / "chat.json", "abc")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "format is not 1"),
        ('{"format": 1, "messages": 3, "system": null}', "missing"),
        ('{"format": 1, "messages": [{"role": "user"}], "system": null}', "without role or content"),
        ('{"format": 1, "messages": [{"role": "user", "content": "a"}], "system": null}', "do not alternate"),
        ('{"format": 1, "messages": [{"role": "nurse", "content": "a"}], "system": null}', "unknown role"),
    ],
)
def test_other_files_are_no_chats(text: str, problem: str, tmp_path: Path) -> None:
    """Each with its reason."""
    path = tmp_path / "chat.json"
    path.write_text(text)
    with pytest.raises(ChatError, match=problem):
        History.load(path)
    with pytest.raises(ChatError, match="cannot be read"):
        History.load(tmp_path / "none.json")


def test_a_chat_without_a_system_prompt_need_not_say_so(tmp_path: Path) -> None:
    """A missing key is none."""
    path = tmp_path / "chat.json"
    path.write_text('{"format": 1, "messages": []}')
    assert History.load(path) == History()


def test_a_saved_chat_names_who_answered(tmp_path: Path) -> None:
    """By the hash of the artifact's manifest."""
    History().save(tmp_path / "chat.json", "abc")
    assert json.loads((tmp_path / "chat.json").read_text())["artifact"] == "abc"
