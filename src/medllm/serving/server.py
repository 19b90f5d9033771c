"""Puts model, API and page together and listens."""

import importlib.util
import os
import socket
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from medllm.artifact import Artifact
from medllm.chat.speaker import Speaker
from medllm.chat.terminal import answering
from medllm.config.serve import ServeConf
from medllm.config.tracking import MlflowConf
from medllm.console import say
from medllm.errors import ConfigError, Fault
from medllm.inference.load import open_artifact
from medllm.serving.api import Doorman, build_api, is_loopback
from medllm.serving.batcher import Batcher
from medllm.serving.fleet import fleet_command

TOKEN = "MEDLLM_SERVE_TOKEN"
SHORTEST_TOKEN = 16
GRACE_S = 5
# Open at once beside requests that are answered or wait: pages, probes.
CONNECTIONS = 256


def check_door(conf: ServeConf) -> str:
    """The token that the environment gives; empty where none is needed.

    Raises:
        ConfigError: if others than this machine could come in without one, or the page cannot be made.
    """
    token, faults = os.environ.get(TOKEN, ""), []
    if token and len(token) < SHORTEST_TOKEN:
        fix = f"{TOKEN}=$(openssl rand -hex 32)"
        faults.append(Fault(TOKEN, f"has {len(token)} characters", allowed=f"at least {SHORTEST_TOKEN}", fix=fix))
    if not token and not is_loopback(conf.host):
        fix = f"{TOKEN}=$(openssl rand -hex 32) in the environment, or host=127.0.0.1"
        faults.append(Fault("host", "is reached from other machines, and no token is set", conf.host, fix=fix))
    if conf.web and importlib.util.find_spec("gradio") is None:
        fix = "pip install 'medllm[ui]', or web=false for the API alone"
        faults.append(Fault("web", "needs gradio, which is not installed", "true", fix=fix))
    if conf.feedback and not isinstance(conf.tracking, MlflowConf):
        faults.append(Fault("feedback", "is recorded in MLflow, and there is no store", "true", fix="tracking=mlflow"))
    if faults:
        raise ConfigError(faults)
    return token


def listen(conf: ServeConf) -> socket.socket:
    """The port, taken before a model is loaded.

    Raises:
        ConfigError: if it cannot be had.
    """
    both = conf.host == "::" and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if ":" in conf.host else socket.AF_INET
    try:
        return socket.create_server((conf.host, conf.port), family=family, dualstack_ipv6=both)
    except OSError as error:
        problem = f"cannot be listened at on {conf.host}: {os.strerror(error.errno or 0)}"
        raise ConfigError(Fault("port", problem, str(conf.port), fix="port=0 takes a free one")) from None


def build_app(conf: ServeConf, serving: Batcher, token: str) -> ASGIApp:
    """API and page behind their door.

    Args:
        conf: Of the server.
        serving: Answers.
        token: Empty for none.
    """
    app = build_api(conf, serving)
    if conf.web:
        from medllm.serving.web import mount_page  # imports gradio

        mount_page(app, conf, serving, token)
    local = is_loopback(conf.host)
    return Doorman(app, token, local=local, hosts=conf.allowed_hosts, max_bytes=conf.max_bytes)


class Server(uvicorn.Server):
    """Tells the batcher as soon as somebody wants it to end, so that all who wait are told too.

    Args:
        config: uvicorn's.
        serving: Answers.
    """

    def __init__(self, config: uvicorn.Config, serving: Batcher):
        super().__init__(config)
        self._serving = serving

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal handler."""
        self._serving.retire(GRACE_S - 1)
        super().handle_exit(sig, frame)


def serve(conf: ServeConf, folder: Path) -> None:
    """Until somebody stops it: Ctrl-C or SIGTERM lets answers under way end, for a few seconds.

    Raises:
        ConfigError: if it may not or cannot listen.
        ArtifactError: if the artifact is damaged.
        ModelError: if its base cannot be found.
    """
    token = check_door(conf)
    with listen(conf) as door:
        loaded = open_artifact(folder, use_cpu=conf.use_cpu)
        speaker = Speaker(conf, loaded)
        serving = Batcher(speaker, conf.max_batch, conf.max_queue)
        try:
            app = build_app(conf, serving, token)
            _say_where(conf, door, loaded.artifact)
            settings = uvicorn.Config(
                app,
                log_level="critical",  # the doorman tells of errors, without what people wrote
                access_log=False,
                server_header=False,
                limit_concurrency=conf.max_batch + conf.max_queue + CONNECTIONS,
                timeout_graceful_shutdown=GRACE_S,
            )
            Server(settings, serving).run(sockets=[door])
        finally:
            serving.close()
            speaker.close()


def _say_where(conf: ServeConf, door: socket.socket, artifact: Artifact) -> None:
    host, port = door.getsockname()[:2]
    name = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    place = f"http://{name}:{port}"
    say("model", answering(artifact))
    if conf.web:
        say("page", place)
    say("api", f"{place}/v1, as OpenAI's; {place}/health, {place}/metrics")
    say("fleet", f"without page and guard, on GPUs: {fleet_command(artifact)}")
