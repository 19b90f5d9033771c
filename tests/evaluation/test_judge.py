"""A judge behind an OpenAI-compatible server: what it says, and all that may go wrong with it."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from medllm.config.evaluation.rubric import JudgeConf
from medllm.errors import ConfigError, JudgeError
from medllm.evaluation.grading import add_grades, load_answers, load_grades
from medllm.evaluation.judge import Judge, grade_all, read_verdict
from tests.evaluation.test_grading import evaluation, line, values  # noqa: F401

ROOT = Path(__file__).parents[2]


class Server:
    """Answers as `reply` says: a text, a status, raw bytes, or what a function of the request returns.

    Attributes:
        asked: Bodies of requests.
        headers: Of requests.
        reply: What the next answers are; the last one repeats.
    """

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.reply: list[Any] = ["{}"]
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                self.send(b'{"data": []}')

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(body)
                outer.headers.append(dict(self.headers))
                reply = outer.reply.pop(0) if len(outer.reply) > 1 else outer.reply[0]
                if callable(reply):
                    reply = reply(body)
                if isinstance(reply, int):
                    self.send_response(reply)
                    self.send_header("Location", f"{outer.url}/elsewhere")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                elif isinstance(reply, bytes):
                    self.send(reply)
                else:
                    self.send(json.dumps({"choices": [{"message": {"content": reply}}]}).encode())

            def send(self, body: bytes) -> None:
                try:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except BrokenPipeError:
                    pass  # nobody waited

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    """Of this test alone."""
    made = Server()
    yield made
    made.server.shutdown()
    made.server.server_close()


def judge(server: Server, **settings: Any) -> Judge:
    """For this server."""
    return Judge(JudgeConf(base_url=server.url, model="local-judge", **settings))


def verdict(met: bool) -> str:
    """As a judge replies."""
    return json.dumps({"explanation": "It {does}.", "criteria_met": met})


def answer(tmp_path: Path) -> Any:
    """An answer to be judged, below this folder."""
    (tmp_path / "items.jsonl").write_text(json.dumps(line("cough", "base", "Since when?")) + "\n")
    return load_answers(tmp_path)[0]


def test_each_criterion_is_asked_with_all_it_needs(server: Server, tmp_path: Path, monkeypatch: Any) -> None:
    """Conversation, answer and criterion; temperature 0; the token from the environment; grades labelled as a judge's."""
    monkeypatch.setenv("MEDLLM_JUDGE_TOKEN", "secret-1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # a proxy that is not there: it must not be asked
    server.reply = [verdict(True), verdict(False)]
    grades = judge(server).grade(answer(tmp_path))
    assert grades is not None
    assert (grades.source, grades.rater, grades.met) == ("judge", "local-judge", [True, False])
    assert grades.comments == ["It {does}."] * 2
    assert [body["model"] for body in server.asked] == ["local-judge"] * 2
    assert [body["temperature"] for body in server.asked] == [0, 0]
    for body, criterion in zip(server.asked, ("Asks since when.", "Promises a cure."), strict=True):
        text = body["messages"][-1]["content"]
        assert all(part in text for part in ("I cough", "Since when?", criterion))
    assert server.headers[0]["Authorization"] == "Bearer secret-1"


def test_no_token_no_header(server: Server, tmp_path: Path, monkeypatch: Any) -> None:
    """A server at home wants none."""
    monkeypatch.delenv("MEDLLM_JUDGE_TOKEN", raising=False)
    server.reply = [verdict(True)]
    judge(server).grade(answer(tmp_path))
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"explanation": "x", "criteria_met": true}', (True, "x")),
        ('```json\n{"criteria_met": false}\n```', (False, "")),
        ('<think>{"criteria_met": true}?</think> {"explanation": "{a}\nb", "criteria_met": false}', (False, "{a}\nb")),
        ('{"criteria_met": "yes"}', None),
        ("criteria_met: true", None),
        ('{"criteria_met": true', None),
        ("[]", None),
        ("", None),
    ],
)
def test_a_verdict_is_read_or_it_is_none(text: str, expected: Any) -> None:
    """The last object with a true or false; nothing is guessed."""
    assert read_verdict({"choices": [{"message": {"content": text}}]}) == expected


