"""The HTTP side: OpenAI's chat completions, models, health and metrics, and who may ask.

host and origin -> token -> size of the body -> protocol -> queue -> events -> response
"""

import asyncio
import contextlib
import hmac
import ipaddress
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, MutableMapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from medllm.config.serve import ServeConf
from medllm.deposit import base_name
from medllm.review.approval import review_status
from medllm.serving import batcher
from medllm.serving.batcher import (
    Batcher,
    BusyError,
    ClosedError,
    Done,
    Event,
    Failed,
    Piece,
    Screened,
    events_of,
    told,
)
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
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# For each piece of a body; a proxy in front guards against those who take as long for the head.
READ_SECONDS = 15
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
        hosts: Names of a proxy on this machine.
        max_bytes: Largest body.
    """

    def __init__(self, app: ASGIApp, token: str, *, local: bool, hosts: Sequence[str], max_bytes: int):
        self._app, self._token, self._local, self._max_bytes = app, token, local, max_bytes
        self._hosts = {name.lower() for name in hosts}

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
        seen, whole = 0, False

        async def counted() -> Any:
            nonlocal seen, whole
            try:
                message = await asyncio.wait_for(receive(), None if whole else READ_SECONDS)
            except TimeoutError:
                raise RequestError(408, f"nothing came for {READ_SECONDS} seconds", code="too_slow") from None
            seen += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if seen > self._max_bytes:
                raise self._too_large()
            return message

        async def closed(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                there = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    there.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, counted, closed)
        except ClientDisconnect:
            pass
        except Exception as failure:  # it has been answered; its message may quote what people wrote
            told(failure)

    def _error(self, path: str, headers: dict[str, str]) -> RequestError | None:
        host = headers.get("host", "").lower()
        named = _hostname(host)
        if self._local and not is_loopback(named) and named not in self._hosts:
            message = f"this server is localhost and not {named!a}; allowed_hosts names others"
            return RequestError(403, message[:200], code="host_not_allowed")
        origin = headers.get("origin")
        if origin is not None:
            place = origin.lower().partition("://")[2]
            if not place or (place != host and _hostname(place) not in self._hosts):
                return RequestError(403, "requests of other pages are not answered", code="origin_not_allowed")
        if path.startswith("/gradio_api/upload"):
            return RequestError(403, "nothing can be uploaded here", code="no_uploads")
        if self._token and path.startswith(PROTECTED):
            scheme, _, shown = headers.get("authorization", "").partition(" ")
            is_right = hmac.compare_digest(shown.strip().encode("latin-1"), self._token.encode())
            if scheme.lower() != "bearer" or not is_right:
                return RequestError(
                    401, "Authorization: Bearer TOKEN is needed, with the server's token", code="no_token"
                )
        length = headers.get("content-length", "")
        return self._too_large() if length.isdigit() and int(length) > self._max_bytes else None

    def _too_large(self) -> RequestError:
        return RequestError(413, f"the body is larger than {self._max_bytes:,} bytes", code="too_large")


def _hostname(place: str) -> str:
    """Of `name:port`; empty for what is none."""
    try:
        return urlsplit(f"//{place}").hostname or ""
    except ValueError:
        return ""


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

    async def broken(_: Request, __: Exception) -> Response:
        return JSONResponse(RequestError(500, "the server failed", code="failed").body, 500)

    app.add_exception_handler(RequestError, failed)
    app.add_exception_handler(Exception, broken)

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

    @app.api_route("/v1/{path:path}", methods=list(METHODS))
    async def elsewhere(path: str) -> None:
        there = {"chat/completions": "POST", "models": "GET"}
        if path in there:
            raise RequestError(405, f"/v1/{path} takes {there[path]}", code="method_not_allowed")
        raise RequestError(404, f"no such path; allowed: {', '.join(f'/v1/{p}' for p in there)}", code="not_found")

    @app.get("/openapi.json")
    async def openapi() -> None:  # in front of gradio's, which describes the page
        raise RequestError(404, "the API is OpenAI's", code="not_found")

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
