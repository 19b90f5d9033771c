"""The API as the official client sees it, and what it refuses."""

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from medllm.config.generation import GenerationConf
from medllm.errors import ConfigError
from medllm.inference.generate import ask, generate
from medllm.inference.stream import ContinuousBatch, Reply
from medllm.serving import api
from medllm.serving.server import TOKEN, check_door, listen
from tests.serving.conftest import Served, conf_of, running, speaking

TOKEN_VALUE = "0123456789abcdef-secret"
CHEST = "I have crushing chest pain and I cannot breathe"


def client(served: Served, token: str = "none") -> openai.OpenAI:
    """The official one."""
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key=token, max_retries=0)


def user(text: str) -> list[Any]:
    """One message."""
    return [{"role": "user", "content": text}]


def post(served: Served, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    """A request as any program may send it."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port)
    connection.request("POST", "/v1/chat/completions", body, headers or {})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_answers_are_the_models_whole_or_in_pieces(serve: Callable[..., Served]) -> None:
    """As `generate` alone says them, by the artifact's own defaults, with the usage counted."""
    served = serve("guard=none", "generation.max_new_tokens=12")
    speaker = served.serving.speaker
    with speaker.side(tuned=True) as model:
        (expected,) = generate(model, speaker.renderer, [ask("I cough")], speaker.generation)
    official = client(served)
    whole = official.chat.completions.create(model=served.model, messages=user("I cough"))
    assert whole.choices[0].message.content == expected.text != ""
    assert whole.choices[0].finish_reason == ("stop" if expected.finished else "length")
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == len(speaker.renderer.render_prompt(ask("I cough")))
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    stream = official.chat.completions.create(
        model=served.model, messages=user("I cough"), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == expected.text
    assert chunks[-1].usage == whole.usage
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_guard_stands_before_and_after(serve: Callable[..., Served]) -> None:
    """In both forms alike, with what it found for programs; and its own texts are no part of what the model reads later."""
    served = serve("guard=rules_only", "guard.emergency_number=112", "generation.max_new_tokens=6")
    official = client(served)
    whole = official.chat.completions.create(model=served.model, messages=user(CHEST))
    text = whole.choices[0].message.content or ""
    assert text.startswith("This may be an emergency. Call 112 now")
    assert text.endswith("this does not replace a doctor who knows you.")
    said = whole.model_extra["medllm"]  # type: ignore[index]
    assert said["emergency"] is True and said["urgency"] == "D" and "acs" in said["flags"]
    assert {"urgency", "disclaimer"} <= set(said["notes"])
    chunks = list(official.chat.completions.create(model=served.model, messages=user(CHEST), stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    assert chunks[0].model_extra["medllm"]["emergency"] is True  # type: ignore[index]
    own = whole.choices[0].message.content
    again = official.chat.completions.create(
        model=served.model, messages=[*user(CHEST), {"role": "assistant", "content": own}, *user("and now?")]
    )
    first = served.serving.speaker.renderer.tokenizer(text, add_special_tokens=False).input_ids
    assert again.usage is not None and whole.usage is not None
    assert again.usage.prompt_tokens < whole.usage.prompt_tokens + len(first)


def test_base_and_tuned_are_two_models(serve: Callable[..., Served]) -> None:
    """Asked together, each answers as alone; without `compare` there is one."""
    served = serve("guard=none", "generation.max_new_tokens=8")
    official = client(served)
    names = [model.id for model in official.models.list()]
    assert names[0] == served.model and len(names) == 2
    assert official.models.retrieve(names[1]).id == names[1]

    def answer(name: str) -> str | None:
        return official.chat.completions.create(model=name, messages=user("My head hurts")).choices[0].message.content

    alone = [answer(name) for name in names]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(answer, names * 3))
    assert together == alone * 3
    assert alone[0] != alone[1]
    single = serve("compare=false", "guard=none")
    assert [model.id for model in client(single).models.list()] == [single.model]


def test_sampling_follows_the_request(serve: Callable[..., Served]) -> None:
    """A seed repeats, a temperature of zero takes the likeliest, stop texts and lengths hold."""
    served = serve("guard=none", "generation.max_new_tokens=12")
    official = client(served)

    def answer(**kwargs: Any) -> Any:
        return official.chat.completions.create(model=served.model, messages=user("I cough"), **kwargs).choices[0]

    drawn = [answer(temperature=1.5, seed=seed).message.content for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    greedy = answer().message.content
    assert answer(temperature=0).message.content == greedy
    short = answer(max_tokens=2)
    assert short.finish_reason == "length"
    end = greedy[3:6]
    stopped = answer(stop=[end])
    assert stopped.message.content == greedy[: greedy.find(end)].rstrip() and stopped.finish_reason == "stop"


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model": "other"}, 404, "model"),
        ({"model": ["m"]}, 404, "model"),
        ({"messages": []}, 400, "messages"),
        ({"messages": "hi"}, 400, "messages"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, 400, "messages[0]"),
        ({"messages": [{"role": "user"}]}, 400, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages[0]"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "messages"),
        ({"n": 2}, 400, "n"),
        ({"n": True}, 400, "n"),
        ({"tools": [{"type": "function"}]}, 400, "tools"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"logprobs": True}, 400, "logprobs"),
        ({"presence_penalty": 0.5}, 400, "presence_penalty"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": 10**9}, 400, "max_tokens"),
        ({"max_completion_tokens": 1.5}, 400, "max_completion_tokens"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"temperature": float("nan")}, 400, "temperature"),
        ({"top_p": 2}, 400, "top_p"),
        ({"top_p": 0}, 400, "top_p"),
        ({"messages": [{"role": ["user"], "content": "hi"}]}, 400, "messages[0]"),
        ({"messages": [{"role": {}, "content": "hi"}]}, 400, "messages[0]"),
        ({"messages": [{"role": "user", "content": "hi", "tool_calls": []}]}, 400, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, 400, "messages[0]"),
        ({"messages": [{"role": "user", "content": "hi"}] * 513}, 400, "messages"),
        ({"stream_options": {"foo": 1}}, 400, "stream"),
        ({"I have \ud800 HIV": 1}, 400, "I have \\ud800 HIV"),
        ({"seed": "x"}, 400, "seed"),
        ({"stop": ["a", "b", "c", "d", "e"]}, 400, "stop"),
        ({"stop": [""]}, 400, "stop"),
        ({"stream": "yes"}, 400, "stream"),
        ({"temprature": 1}, 400, "temprature"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(shared: Served, body: dict[str, Any], status: int, param: str) -> None:
    """In OpenAI's shape, and nothing is ignored."""
    whole = {"model": shared.model, "messages": user("hi"), **body}
    found, answer = post(shared, json.dumps(whole).encode())
    assert (found, answer["error"]["param"]) == (status, param)
    assert answer["error"]["message"]


def test_what_changes_nothing_is_taken(shared: Served) -> None:
    """Clients send more than they need: names, defaults written out, text in parts, a developer's message."""
    answer = client(shared).chat.completions.create(
        model=shared.model,
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "I "}, {"type": "text", "text": "cough"}]},
        ],
        n=1,
        user="somebody",
        frequency_penalty=0.0,
        max_tokens=3,
        logprobs=False,
    )
    assert answer.usage is not None and answer.usage.completion_tokens <= 3


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_request_is_no_traceback(shared: Served, body: bytes) -> None:
    """Whatever arrives."""
    status, answer = post(shared, body)
    assert status == 400 and answer["error"]["type"] == "invalid_request_error"


@pytest.fixture(scope="module")
def shared(trained: Path) -> Iterator[Served]:
    """One server for all refusals."""
    with running(trained, "guard=none", "generation.max_new_tokens=4", "max_bytes=200000") as served:
        yield served


def test_too_much_is_413_whether_its_length_is_told_or_not(shared: Served) -> None:
    """A body that comes in chunks says nothing about its length."""
    body = json.dumps({"model": shared.model, "messages": user("x" * 300_000)}).encode()
    status, answer = post(shared, body)
    assert (status, answer["error"]["code"]) == (413, "too_large")
    connection = http.client.HTTPConnection("127.0.0.1", shared.port)
    pieces = (body[i : i + 50_000] for i in range(0, len(body), 50_000))
    connection.request("POST", "/v1/chat/completions", pieces, encode_chunked=True)
    response = connection.getresponse()
    assert response.status == 413
    assert json.loads(response.read())["error"]["code"] == "too_large"


def test_a_message_longer_than_the_model_reads_is_400(shared: Served) -> None:
    """With both lengths."""
    with pytest.raises(openai.BadRequestError, match="tokens") as caught:
        client(shared).chat.completions.create(model=shared.model, messages=user("cough " * 5000))
    assert caught.value.code == "refused"


def test_a_full_queue_is_429_and_the_others_are_answered(serve: Callable[..., Served]) -> None:
    """One under way, one waiting; the rest is told to come back."""
    served = serve("guard=none", "max_batch=1", "max_queue=1", "generation.max_new_tokens=60")

    def answer(i: int) -> str:
        try:
            done = client(served).chat.completions.create(model=served.model, messages=user(f"I cough {i}"))
            return done.choices[0].finish_reason
        except openai.RateLimitError as error:
            assert error.response.headers["retry-after"] == "1"
            return "429"

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(answer, range(8)))
    assert found.count("429") >= 1
    assert len(found) - found.count("429") >= 2
    assert answer(9) != "429"


