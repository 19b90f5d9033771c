"""A server of the tiny artifact, in a thread, at a port of its own."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn

from medllm.chat.speaker import Speaker
from medllm.config.compose import load_conf
from medllm.config.serve import ServeConf
from medllm.inference.load import open_artifact
from medllm.serving.batcher import Batcher
from medllm.serving.server import build_app, listen
from tests.evaluation.conftest import run, trained

__all__ = ["run", "trained"]

# A model of random weights repeats one token that is no text, unless it may not.
OWN = ["use_cpu=true", "tracking=none", "web=false", "port=0", "generation.repetition_penalty=5"]


def conf_of(artifact: Path, *overrides: str) -> ServeConf:
    """A server's configuration."""
    return load_conf(ServeConf, [f"artifact={artifact}", *OWN, *overrides])


@contextlib.contextmanager
def speaking(conf: ServeConf, artifact: Path) -> Iterator[Speaker]:
    """Who answers."""
    speaker = Speaker(conf, open_artifact(artifact, use_cpu=True))
    try:
        yield speaker
    finally:
        speaker.close()


class Served:
    """A server that runs."""

    def __init__(self, serving: Batcher, port: int):
        self.serving, self.port = serving, port
        self.url = f"http://127.0.0.1:{port}"

    @property
    def model(self) -> str:
        """The tuned model's name."""
        return self.serving.speaker.loaded.artifact.conf.name


@contextlib.contextmanager
def running(artifact: Path, *overrides: str, token: str = "") -> Iterator[Served]:
    """A server in a thread."""
    conf = conf_of(artifact, *overrides)
    with speaking(conf, artifact / "artifact") as speaker, listen(conf) as door:
        serving = Batcher(speaker, conf.max_batch, conf.max_queue)
        app = build_app(conf, serving, token)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        thread = threading.Thread(target=lambda: server.run(sockets=[door]), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield Served(serving, door.getsockname()[1])
        finally:
            server.should_exit = True
            serving.close()
            thread.join()


@pytest.fixture
def serve(trained: Path) -> Iterator[Callable[..., Served]]:
    """Starts servers of the tiny artifact; they end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *overrides, token="": stack.enter_context(running(trained, *overrides, token=token))
