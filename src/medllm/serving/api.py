"""The HTTP side: OpenAI's chat completions, models, health and metrics, and who may ask.

host and origin -> token -> size of the body -> protocol -> queue -> events -> response
"""

import asyncio
import contextlib
import hmac
import ipaddress
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from medllm.config.serve import ServeConf
from medllm.deposit import base_name
from medllm.review.approval import review_status
from medllm.serving import batcher
from medllm.serving.batcher import Batcher, BusyError, ClosedError, Done, Event, Failed, Piece, Screened, events_of
from medllm.serving.protocol import RequestError, Writer, event_of, read

# What a token protects; /health tells nothing but that somebody is there.
PROTECTED = ("/v1/", "/metrics")
# A page shows what a model and people wrote. Whatever that is, it loads nothing from elsewhere, and no other page frames it.
HEADERS = {
    "Content-Security-Policy": "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
STATUS = {"refused": 400, "timeout": 504, "failed": 503}


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Doorman:
    """Looks at requests before anybody reads them.

    A page of the world wide web that somebody has open can send requests to servers on their machine. It cannot hide where it
    comes from: its Origin is not this server's, and where it had its own name point here (DNS rebinding), the Host is not.

    Args:
        app: What is behind it.
        token: To be shown by all who ask for something protected; empty for none.
        local: Whether only this machine should come here.
        max_bytes: Largest body.
    """

    def __init__(self, app: ASGIApp, token: str, *, local: bool, max_bytes: int):
        self._app, self._token, self._local, self._max_bytes = app, token, local, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request in, or answers it at the door."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        error = self._error(scope["path"], headers)
        if error is not None:
            await JSONResponse(error.body, error.status, headers=_headers(error))(scope, receive, send)
            return
        seen = 0

        async def counted() -> Any:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise self._too_large()
            return message

        async def closed(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                there = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    there.setdefault(name, value)
            await send(message)

        await self._app(scope, counted, closed)

    def _error(self, path: str, headers: dict[str, str]) -> RequestError | None:
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        if self._local and not is_loopback(host):
            return RequestError(403, f"this server is localhost and not {host!r}"[:200], code="host_not_allowed")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return RequestError(403, "requests of other pages are not answered", code="origin_not_allowed")
        if self._token and path.startswith(PROTECTED):
            shown = headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(shown.encode("latin-1"), self._token.encode()):
                return RequestError(
                    401, "Authorization: Bearer TOKEN is needed, with the server's token", code="no_token"
                )
        length = headers.get("content-length", "")
        return self._too_large() if length.isdigit() and int(length) > self._max_bytes else None

    def _too_large(self) -> RequestError:
        return RequestError(413, f"the body is larger than {self._max_bytes:,} bytes", code="too_large")


def build_api(conf: ServeConf, serving: Batcher) -> FastAPI:
    """The application.

    Args:
        conf: Of the server.
        serving: Answers.
    """
    app = FastAPI(title="medllm", openapi_url=None, docs_url=None, redoc_url=None)
    artifact = serving.speaker.loaded.artifact
    names = {artifact.conf.name: True}
    if conf.compare and False in serving.speaker.sides:
        names[base_name(artifact.conf)] = False
    longest = min(conf.max_tokens, serving.speaker.context // 2)

    async def failed(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        return JSONResponse(error.body, error.status, headers=_headers(error))

    app.add_exception_handler(RequestError, failed)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(generate_latest(serving.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        status = review_status(artifact.folder)
        said = {"notice": conf.filled_notice, "review": status.decision, "reasons": status.reasons}
        return {"object": "list", "data": [_model(name, said) for name in names]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = [one for one in (await models())["data"] if one["id"] == name]
        if not found:
            raise RequestError(
                404, f"no model {name!r} here; allowed: {', '.join(names)}"[:300], "model", "model_not_found"
            )
        return found[0]

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        try:
            body = json.loads(await request.body())
        except (ValueError, RecursionError):
            raise RequestError(400, "the body is no JSON") from None
        wish = read(body, names, serving.speaker.generation, longest)
        asked = batcher.Request(
            wish.conversation,
            wish.generation,
            deadline=time.monotonic() + conf.timeout_seconds,
            tuned=wish.tuned,
            stop=wish.stop,
            seed=wish.seed,
        )
        events, writer = events_of(serving, asked), Writer(wish)
        try:
            first = await _unless_gone(events, asked, request)
        except BusyError:
            raise RequestError(429, "too many requests wait; try again in a moment", code="queue_full") from None
        except ClosedError:
            raise RequestError(503, "the server is going down", code="closing") from None
        if isinstance(first, Failed):
            raise _refusal(first)
        if wish.stream:
            return StreamingResponse(_streamed(first, events, writer), media_type="text/event-stream")
        async with contextlib.aclosing(events):
            while not isinstance(event := await _unless_gone(events, asked, request), Done):
                if isinstance(event, Failed):
                    raise _refusal(event)
        return JSONResponse(writer.whole(event))

    return app


def _model(name: str, said: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": STARTED, "owned_by": "medllm", "medllm": said}


STARTED = int(time.time())


def _headers(error: RequestError) -> dict[str, str]:
    return {429: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}.get(error.status, {})


def _refusal(failed: Failed) -> RequestError:
    return RequestError(STATUS[failed.outcome], failed.reason, code=failed.outcome)


async def _unless_gone(events: AsyncIterator[Event], asked: batcher.Request, request: Request) -> Event:
    """The next event; a request whose sender has hung up is given up."""
    waiting = asyncio.ensure_future(anext(events))
    while not (await asyncio.wait([waiting], timeout=1))[0]:
        asked.cancelled = asked.cancelled or await request.is_disconnected()
    return waiting.result()


async def _streamed(first: Event, events: AsyncGenerator[Event], writer: Writer) -> AsyncIterator[str]:
    """Server-sent events of one answer."""
    assert isinstance(first, Screened)
    yield writer.first(first.verdict)
    async with contextlib.aclosing(events):
        async for happened in events:
            if isinstance(happened, Piece):
                yield writer.piece(happened.text)
            elif isinstance(happened, Done):
                yield writer.last(happened)
            elif isinstance(happened, Failed):
                yield event_of(_refusal(happened).body)
