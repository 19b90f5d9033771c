"""The one thread that owns the model: a bounded queue in front, a continuous batch behind.

Requests are answered in the order in which they came. Base and tuned are one model, whose adapter is off or on for a whole step:
when the request at the head of the queue is for the other side, what is under way ends first.
"""

import asyncio
import contextlib
import threading
import time
import traceback
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

import torch

from medllm.chat.speaker import Speaker
from medllm.config.generation import GenerationConf
from medllm.console import console
from medllm.conversation import Conversation
from medllm.errors import ChatError
from medllm.guard.guard import Guarded, Verdict
from medllm.inference.stream import CANCELLED, ContinuousBatch, Reply
from medllm.serving.metrics import Metrics

GOING_DOWN = "the server is going down"


class BusyError(Exception):
    """The queue is full."""


class ClosedError(Exception):
    """The server is going down."""


@dataclass(frozen=True)
class Screened:
    """The guard has seen the conversation, and the model begins to answer.

    Attributes:
        verdict: Of the guard; its `before` stands in front of the answer.
        left_out: Oldest turns that the model does not read.
    """

    verdict: Verdict
    left_out: int


@dataclass(frozen=True)
class Piece:
    """More of the model's own text."""

    text: str


@dataclass(frozen=True)
class Done:
    """The answer is whole.

    Attributes:
        guarded: With what stands before and behind it.
        finish_reason: `stop`, `length`, or `cancelled` where it was stopped.
        prompt_tokens: That the model has read.
        completion_tokens: That it has written.
    """

    guarded: Guarded
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Failed:
    """There is no answer, or no end of it.

    Attributes:
        outcome: `refused` for what its sender can put right, `timeout`, or `failed`.
        reason: In words.
    """

    outcome: str
    reason: str


Event = Screened | Piece | Done | Failed


@dataclass
class Request:
    """One answer that somebody waits for.

    Attributes:
        conversation: Ends with a user message.
        generation: How to answer.
        deadline: On `time.monotonic`'s clock.
        emit: Takes each event, in the batcher's thread.
        tuned: Or the base.
        stop: Texts that end the answer.
        seed: Of what is drawn by chance.
        stopped: Whether what is there so far is enough; set from any thread.
        cancelled: Whether nobody waits any more; set from any thread.
        arrived: On `time.monotonic`'s clock.
        verdict: Of the guard, once it has been asked.
        ended: Whether its last event has been emitted.
    """

    conversation: Conversation
    generation: GenerationConf
    deadline: float
    emit: Callable[[Event], None] = lambda _: None
    tuned: bool = True
    stop: tuple[str, ...] = ()
    seed: int | None = None
    stopped: bool = False
    cancelled: bool = False
    arrived: float = field(default_factory=time.monotonic)
    verdict: Verdict = field(default_factory=Verdict)
    ended: bool = False

    @property
    def over(self) -> bool:
        """Whether to stop answering."""
        return self.stopped or self.cancelled or time.monotonic() > self.deadline


async def events_of(serving: "Batcher", request: Request) -> AsyncGenerator[Event]:
    """Submits a request and yields its events; whoever leaves in the middle cancels it.

    Raises:
        BusyError: if too many wait already.
        ClosedError: if the server is going down.
    """
    loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()

    def emit(event: Event) -> None:
        loop.call_soon_threadsafe(events.put_nowait, event)

    request.emit = emit
    serving.submit(request)
    try:
        while True:
            event = await events.get()
            yield event
            if isinstance(event, Done | Failed):
                return
    finally:
        request.cancelled = True  # after the end it changes nothing


