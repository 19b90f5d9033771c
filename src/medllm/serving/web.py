"""The page: a chat in the browser, base beside tuned, for a desk and for a phone.

Everything that it needs comes from this server; nothing is asked of other ones. What people write stays in the memory of their
page's session, and is recorded only with feedback that the operator has switched on.
"""

import asyncio
import contextlib
import hmac
import html
import itertools
import os
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported

import gradio as gr
from fastapi import FastAPI

from medllm.artifact import MANIFEST, sha256
from medllm.chat.terminal import answering
from medllm.config.serve import ServeConf
from medllm.config.tracking import MlflowConf
from medllm.conversation import Conversation, Message
from medllm.errors import TrackingError
from medllm.serving.batcher import Batcher, BusyError, ClosedError, Done, Failed, Piece, Request, Screened, events_of
from medllm.tracking.feedback import FeedbackStore

# People write in turns of this many characters at most; the API's limit is that of its body.
LONGEST_MESSAGE = 20_000
SESSION_SECONDS = 3600
BUSY = "Many people are writing at the moment. Nothing was answered; please send it again in a minute."
CSS = """
.gradio-container {max-width: 1100px !important; margin: 0 auto !important; padding: 8px !important}
#notice {border-left: 4px solid #b7791f; background: #fffaf0; color: #5f370e; padding: 8px 12px; border-radius: 4px}
#status {font-size: 0.85em; opacity: 0.8}
#banner {position: fixed; top: 8px; left: 50%; transform: translateX(-50%); width: min(1084px, calc(100vw - 16px)) !important}
#banner {z-index: 1000 !important; max-height: 30vh; overflow-y: auto !important; box-sizing: border-box}
#banner {background: #9b1c1c; color: #fff; padding: 12px 16px; border-radius: 6px; font-weight: 600; white-space: pre-line}
#banner * {color: #fff !important}
"""


@dataclass
class Turn:
    """A question, and what was shown for it.

    Attributes:
        question: Of the user.
        tuned: Shown answer of the tuned model, the guard's texts included.
        base: Likewise of the base; None where it was not asked.
        urgent: What stands in the banner; empty for none.
        guard: What the guard said, for records.
        trace_id: Of feedback on the tuned answer; empty as long as there is none.
    """

    question: str
    tuned: str = ""
    base: str | None = None
    urgent: str = ""
    guard: dict[str, str] = field(default_factory=dict)
    trace_id: str = ""


@dataclass
class Session:
    """What one open page remembers.

    Attributes:
        turns: So far.
        asked: Answers under way.
    """

    turns: list[Turn] = field(default_factory=list)
    asked: list[Request] = field(default_factory=list)

    def __deepcopy__(self, _: Any) -> "Session":
        """Gradio copies a state for each new page."""
        return Session()