@pytest.mark.parametrize("reply", [None, [], {}, {"choices": []}, {"choices": [{"message": None}]}, {"error": "x"}, 3])
def test_what_is_no_completion_has_no_verdict(reply: Any) -> None:
    """Whatever JSON a server may send."""
    assert read_verdict(reply) is None


def test_nonsense_is_asked_again_and_then_left_ungraded(server: Server, tmp_path: Path) -> None:
    """Twice nonsense and then a verdict is a verdict; nothing but nonsense leaves the answer without grades."""
    server.reply = ["well ...", b"<html>", verdict(True), verdict(False)]
    grades = judge(server).grade(answer(tmp_path))
    assert grades is not None and grades.met == [True, False]
    server.asked.clear()
    server.reply = [b"not json"]
    advanced: list[int] = []
    one = judge(server)
    assert one.grade(answer(tmp_path), advanced.append) is None
    assert (len(server.asked), one.unreadable, sum(advanced)) == (3, 1, 2)


def test_a_server_that_recovers_is_forgiven_and_one_that_fails_is_told(server: Server, tmp_path: Path) -> None:
    """Status, fix, no text of the patient."""
    server.reply = [500, verdict(True), 503, verdict(True)]
    assert judge(server).grade(answer(tmp_path)) is not None
    for status, fix in ((500, "server's log"), (404, "as the server calls it"), (401, "set MEDLLM_JUDGE_TOKEN")):
        server.reply = [status]
        with pytest.raises(JudgeError, match=f"status {status}") as error:
            judge(server).grade(answer(tmp_path))
        assert fix in str(error.value)
        assert "cough" not in str(error.value)


def test_nothing_follows_a_redirect(server: Server, tmp_path: Path) -> None:
    """Text goes to the address that was given."""
    server.reply = [307]
    with pytest.raises(JudgeError, match="status 307"):
        judge(server, attempts=1).grade(answer(tmp_path))
    assert len(server.asked) == 1


def test_a_slow_server_is_given_up(server: Server, tmp_path: Path) -> None:
    """After `timeout_seconds`, while it still says nothing."""
    released = threading.Event()
    server.reply = [lambda body: released.wait() and "{}"]
    with pytest.raises(JudgeError, match=r"no answer within 0\.2 s"):
        judge(server, timeout_seconds=0.2, attempts=2).grade(answer(tmp_path))
    assert len(server.asked) == 2
    released.set()


