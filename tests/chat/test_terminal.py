"""The chat as it is typed: commands, guard, comparison, interruption."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medllm.chat.speaker import Speaker
from medllm.chat.terminal import Terminal, answering
from medllm.config.chat import ChatConf
from medllm.config.compose import load_conf
from medllm.console import harmless, plain_console
from medllm.conversation import Conversation, Message
from medllm.inference.generate import generate
from medllm.inference.load import LoadedArtifact, open_artifact
from tests.conftest import ROOT


def conf_of(run: Path, *overrides: str) -> ChatConf:
    """A model of random weights repeats one token that is no text, unless it may not."""
    own = [f"artifact={run}", "use_cpu=true", "tracking=none", "generation.repetition_penalty=5"]
    return load_conf(ChatConf, [*own, *overrides])


class Typed:
    """A terminal whose user types these lines."""

    def __init__(self, conf: ChatConf, speaker: Speaker):
        self.conf, self.speaker = conf, speaker
        self.screen = io.StringIO()
        self.lines: list[str] = []
        self.terminal = Terminal(
            self.speaker,
            plain_console(file=self.screen, width=200),
            self.read,
            compare=self.conf.compare,
            status=answering(self.speaker.loaded.artifact),
        )

    def read(self) -> str:
        """The next line."""
        if not self.lines:
            raise EOFError
        return self.lines.pop(0)

    def type(self, *lines: str) -> str:
        """What was shown for these."""
        self.lines += lines
        start = len(self.screen.getvalue())
        self.terminal.run(self.conf.filled_notice)
        return self.screen.getvalue()[start:]

    @property
    def said(self) -> list[tuple[str, str]]:
        """The conversation so far."""
        return [(message.role, message.content) for message in self.terminal.history.messages]


@pytest.fixture(scope="module")
def loaded(trained: Path) -> LoadedArtifact:
    """The artifact, once."""
    return open_artifact(trained, use_cpu=True)


def typed(run: Path, loaded: LoadedArtifact, *overrides: str) -> Typed:
    """A chat with it."""
    conf = conf_of(run, "generation.max_new_tokens=6", *overrides)
    return Typed(conf, Speaker(conf, loaded))


@pytest.fixture
def chat(trained: Path, loaded: LoadedArtifact) -> Iterator[Typed]:
    """With the rules of the guard."""
    chat = typed(trained, loaded, "guard=rules_only", "guard.emergency_number=112")
    yield chat
    chat.speaker.close()


def test_the_notice_comes_first_and_says_unreviewed(chat: Typed) -> None:
    """Before anything is typed."""
    shown = chat.type()
    assert shown.startswith("You are writing with a computer program, not with a doctor")
    assert "call 112" in shown.splitlines()[0] + shown.splitlines()[1]
    assert "UNREVIEWED" in shown


def test_answers_are_those_of_generate(chat: Typed, loaded: LoadedArtifact) -> None:
    """What is streamed is what is kept, and the tuned model's greedy answer, in every turn."""
    shown = chat.type("I have a cough.", "And now?")
    (_, first), (_, answer), (_, second), (_, last) = chat.said
    assert (first, second) == ("I have a cough.", "And now?")
    with loaded.model(tuned=True) as model:
        asked = [Conversation((Message("user", first),)), Conversation(tuple(chat.terminal.history.messages[:3]))]
        expected = [generate(model, loaded.renderer, [c], chat.speaker.generation)[0].text for c in asked]
    assert [answer, last] == expected
    assert harmless(answer) in shown and harmless(last) in shown
    assert not model.training and next(iter(model.parameters())).grad is None


def test_undo_reset_retry(chat: Typed) -> None:
    """Each does what it says; retry draws by chance where the same would come."""
    chat.type("one", "two", "/undo")
    assert [content for role, content in chat.said if role == "user"] == ["one"]
    assert "words are drawn by chance" in chat.type("/retry")
    assert [content for role, content in chat.said if role == "user"] == ["one"]
    chat.type("/reset")
    assert chat.said == []
    assert "nothing to answer again" in chat.type("/retry")
    assert "nothing to take back" in chat.type("/undo")


def test_the_system_prompt_can_be_set(chat: Typed) -> None:
    """It stands in front of the conversation, and goes back to the artifact's."""
    assert "Answer in verse." in chat.type("/system Answer in verse.")
    assert chat.terminal.history.conversation.messages[0] == Message("system", "Answer in verse.")
    chat.type("/system default")
    assert chat.terminal.history.conversation.messages == ()


def test_saved_and_loaded(chat: Typed, tmp_path: Path) -> None:
    """Across a reset."""
    chat.type("one", f"/save {tmp_path}/chat.json")
    said = chat.said
    chat.type("/reset", f"/load {tmp_path}/chat.json")
    assert chat.said == said and len(said) == 2
    assert "is there already" in chat.type(f"/save {tmp_path}/chat.json")
    assert "needs the name of a file" in chat.type("/save")


def test_texts_of_others_are_shown_as_they_stand(chat: Typed, tmp_path: Path) -> None:
    """Words between colons stay words, and nothing in a loaded chat or an answer acts on the terminal."""
    said = "take :pill: at [bold]8:00[/bold] \x1b]0;owned\x07 \u202egnp.exe \u06cc\u200c end"
    chat.terminal.history.messages[:] = [Message("user", said), Message("assistant", said)]
    chat.type(f"/save {tmp_path / 'chat.json'}")
    shown = chat.type(f"/load {tmp_path / 'chat.json'}")
    kept = "take :pill: at [bold]8:00[/bold] ⟨U+001B⟩]0;owned⟨U+0007⟩ ⟨U+202E⟩gnp.exe \u06cc\u200c end"
    assert shown.count(kept) == 2 and "\x1b" not in shown
    chat.terminal._write(said)
    assert chat.screen.getvalue().endswith(kept)