class Batcher:
    """Answers requests, several at a time.

    Args:
        speaker: Who answers.
        max_batch: Answers under way at once, at most.
        max_queue: Requests that wait, at most.

    Attributes:
        metrics: What it counts.
    """

    def __init__(self, speaker: Speaker, max_batch: int, max_queue: int):
        self.speaker, self.metrics = speaker, Metrics()
        self._max_batch, self._max_queue = max_batch, max_queue
        self._waiting: deque[Request] = deque()
        self._running: dict[Reply, Request] = {}
        self._batch: ContinuousBatch | None = None
        self._tuned = True
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Queues a request; its events follow.

        Raises:
            BusyError: if too many wait already.
            ClosedError: if the server is going down.
        """
        with self._changed:
            if self._closed:
                raise ClosedError
            if len(self._waiting) + len(self._running) >= self._max_queue + self._max_batch:
                raise BusyError
            self._waiting.append(request)
            self._count()
            self._changed.notify()

    def retire(self, seconds: float) -> None:
        """Takes no more requests, refuses those that wait, and gives those under way so many seconds."""
        with self._changed:
            self._closed = True
            for request in self._waiting:
                self._end(request, Failed("failed", GOING_DOWN))
            self._waiting.clear()
            for request in self._running.values():
                request.deadline = min(request.deadline, time.monotonic() + seconds)
            self._changed.notify()

    def close(self) -> None:
        """Ends everything, and returns when the model is at rest."""
        self.retire(0)
        self._thread.join()

    def _work(self) -> None:
        while True:
            new = self._admitted()
            if new is None:
                return
            try:
                self._round(new)
            except Exception as error:  # a server outlives what one batch dies of
                self._fail_all(new, error)

    def _admitted(self) -> list[Request] | None:
        """Requests that may join now; waits for one where nothing is under way. None when it is over."""
        with self._changed:
            while not (self._waiting or self._running or self._closed):
                self._changed.wait()
            if self._closed and not self._running:
                return None
            new: list[Request] = []
            while self._waiting and len(self._running) + len(new) < self._max_batch:
                head = self._waiting[0]
                if not self._running and not new:
                    self._tuned = head.tuned
                if head.tuned is not self._tuned and not head.over:
                    break
                new.append(self._waiting.popleft())
            self._count()
        return new

    def _round(self, new: list[Request]) -> None:
        """Lets new ones join, and takes one step with all."""
        replies = self._screened(new)
        with self.speaker.side(tuned=self._tuned) as model:
            if self._batch is None:
                self._batch = ContinuousBatch(model, tuned=self._tuned)
            self._running |= replies
            if replies:
                self._batch.join(list(replies))
                for request in replies.values():
                    self.metrics.first_token.observe(time.monotonic() - request.arrived)
            elif self._batch.replies:
                self._batch.step()
        for reply in [reply for reply in self._running if reply.finish_reason]:
            self._finish(reply, self._running.pop(reply))
        if not self._running:
            self._batch = None

    def _screened(self, new: list[Request]) -> dict[Reply, Request]:
        """Asks the guard about all of them at once; what cannot be answered ends here."""
        found = {}
        for request in new:
            if request.over:
                self._end(request, Failed("timeout", "it waited too long"))
                continue
            try:
                own = self.speaker.guard.unguarded(request.conversation)
                read, left_out = self.speaker.fitted(own, request.generation)
                reply = self._reply(request, read)
            except ChatError as error:
                self._end(request, Failed("refused", str(error)))
                continue
            except Exception as error:  # of this request alone
                self._end(request, Failed("failed", told(error)))
                continue
            found[reply] = (request, left_out)
        requests = [request for request, _ in found.values()]
        verdicts = self.speaker.screen([request.conversation for request in requests]) if requests else []
        for (request, left_out), verdict in zip(found.values(), verdicts, strict=True):
            request.verdict = verdict
            self.metrics.urgencies.labels(verdict.urgency.name).inc()
            self._emit(request, Screened(verdict, left_out))
        return {reply: request for reply, (request, _) in found.items()}

    def _reply(self, request: Request, read: Conversation) -> Reply:
        return Reply(
            self.speaker.renderer,
            read,
            request.generation,
            on_text=lambda text: self._emit(request, Piece(text)),
            stopped=lambda: request.over,
            stop=request.stop,
            seed=request.seed,
        )

    def _finish(self, reply: Reply, request: Request) -> None:
        counts = len(reply.prompt), len(reply.ids)
        for kind, count in zip(("prompt", "completion"), counts, strict=True):
            self.metrics.tokens.labels(kind).inc(count)
        if reply.error is not None:
            self._end(request, Failed("failed", told(reply.error)))
            return
        if reply.finish_reason == CANCELLED and not request.stopped:
            late = Failed("failed", GOING_DOWN) if self._closed else Failed("timeout", "the answer took too long")
            self._end(request, late)
            return
        guarded = self.speaker.guard.review(request.conversation, reply.text, request.verdict)
        self._end(request, Done(guarded, reply.finish_reason, *counts))

    def _fail_all(self, new: list[Request], error: Exception) -> None:
        """After what no request is to blame for, such as a full GPU: the batch is lost, the server goes on."""
        reason = told(error)
        for request in (*self._running.values(), *new):
            self._end(request, Failed("failed", reason))
        self._running.clear()
        self._batch = None
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()

    def _end(self, request: Request, event: Done | Failed) -> None:
        """Every request comes here; what counts is the first time."""
        if request.ended:
            return
        request.ended = True
        outcome = event.outcome if isinstance(event, Failed) else event.finish_reason
        if request.cancelled:
            outcome = CANCELLED
        self.metrics.requests.labels("tuned" if request.tuned else "base", outcome).inc()
        self.metrics.whole.observe(time.monotonic() - request.arrived)
        self._emit(request, event)

    def _emit(self, request: Request, event: Event) -> None:
        """Whoever listened may be gone."""
        with contextlib.suppress(RuntimeError):
            request.emit(event)

    def _count(self) -> None:
        self.metrics.waiting.set(len(self._waiting))
        self.metrics.running.set(len(self._running))


def told(error: Exception) -> str:
    """Tells the operator of an error, without its message, which may quote what people wrote.

    Returns:
        What others may be told.
    """
    if isinstance(error, torch.OutOfMemoryError):
        reason = "the device has too little memory for so many answers at once"
        console.print(f"{reason}; fix: a smaller max_batch")
        return reason
    console.print(f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}")
    return "the server failed"