def test_a_dead_server_is_told_before_any_work(tmp_path: Path) -> None:
    """Nothing listens there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        dead = JudgeConf(base_url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1", model="m")
        with pytest.raises(JudgeError, match="no judge answers") as error:
            Judge(dead).check()
    assert "fix: start the server, or base_url=http" in str(error.value)


def test_what_is_judged_is_kept_when_the_server_dies(server: Server, evaluation: Path) -> None:  # noqa: F811
    """Grades are written answer by answer, in figures of their own, and nobody counts them as people's."""
    server.reply = [verdict(True)] * 8 + [500]
    one = judge(server, attempts=1)
    with pytest.raises(JudgeError):
        grade_all(one, load_answers(evaluation), lambda grades: add_grades(evaluation, [grades]), lambda _: None)
    assert len(load_grades(evaluation)) == 4
    graded = [found for found in values(evaluation).values() if "rubric/judge/score" in found]
    assert len(graded) == 4
    assert all(found["rubric/graded"] == [0, 1] and "rubric/score" not in found for found in graded)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"base_url": "https://api.example.com/v1"}, "is another machine"),
        ({"base_url": "http://192.168.0.7:8000/v1"}, "is another machine"),
        ({"base_url": "http://localhost.example.com/v1"}, "is another machine"),
        ({"base_url": "localhost:8000"}, "base_url=localhost:8000: is no address"),
        ({"base_url": ""}, "base_url: is no address"),
        ({"base_url": "localhost:8000/v1?key=pass"}, "base_url=localhost:8000/v1: is no address"),
        ({"base_url": "user:pass@localhost/v1"}, r"base_url=\.\.\.: is no address"),
        ({"base_url": "file:///etc/passwd"}, "is no address"),
        ({"base_url": "http://user:pass@localhost/v1"}, "is no address"),
        ({"base_url": "http://[::1/v1"}, "is no address"),
        ({"base_url": "http://localhost:99999/v1"}, "is no address"),
        ({"model": ""}, "names no model"),
        ({"timeout_seconds": 0}, "is out of range"),
    ],
)
def test_an_address_that_is_not_this_machine_is_refused(settings: dict[str, Any], told: str) -> None:
    """Conversations leave it only where that was said; a password is never repeated."""
    with pytest.raises(ConfigError, match=told) as error:
        JudgeConf(**{"model": "m", **settings})
    assert "pass" not in str(error.value).replace("password", "").replace("passwd", "")


@pytest.mark.parametrize("url", ["http://localhost:1/v1", "http://127.0.0.2:1/v1", "http://[::1]:1/v1"])
def test_this_machine_has_several_names(url: str) -> None:
    """And another one may be allowed."""
    assert JudgeConf(base_url=url, model="m").base_url == url
    assert JudgeConf(base_url="https://judge.example.com/v1", model="m", allow_remote=True).allow_remote


def grade(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Types `python scripts/grade.py ...`."""
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "grade.py"), *arguments], capture_output=True, text=True
    )


@pytest.mark.slow
def test_the_script_walks_the_round_trip(server: Server, tmp_path: Path) -> None:
    """Judge by the command line: labelled, shown, exit code 0; a second time there is nothing left to ask."""
    answer(tmp_path)
    server.reply = [verdict(True)]
    place = [f"evaluation={tmp_path}", "model=local-judge", f"base_url={server.url}"]
    done = grade("judge", *place)
    assert done.returncode == 0, done.stderr
    assert "LLM_JUDGE local-judge graded 1 answers; 0 could not be read" in done.stdout
    assert "rubric/judge/score" in done.stdout and "0.500" in done.stdout
    server.asked.clear()
    assert grade("judge", *place).returncode == 0
    assert server.asked == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["mark"], "mark: no such step"),
        (["export"], "evaluation: is needed to export"),
        (["export", "evaluation=x", "rater=y"], "rater: no such option"),
        (["import", "evaluation=x", "sheet=y"], "rater: is needed to import"),
        (["export", "evaluation=x", "seed=y"], "seed=y: is no whole number"),
        (["export", "evaluation=x", "seed=\u00b2"], "seed=\u00b2: is no whole number"),
        (["judge", "evaluation=x", "model=m", "timeout_seconds=soon"], "timeout_seconds=soon: has the wrong type"),
        (["judge", "evaluation=x", "model=m", "timeout_seconds=soon"], "allowed: a number"),
        (["judge", "evaluation=x", "model=m", "attempts=abc"], "attempts=abc: has the wrong type"),
        (["judge", "evaluation=x", "model=m", "attempts=abc"], "allowed: a whole number"),
        (["judge", "evaluation=x", "model=m", "allow_remote=maybe"], "allowed: true or false"),
        (["judge", "evaluation=x", "model=m", "base_url=https://example.com"], "is another machine"),
    ],
)
def test_the_script_refuses_in_one_message(
    arguments: list[str], told: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, no traceback."""
    import runpy

    monkeypatch.setattr(sys, "argv", ["grade.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / "scripts" / "grade.py"), run_name="__main__")
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert told in shown
    assert "Traceback" not in shown
