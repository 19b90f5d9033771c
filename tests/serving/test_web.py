"""What people do on the page, without a browser: the handlers behind it, on a real batcher; and the page as it is served."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("gradio")

import gradio as gr

from medllm.errors import ConfigError
from medllm.inference.generate import ask, generate
from medllm.serving.batcher import Batcher
from medllm.serving.server import check_door
from medllm.serving.web import Page, Session
from tests.serving.conftest import Served, conf_of, speaking

CHEST = "I have crushing chest pain and I cannot breathe"


class Visitor:
    """Somebody at an open page."""

    def __init__(self, page: Page):
        self.page, self.session, self.system = page, Session(), ""
        self.shown: list[Any] = []

    def does(self, handler: Any, *arguments: Any, compare: bool = False) -> Any:
        """Everything that is shown for it, the last state returned: box, tuned, base, banner."""

        async def watch() -> None:
            async for shown in handler(*arguments, self.session, compare, self.system):
                self.shown.append(shown)

        self.shown.clear()
        asyncio.run(watch())
        return self.view()

    def asks(self, text: str, *, compare: bool = False) -> Any:
        """Writes and sends."""
        return self.does(self.page._ask, text, compare=compare)

    def retries(self, index: int) -> Any:
        """The arrows at a question."""

        async def handler(*rest: Any) -> Any:
            async for shown in self.page._retry(*rest, SimpleNamespace(index=index)):
                yield shown

        return self.does(handler)

    def edits(self, index: int, text: str) -> Any:
        """The pencil."""

        async def handler(*rest: Any) -> Any:
            async for shown in self.page._edit(*rest, SimpleNamespace(index=index, value=text)):
                yield shown

        return self.does(handler)

    def view(self) -> Any:
        """The newest of what was shown."""
        box, _, tuned, base, banner = self.shown[-1]
        parts = [{**message, "content": message["content"][0]["text"]} for message in base.value]  # gradio's own form
        return box, tuned, parts, banner


@pytest.fixture
def visit(trained: Path) -> Iterator[Callable[..., Visitor]]:
    """Opens a page."""
    import contextlib

    with contextlib.ExitStack() as stack:

        def open_page(*overrides: str) -> Visitor:
            conf = conf_of(trained, "generation.max_new_tokens=8", *overrides)
            speaker = stack.enter_context(speaking(conf, trained / "artifact"))
            serving = Batcher(speaker, conf.max_batch, conf.max_queue)
            stack.callback(serving.close)
            return Visitor(Page(conf, serving))

        yield open_page


@pytest.fixture(autouse=True)
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What pops up, which outside of a page has nowhere to go."""
    found: list[str] = []
    monkeypatch.setattr(gr, "Warning", found.append)
    monkeypatch.setattr(gr, "Info", found.append)
    return found


def test_an_answer_comes_in_pieces_and_is_the_models(visit: Callable[..., Visitor]) -> None:
    """As `generate` alone says it; a second question goes on with it."""
    visitor = visit("guard=none", 'generation.system_prompt=""')
    speaker = visitor.page._serving.speaker
    with speaker.side(tuned=True) as model:
        (expected,) = generate(model, speaker.renderer, [ask("I cough")], speaker.generation)
    box, tuned, _, banner = visitor.asks("  I cough ")
    assert tuned == [{"role": "user", "content": "I cough"}, {"role": "assistant", "content": expected.text}]
    assert box == "" and banner.visible is False
    texts = [shown[2][-1]["content"] for shown in visitor.shown]
    assert len(set(texts)) > 2 and all(expected.text.startswith(text) for text in texts if text != "I cough")
    _, tuned, _, _ = visitor.asks("and now?")
    assert [message["role"] for message in tuned] == ["user", "assistant"] * 2
    assert visitor.asks(" ")[1] == tuned  # nothing to ask


def test_an_emergency_is_seen_before_the_answer(visit: Callable[..., Visitor]) -> None:
    """The banner stands as long as its turn is the newest; markup that somebody writes is words."""
    visitor = visit("guard=rules_only", "guard.emergency_number='<b>112</b>'")
    _, tuned, _, banner = visitor.asks(CHEST)
    first = visitor.shown[0]
    assert first[4].visible is True and "This may be an emergency. Call &lt;b&gt;112&lt;/b&gt; now" in first[4].value
    assert tuned[-1]["content"].startswith("This may be an emergency. Call <b>112</b> now")
    assert tuned[-1]["content"].endswith("this does not replace a doctor who knows you.")
    assert 'role="alert"' in banner.value
    _, session, tuned, base, banner = visitor.page._fresh(visitor.session)
    assert (session.turns, tuned, base, banner.visible) == ([], [], [], False)


def test_base_beside_tuned(visit: Callable[..., Visitor]) -> None:
    """Each answers as itself; the conversation goes on with the tuned answer."""
    visitor = visit("guard=none", 'generation.system_prompt=""')
    speaker = visitor.page._serving.speaker
    _, tuned, base, _ = visitor.asks("I cough", compare=True)
    for side, shown in ((True, tuned), (False, base)):
        with speaker.side(tuned=side) as model:
            (expected,) = generate(model, speaker.renderer, [ask("I cough")], speaker.generation)
        assert shown[-1]["content"] == expected.text
    assert tuned != base
    alone = visit("guard=none", "compare=false").asks("I cough", compare=True)
    assert [message["role"] for message in alone[2]] == ["user"]


