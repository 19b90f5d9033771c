"""A server against one answer after another: `python -m benchmarks.serving ARTIFACT [OVERRIDE...]`.

    --clients 8     that ask at once, each again as soon as it has its answer
    --requests 32   of them all
    --tokens 96     longest answer

Every override of scripts/serve.py is taken. Both sides answer the same questions with the same weights: `generate` alone, one by
one, without guard and server; then the server, guard off and guard on, over HTTP.

    requests/s, tokens/s    of the whole side
    ratio                   of tokens/s to the first row
    first s, whole s        median and 95th percentile of a request's time to its first text and to its end, as its client sees it
"""

import argparse
import http.client
import json
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from medllm.config.compose import load_conf
from medllm.config.serve import ServeConf
from medllm.conversation import Conversation
from medllm.data.pipeline import held_out
from medllm.inference.generate import ask, generate
from medllm.inference.load import LoadedArtifact, open_artifact
from medllm.libraries import prepare_libraries
from medllm.locate import find_artifact

SERVE = Path(__file__).parents[1] / "scripts" / "serve.py"


@dataclass(frozen=True)
class Asked:
    """One request.

    Attributes:
        first: Seconds to its first text.
        whole: Seconds to its end.
        tokens: Of its answer.
        ended: When, on `time.perf_counter`'s clock.
    """

    first: float
    whole: float
    tokens: int
    ended: float


def one_by_one(loaded: LoadedArtifact, questions: list[Conversation], tokens: int) -> list[Asked]:
    """`generate` alone."""
    conf = replace(loaded.artifact.conf.generation, max_new_tokens=tokens)
    found = []
    with loaded.model(tuned=True) as model:
        generate(model, loaded.renderer, questions[:1], conf)
        for question in questions:
            started = time.perf_counter()
            (answer,) = generate(model, loaded.renderer, [question], conf)
            seconds = time.perf_counter() - started
            count = len(loaded.renderer.tokenizer(answer.text, add_special_tokens=False).input_ids) + answer.finished
            found.append(Asked(seconds, seconds, count, started + seconds))
    return found


def served(name: str, overrides: list[str], questions: list[Conversation], clients: int, tokens: int) -> list[Asked]:
    """The same questions over HTTP, by several clients, of a server in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, str(SERVE), *overrides, f"port={port}"], stderr=subprocess.PIPE)
    try:
        while not is_there(port):
            if server.poll() is not None:
                raise SystemExit(f"the server ended:\n{server.stderr.read().decode() if server.stderr else ''}")
            time.sleep(0.2)
        request(port, name, questions[0], tokens)
        with ThreadPoolExecutor(clients) as pool:
            return list(pool.map(lambda question: request(port, name, question, tokens), questions))
    finally:
        server.terminate()
        server.wait()


def is_there(port: int) -> bool:
    """Whether it answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def request(port: int, model: str, question: Conversation, tokens: int) -> Asked:
    """One streamed request."""
    started = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    messages = [{"role": message.role, "content": message.content} for message in question.messages]
    body = {"model": model, "messages": messages, "max_tokens": tokens, "stream": True}
    body["stream_options"] = {"include_usage": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    first, count = 0.0, 0
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        if "error" in chunk:
            raise SystemExit(chunk["error"]["message"])
        if chunk["choices"] and chunk["choices"][0]["delta"].get("content") and not first:
            first = time.perf_counter() - started
        count = (chunk.get("usage") or {}).get("completion_tokens", count)
    ended = time.perf_counter()
    return Asked(first, ended - started, count, ended)


def main() -> None:
    """Runs all sides and prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("artifact")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=96)
    options, overrides = parser.parse_known_args()
    prepare_libraries()
    own = [f"artifact={options.artifact}", "tracking=none", "web=false", f"max_batch={options.clients}", *overrides]
    conf = load_conf(ServeConf, own)
    loaded = open_artifact(find_artifact(conf.artifact, conf.tracking), use_cpu=conf.use_cpu)
    questions, name = _questions(loaded, options.requests), loaded.artifact.conf.name
    rate = 0.0
    print(f"{options.requests} requests, {options.clients} clients, at most {options.tokens} tokens, {loaded.device}")
    print(f"{'':22}{'requests/s':>11}{'tokens/s':>10}{'ratio':>7}{'first s':>16}{'whole s':>16}")
    for side, more in (("generate, one by one", []), ("server, guard=none", ["guard=none"]), ("server, guard", [])):
        if side.startswith("generate"):
            found = one_by_one(loaded, questions, options.tokens)
            loaded.close()
        else:
            found = served(name, [*own, *more], questions, options.clients, options.tokens)
        seconds = max(one.ended for one in found) - min(one.ended - one.whole for one in found)
        tokens = sum(one.tokens for one in found) / seconds
        rate = rate or tokens
        spans = [_span([one.first for one in found]), _span([one.whole for one in found])]
        print(f"{side:22}{len(found) / seconds:11.2f}{tokens:10.1f}{tokens / rate:7.2f}{spans[0]:>16}{spans[1]:>16}")


def _questions(loaded: LoadedArtifact, count: int) -> list[Conversation]:
    """First questions that the run held out, over and over."""
    conversations = held_out(loaded.artifact.conf.data, loaded.artifact.manifest["data"]["fingerprint"])
    first = [next(m.content for m in c.messages if m.role == "user") for c in conversations]
    return [ask(first[i % len(first)]) for i in range(count)]


def _span(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} / {statistics.quantiles(values, n=20)[-1]:.2f}"


if __name__ == "__main__":
    main()