def test_who_hangs_up_is_not_answered_any_longer(serve: Callable[..., Served]) -> None:
    """Its place is free for others."""
    served = serve("guard=none", "max_batch=1", "max_queue=1", "generation.max_new_tokens=500", "max_tokens=500")
    body = json.dumps({"model": served.model, "messages": user("hi"), "stream": True, "max_tokens": 500}).encode()
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        assert b"data: " in connection.recv(4096) + connection.recv(4096)
    for _ in range(200):
        if not served.serving._running:
            break
        time.sleep(0.05)
    text = _metrics(served)
    assert 'medllm_requests_total{model="tuned",outcome="cancelled"} 1.0' in text


def _metrics(served: Served) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", served.port)
    connection.request("GET", "/metrics")
    return connection.getresponse().read().decode()


def test_an_answer_that_takes_too_long_is_504(serve: Callable[..., Served]) -> None:
    """Streams say so in their last event."""
    served = serve("guard=none", "timeout_seconds=0.05", "generation.max_new_tokens=400", "max_tokens=400")
    with pytest.raises(openai.APIStatusError) as caught:
        client(served).chat.completions.create(model=served.model, messages=user("hi"))
    assert caught.value.status_code == 504


def test_health_and_metrics(serve: Callable[..., Served]) -> None:
    """Counted: requests, tokens, urgencies, times; no word of what was written."""
    served = serve("guard=rules_only", "generation.max_new_tokens=5")
    client(served).chat.completions.create(model=served.model, messages=user(CHEST))
    text = _metrics(served)
    for line in (
        'medllm_guard_urgency_total{urgency="D"} 1.0',
        "medllm_first_token_seconds_count 1.0",
        'medllm_tokens_total{kind="completion"}',
        "medllm_requests_waiting 0.0",
    ):
        assert line in text
    assert "chest" not in text