class Page:
    """Builds the page and handles what people do on it.

    Args:
        conf: Of the server.
        serving: Answers.

    Raises:
        TrackingError: if feedback is to be recorded and the store cannot be opened.
    """

    def __init__(self, conf: ServeConf, serving: Batcher):
        self._conf, self._serving = conf, serving
        artifact = serving.speaker.loaded.artifact
        self._status = answering(artifact)
        self._can_compare = conf.compare and False in serving.speaker.sides
        self._tags = {"artifact.manifest_sha256": sha256(artifact.folder / MANIFEST), "run": artifact.conf.name}
        self._feedback = (
            FeedbackStore(conf.tracking) if conf.feedback and isinstance(conf.tracking, MlflowConf) else None
        )

    def build(self) -> gr.Blocks:
        """The page's parts and what they do."""
        name = self._serving.speaker.loaded.artifact.conf.name
        with gr.Blocks(title=f"medllm: {name}", analytics_enabled=False) as page:
            session = gr.State(Session(), time_to_live=SESSION_SECONDS)
            gr.HTML(html.escape(self._conf.filled_notice), elem_id="notice")
            gr.HTML(html.escape(self._status), elem_id="status")
            banner = gr.HTML("", elem_id="banner", visible=False)
            with gr.Row():
                base = gr.Chatbot(label="base", visible=False, elem_id="base", **CHATBOT)
                tuned = gr.Chatbot(label=name, editable="user", elem_id="tuned", **CHATBOT)
            box = gr.Textbox(
                placeholder="Write here, and send with Enter",
                show_label=False,
                submit_btn=True,
                stop_btn=True,
                lines=1,  # with more, Enter alone would not send
                max_lines=8,
                max_length=LONGEST_MESSAGE,
                autofocus=True,
                elem_id="box",
            )
            with gr.Row():
                compare = gr.Checkbox(False, label="base beside it", visible=self._can_compare, elem_id="compare")
                fresh = gr.Button("New conversation", size="sm", elem_id="fresh")
            with gr.Accordion("System prompt", open=False):
                system = gr.Textbox(
                    self._serving.speaker.generation.system_prompt or "", show_label=False, lines=3, elem_id="system"
                )
            shown = [tuned, base, banner]
            asking = {"inputs": [session, compare, system], "outputs": [box, session, *shown], **PRIVATE}
            box.submit(self._ask, **{**asking, "inputs": [box, *asking["inputs"]]})
            tuned.retry(self._retry, **asking)
            tuned.edit(self._edit, **asking)
            tuned.undo(self._undo, inputs=[session], outputs=[box, session, *shown], **PRIVATE)
            box.stop(_stop, inputs=[session], **PRIVATE)
            for event in (fresh.click, tuned.clear, base.clear):
                event(self._fresh, inputs=[session], outputs=[box, session, *shown], **PRIVATE)
            compare.change(lambda on: gr.Chatbot(visible=on), inputs=[compare], outputs=[base], **PRIVATE)
            if self._feedback is not None:
                self._build_feedback(session, tuned)
        return page

    def _build_feedback(self, session: gr.State, tuned: gr.Chatbot) -> None:
        gr.HTML("Thumbs and comments are recorded here, together with the conversation.", elem_id="recorded")
        with gr.Row():
            comment = gr.Textbox(placeholder="Comment on the last answer", show_label=False, elem_id="comment", scale=4)
            send = gr.Button("Send comment", size="sm", elem_id="send", scale=1)
        tuned.like(self._like, inputs=[session], **PRIVATE)
        send.click(self._comment, inputs=[comment, session], outputs=[comment], **PRIVATE)

    async def _ask(self, text: str, session: Session, compare: bool, system: str) -> AsyncIterator[Any]:
        question = _whole(text).strip()
        if question and not session.asked:
            async for shown in self._answer(Turn(question), session, compare=compare, system=system):
                yield shown
        else:
            yield gr.skip(), session, *self._shown(session, compare)

    async def _retry(self, session: Session, compare: bool, system: str, which: gr.RetryData) -> AsyncIterator[Any]:
        async for shown in self._answer_again(_turn(which.index), "", session, compare, system):
            yield shown

    async def _edit(self, session: Session, compare: bool, system: str, which: gr.EditData) -> AsyncIterator[Any]:
        async for shown in self._answer_again(
            _turn(which.index), _whole(str(which.value)).strip(), session, compare, system
        ):
            yield shown

    async def _answer_again(
        self, index: int, text: str, session: Session, compare: bool, system: str
    ) -> AsyncIterator[Any]:
        """Another answer to a turn's question, or to another one in its place; what came after it is forgotten.

        An artifact that takes the likeliest words would say the same again, so that the same question is answered by chance once.
        """
        if session.asked or not 0 <= index < len(session.turns):
            yield gr.skip(), session, *self._shown(session, compare)
            return
        turn = Turn(text or session.turns[index].question)
        drawn = turn.question == session.turns[index].question
        del session.turns[index:]
        async for shown in self._answer(turn, session, compare=compare, system=system, drawn=drawn):
            yield shown

    def _undo(self, session: Session) -> Any:
        text = session.turns.pop().question if session.turns and not session.asked else gr.skip()
        return text, session, *self._shown(session, any(turn.base is not None for turn in session.turns))

    def _fresh(self, session: Session) -> Any:
        _stop(session)
        session.turns.clear()
        return "", session, [], [], gr.HTML(visible=False)

    async def _answer(
        self, turn: Turn, session: Session, *, compare: bool, system: str, drawn: bool = False
    ) -> AsyncIterator[Any]:
        """Asks both sides one after the other, as each batch is of one side, and shows every piece."""
        first = [Message("system", _whole(system).strip())] if system.strip() else []
        conversation = Conversation((*first, *_asked(session.turns, turn)))
        session.turns.append(turn)
        if compare and self._can_compare:
            turn.base = ""
        try:
            for tuned in [False, True] if turn.base is not None else [True]:
                async for _ in self._one(conversation, turn, session, tuned=tuned, drawn=drawn):
                    yield "", session, *self._shown(session, compare)
                if session.asked[-1].stopped:
                    break
        finally:
            session.asked.clear()
        if not turn.tuned:
            session.turns.remove(turn)
            gr.Warning("Nothing was answered.")
            yield turn.question, session, *self._shown(session, compare)

    async def _one(
        self, conversation: Conversation, turn: Turn, session: Session, *, tuned: bool, drawn: bool
    ) -> AsyncIterator[None]:
        """One side's answer; yields whenever there is more to show."""
        generation = self._serving.speaker.generation
        request = Request(
            conversation,
            replace(generation, do_sample=generation.do_sample or drawn, system_prompt=None),
            deadline=time.monotonic() + self._conf.timeout_seconds,
            tuned=tuned,
        )
        session.asked.append(request)
        before = text = ""
        try:
            async with contextlib.aclosing(events_of(self._serving, request)) as events:
                async for event in events:
                    if isinstance(event, Screened):
                        turn.urgent = event.verdict.before
                        turn.guard = {"guard.urgency": event.verdict.urgency.name}
                        before = f"{event.verdict.before}\n\n" if event.verdict.before else ""
                        if event.left_out:
                            gr.Info(f"The model no longer reads the oldest {event.left_out} turns.")
                    elif isinstance(event, Piece):
                        text += event.text
                    elif isinstance(event, Done):
                        before, text = "", event.guarded.text
                    elif isinstance(event, Failed):
                        gr.Warning(event.reason)
                    turn.tuned, turn.base = (before + text, turn.base) if tuned else (turn.tuned, before + text)
                    yield
        except (BusyError, ClosedError):
            gr.Warning(BUSY)

    def _shown(self, session: Session, compare: bool) -> tuple[Any, Any, Any]:
        """Both chats and the banner."""
        tuned: list[Any] = []
        base: list[Any] = []
        for turn in session.turns:
            question = {"role": "user", "content": turn.question}
            tuned += [question, *([{"role": "assistant", "content": turn.tuned}] if turn.tuned else [])]
            base += [question, *([{"role": "assistant", "content": turn.base}] if turn.base else [])]
        urgent = session.turns[-1].urgent if session.turns else ""
        alert = f'<div role="alert">{html.escape(urgent)}</div>'
        return tuned, gr.Chatbot(base, visible=compare), gr.HTML(alert, visible=bool(urgent))

    async def _like(self, session: Session, which: gr.LikeData) -> None:
        await self._record(session, _turn(which.index), helpful=which.liked in (True, "Like"), comment="")

    async def _comment(self, comment: str, session: Session) -> str:
        recorded = comment.strip() and await self._record(session, len(session.turns) - 1, None, comment.strip())
        return "" if recorded else comment

    async def _record(self, session: Session, index: int, helpful: bool | None, comment: str) -> bool:
        if self._feedback is None or not 0 <= index < len(session.turns):
            return False
        turn = session.turns[index]
        try:
            turn.trace_id = await asyncio.to_thread(
                self._feedback.record,
                _asked(session.turns[:index], turn),
                turn.tuned,
                {**self._tags, **turn.guard},
                helpful=helpful,
                comment=comment,
                trace_id=turn.trace_id,
            )
        except TrackingError:
            gr.Warning("It could not be recorded.")
            return False
        gr.Info("Recorded. Thank you.")
        return True