def test_retry_edit_and_undo(visit: Callable[..., Visitor]) -> None:
    """A retry is drawn by chance where the likeliest words would come again; both forget what came after."""
    visitor = visit("guard=none")
    visitor.asks("I cough")
    first = visitor.asks("Since Monday")[1]
    drawn = {visitor.retries(2)[1][-1]["content"] for _ in range(4)}
    assert len(drawn | {first[-1]["content"]}) > 2
    _, tuned, _, _ = visitor.edits(0, "My head hurts")
    assert [m["content"] for m in tuned if m["role"] == "user"] == ["My head hurts"]
    assert visitor.edits(5, "out of range")[1] == tuned
    text, _, tuned, _, _ = visitor.page._undo(visitor.session)
    assert (text, tuned) == ("My head hurts", [])


def test_stop_keeps_what_is_there(visit: Callable[..., Visitor]) -> None:
    """The answer ends within a token, guarded; nothing is under way afterwards."""
    visitor = visit("guard=rules_only", "generation.max_new_tokens=200", "max_tokens=200")

    async def stopped() -> int:
        pieces = 0
        async for _ in visitor.page._ask("I cough", visitor.session, False, ""):
            pieces += 1
            if pieces == 4:
                from medllm.serving.web import _stop

                _stop(visitor.session)
        return pieces

    assert asyncio.run(stopped()) < 60
    (turn,) = visitor.session.turns
    assert turn.tuned.endswith("this does not replace a doctor who knows you.")
    assert visitor.session.asked == []


def test_a_full_server_says_so_and_gives_the_question_back(visit: Callable[..., Visitor], said: list[str]) -> None:
    """Nothing is lost."""
    visitor = visit("guard=none", "timeout_seconds=0.001")
    box, tuned, _, _ = visitor.asks("I cough")
    assert (box, tuned) == ("I cough", [])
    assert "Nothing was answered." in said


def test_feedback_is_recorded_only_where_it_is_switched_on(
    visit: Callable[..., Visitor], tmp_path: Path, database: Path, said: list[str]
) -> None:
    """Thumb and comment at one trace of the shown conversation; without the switch there is nobody to record."""
    off = visit("guard=none")
    assert off.page._feedback is None
    store = [f"tracking.tracking_uri=sqlite:///{database}", f"tracking.artifact_location={tmp_path}/mlruns"]
    visitor = visit("guard=rules_only", "feedback=true", "tracking=mlflow", *store)
    visitor.asks("I cough")
    visitor.asks(CHEST)
    asyncio.run(visitor.page._like(visitor.session, SimpleNamespace(index=3, liked=False)))
    assert asyncio.run(visitor.page._comment(" too vague ", visitor.session)) == ""
    assert asyncio.run(visitor.page._comment("  ", visitor.session)) == "  "
    import mlflow

    experiment = mlflow.get_experiment_by_name("medllm-feedback")
    (trace,) = mlflow.search_traces(locations=[experiment.experiment_id], return_type="list")
    assert {a.name: a.value for a in trace.info.assessments} == {"helpful": False, "comment": "too vague"}
    asked = json.loads(trace.data.request)["messages"]
    assert [message["content"] for message in asked] == ["I cough", visitor.session.turns[0].tuned, CHEST]
    assert trace.info.tags["guard.urgency"] == "D" and len(trace.info.tags["artifact.manifest_sha256"]) == 64
    assert said.count("Recorded. Thank you.") == 2


def test_feedback_needs_a_store(trained: Path) -> None:
    """Told before a model is loaded."""
    with pytest.raises(ConfigError, match="feedback=true: is recorded in MLflow"):
        check_door(conf_of(trained, "feedback=true"))


def get(url: str, **headers: str) -> tuple[int, str, Any]:
    """A page as a browser fetches it."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as response:
            return response.status, response.read().decode(), response.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


def test_the_page_is_served_and_loads_nothing_from_elsewhere(serve: Callable[..., Served]) -> None:
    """Beside the API, with headers that keep browsers here; nothing is uploaded."""
    served = serve("guard=none", "web=true", "generation.max_new_tokens=2")
    status, page, headers = get(served.url)
    assert status == 200 and "medllm" in page
    assert "default-src 'self'" in headers["content-security-policy"]
    assert get(f"{served.url}/health")[1] == '{"status":"ok"}'
    assert get(f"{served.url}/v1/models")[0] == 200
    info = json.loads(get(f"{served.url}/gradio_api/info")[1])
    assert info["named_endpoints"] == {} and info["unnamed_endpoints"] == {}


def test_with_a_token_the_page_asks_for_it(serve: Callable[..., Served]) -> None:
    """As the password of any name."""
    token = "0123456789abcdef"
    served = serve("guard=none", "web=true", token=token)
    assert get(f"{served.url}/config")[0] == 401

    def login(password: str) -> int:
        body = f"username=anybody&password={password}".encode()
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        try:
            with urllib.request.urlopen(urllib.request.Request(f"{served.url}/login", body, kind)) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert login("wrong") == 400
    assert login(token) == 200