def test_a_token_is_needed_where_one_is_set(serve: Callable[..., Served]) -> None:
    """For the API and the figures; whether somebody is there may be asked by all."""
    served = serve("guard=none", "generation.max_new_tokens=2", token=TOKEN_VALUE)
    for wrong in ("none", TOKEN_VALUE[:-1], TOKEN_VALUE + "x"):
        with pytest.raises(openai.AuthenticationError):
            client(served, wrong).models.list()
    assert next(iter(client(served, TOKEN_VALUE).models.list())).id == served.model
    assert "needed" in _metrics(served)
    connection = http.client.HTTPConnection("127.0.0.1", served.port)
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Host": "[::1"},
        {"Origin": "http://["},
    ],
)
def test_other_pages_do_not_come_in(shared: Served, headers: dict[str, str]) -> None:
    """Neither with a name that points here nor with requests of their own."""
    body = json.dumps({"model": shared.model, "messages": user("hi")}).encode()
    status, answer = post(shared, body, headers)
    assert status == 403 and answer["error"]["code"].endswith("not_allowed")


def test_beyond_this_machine_a_token_is_required(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a model is loaded, with how to make one."""
    monkeypatch.delenv(TOKEN, raising=False)
    with pytest.raises(ConfigError, match=f"no token is set(.|\n)*{TOKEN}"):
        check_door(conf_of(trained, "host=0.0.0.0"))
    assert check_door(conf_of(trained)) == ""
    monkeypatch.setenv(TOKEN, "short")
    with pytest.raises(ConfigError, match="has 5 characters"):
        check_door(conf_of(trained))
    monkeypatch.setenv(TOKEN, TOKEN_VALUE)
    assert check_door(conf_of(trained, "host=0.0.0.0")) == TOKEN_VALUE


def test_a_port_that_is_taken_is_a_plain_fault(trained: Path) -> None:
    """And free ones can be asked for."""
    with listen(conf_of(trained)) as door, pytest.raises(ConfigError, match="port=0 takes a free one"):
        listen(conf_of(trained, f"port={door.getsockname()[1]}"))


def test_a_failure_of_the_model_ends_requests_and_not_the_server(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing that was written is in what the operator reads."""
    said_by_user = " ".join(["I", "cough", "at", "night"])

    def broken(*_: Any) -> None:
        raise ValueError(said_by_user)

    served = serve("guard=none", "generation.max_new_tokens=3")
    with monkeypatch.context() as patch:
        patch.setattr(ContinuousBatch, "join", broken)
        with pytest.raises(openai.InternalServerError) as caught:
            client(served).chat.completions.create(model=served.model, messages=user(said_by_user))
    assert caught.value.status_code == 503
    said = capsys.readouterr().err
    assert "ValueError" in said and said_by_user not in said
    assert client(served).chat.completions.create(model=served.model, messages=user("hi")).choices


def test_defaults_are_the_artifacts(trained: Path) -> None:
    """What the configuration leaves alone."""
    with speaking(conf_of(trained), trained / "artifact") as speaker:
        own = speaker.loaded.artifact.conf.generation
        assert isinstance(own, GenerationConf)
        assert speaker.generation.max_new_tokens == own.max_new_tokens
        assert speaker.generation.repetition_penalty == 5


@pytest.mark.parametrize("temperature", [1, 2, 1.0, 5e-324, 1e-40, 0])
def test_every_temperature_is_taken(shared: Served, temperature: float) -> None:
    """Whole numbers, as JavaScript writes them, and those that nothing could be divided by."""
    body = {"model": shared.model, "messages": user("I cough"), "temperature": temperature, "seed": 1}
    status, answer = post(shared, json.dumps(body).encode())
    assert status == 200, answer


def test_what_fails_in_one_answer_is_no_others_fault(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share every step, and end as they would have."""
    served = serve("guard=none", "generation.max_new_tokens=30", "max_tokens=200")
    alone = client(served).chat.completions.create(model=served.model, messages=user("My head hurts"))
    take = Reply.take

    def broken(reply: Reply, scores: Any) -> None:
        if len(reply.ids) == 3 and reply._seed == 7:
            raise ValueError("this one alone")
        take(reply, scores)

    monkeypatch.setattr(Reply, "take", broken)

    def answer(seed: int) -> str | None:
        try:
            done = client(served).chat.completions.create(model=served.model, messages=user("My head hurts"), seed=seed)
        except openai.InternalServerError as error:
            return str(error.status_code)
        return done.choices[0].message.content

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(answer, [1, 7, 2, 7]))
    assert found == [alone.choices[0].message.content, "503", alone.choices[0].message.content, "503"]


def test_a_conversation_of_many_turns_holds_nobody_up(serve: Callable[..., Served]) -> None:
    """What cannot fit is not rendered to find that out."""
    served = serve("guard=rules_only", "generation.max_new_tokens=4")
    turns: list[Any] = [{"role": role, "content": f"turn {i}"} for i in range(250) for role in ("user", "assistant")]
    rendered: list[int] = []
    renderer = served.serving.speaker.renderer
    original = renderer.render_prompt

    def counting(conversation: Any) -> Any:
        rendered.append(len(conversation.messages))
        return original(conversation)

    renderer.render_prompt = counting  # type: ignore[method-assign]
    answer = client(served).chat.completions.create(model=served.model, messages=[*turns, *user("and now?")])
    assert answer.usage is not None and answer.usage.prompt_tokens > 0
    assert len(rendered) <= 6 and max(rendered) <= 102


def test_a_token_is_read_as_bearer_tokens_are(serve: Callable[..., Served]) -> None:
    """The scheme in any case, and never without one."""
    served = serve("guard=none", token=TOKEN_VALUE)

    def status(authorization: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", served.port)
        connection.request("GET", "/v1/models", headers={"Authorization": authorization})
        return connection.getresponse().status

    found = [status(f"{scheme}{TOKEN_VALUE}") for scheme in ("Bearer ", "bearer ", "BEARER  ", "", "Basic ")]
    assert found == [200, 200, 200, 401, 401]


def test_a_proxy_on_this_machine_may_have_a_name(serve: Callable[..., Served]) -> None:
    """The name is allowed as host and as origin; others are not."""
    served = serve("guard=none", "allowed_hosts=[chat.example.org]", "generation.max_new_tokens=2")
    body = json.dumps({"model": served.model, "messages": user("hi")}).encode()
    for headers in (
        {"Host": "Chat.example.org", "Origin": "https://chat.example.org"},
        {"Origin": "https://chat.example.org"},
        {"Origin": f"http://LOCALHOST:{served.port}", "Host": f"localhost:{served.port}"},
    ):
        assert post(served, body, headers)[0] == 200
    assert post(served, body, {"Host": "other.example.org"})[0] == 403


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("PUT", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("POST", "/v1/completions", 404),
        ("GET", "/openapi.json", 404),
        ("POST", "/gradio_api/upload", 403),
    ],
)
def test_other_paths_and_methods_are_told_so(shared: Served, method: str, path: str, status: int) -> None:
    """In OpenAI's shape."""
    connection = http.client.HTTPConnection("127.0.0.1", shared.port)
    connection.request(method, path)
    response = connection.getresponse()
    assert response.status == status and json.loads(response.read())["error"]["message"]


def test_who_sends_too_slowly_is_let_go(serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a body and nothing more."""
    monkeypatch.setattr(api, "READ_SECONDS", 0.3)
    served = serve("guard=none")
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nContent-Length: 100\r\n\r\n"
        connection.sendall(head.encode() + b"{")
        connection.settimeout(10)
        assert b"408" in connection.recv(4096)


def test_a_server_that_goes_down_tells_everybody(serve: Callable[..., Served]) -> None:
    """Those who wait at once, those under way after their grace; nobody is left without an answer."""
    served = serve("guard=none", "max_batch=1", "generation.max_new_tokens=400", "max_tokens=400")

    def answer(i: int) -> int:
        try:
            client(served).chat.completions.create(model=served.model, messages=user(f"I cough {i}"))
        except openai.APIStatusError as error:
            return error.status_code
        return 200

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(answer, i) for i in range(4)]
        while not served.serving._running or len(served.serving._waiting) < 3:
            time.sleep(0.01)
        served.serving.retire(0.2)
        assert [one.result(20) for one in asked] == [503] * 4
    assert answer(9) == 503