def _stop(session: Session) -> None:
    """Ends what is under way; what was written until then stays."""
    for request in session.asked:
        request.stopped = True


def _asked(before: Sequence[Turn], turn: Turn) -> list[Message]:
    """A question with the conversation before it."""
    said = [(Message("user", past.question), Message("assistant", past.tuned)) for past in before]
    return [*itertools.chain.from_iterable(said), Message("user", turn.question)]


def _whole(text: str) -> str:
    """Without halves of characters, which no browser sends."""
    return text.encode("utf-8", "replace").decode()


def _turn(index: Any) -> int:
    """Of a message's place: question and answer alternate."""
    return int(index[0] if isinstance(index, (tuple, list)) else index) // 2


# Words as they stand: no pictures from elsewhere, no markup that a model wrote.
CHATBOT: dict[str, Any] = {
    "render_markdown": False,
    "allow_tags": False,
    "height": "60vh",
    "buttons": ["copy"],
    "layout": "bubble",
    "feedback_options": ("Like", "Dislike"),
}
# Not a second API beside the documented one; the batcher bounds how much is under way.
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}


def mount_page(app: FastAPI, conf: ServeConf, serving: Batcher, token: str) -> None:
    """Puts the page at the root of an application.

    Args:
        app: Of the API.
        conf: Of the server.
        serving: Answers.
        token: What people sign in with, as password of any name; empty for none.

    Raises:
        TrackingError: if feedback is to be recorded and the store cannot be opened.
    """
    page = Page(conf, serving).build()
    page.queue(api_open=False, default_concurrency_limit=None)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        auth=(lambda _, password: hmac.compare_digest(password.encode(), token.encode())) if token else None,
        auth_message="Any name, and the server's token as password",
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=CSS,
        footer_links=[],
        show_error=False,
        max_file_size=1,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
    )