def test_unknown_commands_are_refused(chat: Typed) -> None:
    """And never sent to the model."""
    assert "/undoo: no such command" in chat.type("/undoo")
    assert chat.said == []


def test_an_emergency_is_answered_by_the_guard_first(chat: Typed) -> None:
    """Before the first token; over the whole conversation, and shorter where nothing new is said."""
    shown = chat.type("I have crushing chest pain and I am sweating.", "What else can I do?")
    assert "This may be an emergency. Call 112 now" in shown
    assert "What I wrote above still holds" in shown
    assert "I am a computer program and can be wrong" in shown
    assert all("112" not in content for _, content in chat.said)  # the guard's words are no turn of the conversation


def test_base_and_tuned_side_by_side(trained: Path, loaded: LoadedArtifact) -> None:
    """One model in memory; the base's answer is that of the adapter switched off, and the tuned one is kept."""
    chat = typed(trained, loaded, "guard=none", "compare=true")
    shown = chat.type("I have a cough.")
    asked = [Conversation((Message("user", "I have a cough."),))]
    answers = {}
    for tuned in (False, True):
        with loaded.model(tuned=tuned) as model:
            answers[tuned] = generate(model, loaded.renderer, asked, chat.speaker.generation)[0].text
    assert answers[False] != answers[True]
    base, tuned = harmless(answers[False]), harmless(answers[True])
    assert shown.index("\nbase\n") < shown.index(base) < shown.index("\ntuned\n") < shown.rindex(tuned)
    assert chat.said[1] == ("assistant", answers[True])
    assert len(loaded._kept) == 1
    chat.type("/compare", "/undo", "I have a cough.")
    assert chat.said[1] == ("assistant", answers[True])


def test_ctrl_c_stops_the_answer_and_not_the_chat(chat: Typed) -> None:
    """What was written until then stays in the conversation; the next message is answered."""
    write, pieces = chat.terminal._write, []

    def interrupted(text: str) -> None:
        if not pieces:
            os.kill(os.getpid(), signal.SIGINT)
        pieces.append(text)
        write(text)

    chat.terminal._write = interrupted  # type: ignore[method-assign]
    chat.speaker.generation.max_new_tokens = 160
    shown = chat.type("one")
    assert "stopped" in shown
    assert chat.said[0] == ("user", "one") and 0 < len(chat.said[1][1].split()) < 80
    chat.terminal._write = write  # type: ignore[method-assign]
    chat.speaker.generation.max_new_tokens = 6
    chat.type("two")
    assert chat.said[-2] == ("user", "two")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_long_conversations_are_cut_with_a_notice(chat: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole turns leave the model's view, and nothing leaves the history; what is too long by itself is refused."""
    monkeypatch.setattr(chat.speaker, "context", 140)
    shown = chat.type(*[f"message {i} of some length" for i in range(6)])
    assert "the model no longer reads the oldest 1 of these turns" in shown
    assert len(chat.said) == 12
    shown = chat.type("word " * 200)
    assert "the model reads 134 in front of an answer" in shown
    assert len(chat.said) == 12


def test_the_model_gives_its_opinion_of_what_does_not_fit(
    trained: Path, loaded: LoadedArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard asks about the end of a long conversation, instead of failing."""
    chat = typed(trained, loaded)
    monkeypatch.setattr(chat.speaker, "context", 160)
    (verdict,) = chat.speaker.screen([Conversation((Message("user", "my head hurts " * 200),))])
    assert verdict.opinion is not None


def test_the_artifacts_defaults_count(trained: Path, loaded: LoadedArtifact) -> None:
    """But for what is typed."""
    conf = load_conf(
        ChatConf, [f"artifact={trained}", "generation.temperature=0.3", "generation.system_prompt=Be brief."]
    )
    own = loaded.artifact.conf.generation
    expected = replace(own, temperature=0.3, system_prompt="Be brief.")
    assert Speaker(conf, loaded).generation == expected


@pytest.mark.slow
def test_from_the_command_line(run: Path, tmp_path: Path) -> None:
    """Piped lines, an unrelated folder; and what is wrong is told without a traceback."""

    def script(*arguments: str, lines: str = "") -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(ROOT / "scripts" / "chat.py"), *arguments]
        return subprocess.run(command, input=lines, capture_output=True, text=True, timeout=200, cwd=tmp_path)

    own = ("artifact=run", "use_cpu=true", "tracking=none", "generation.repetition_penalty=5")
    done = script(*own, lines="I have a cough.\n/undo\n/quit\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("You are writing with a computer program") and "taken back" in done.stdout
    for arguments, expected in (
        ([], "artifact: needs a value"),
        (["artifact=none"], "artifact=none: names no folder and no run record"),
        (["artifact=run", "generation.temperatur=1"], "did you mean generation.temperature?"),
        (["artifact=run", "generation.top_p=2"], "generation.top_p=2.0: is out of range"),
    ):
        wrong = script(*arguments)
        assert wrong.returncode == 2 and expected in wrong.stderr and "Traceback" not in wrong.stderr


def test_nothing_is_written_unasked(chat: Typed, trained: Path) -> None:
    """No file of the run changes, and none comes."""

    def files() -> dict[str, Any]:
        return {str(path): path.stat().st_mtime_ns for path in trained.rglob("*")}

    before = files()
    chat.type("I have a cough.")
    assert files() == before


def test_half_a_character_ends_no_chat(chat: Typed) -> None:
    """As a pipe of another encoding brings it."""
    shown = chat.type("bad \udcff byte", "I cough")
    assert "no conversation that a model can read: half a character" in shown
    assert [message.content for message in chat.terminal.history.messages][::2] == ["I cough"]
