"""MLflow's interface to a database, in this process alone.

`mlflow ui` starts four workers and eight processes for jobs that nothing here asks for, and leaves them behind when it is killed.
What they serve is one application; a single process serves it as well, and takes nothing with it but itself.
"""

import os
import socket
import warnings

import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from medllm.config.tracking import MlflowConf
from medllm.config.ui import UiConf
from medllm.console import say
from medllm.errors import ConfigError, Fault, TrackingError
from medllm.tracking.mlflow_store import artifact_location, is_there, knock, quieten, told

HOST = "127.0.0.1"
# By which this machine calls itself, and its browsers HOST.
NAMES = (HOST, "localhost")
# Seconds that answers under way may take once somebody wants it to end.
GRACE_S = 2


def show_runs(conf: UiConf) -> None:
    """Until somebody stops it.

    Raises:
        ConfigError: if the port cannot be had, or there is no such database yet.
        TrackingError: if the database cannot be used.
    """
    if not isinstance(conf.tracking, MlflowConf):
        raise TrackingError(f"tracking: nothing shows {type(conf.tracking).__name__}")
    uri = conf.tracking.tracking_uri
    if not is_there(conf.tracking):
        fix = "the first run makes it: python train.py"
        raise ConfigError(Fault("tracking.tracking_uri", "no such database yet", uri, fix=fix))
    with _listen(conf.port) as door, told(conf.tracking):
        knock(conf.tracking)
        port = door.getsockname()[1]
        _prepare(uri, port)
        with warnings.catch_warnings(action="ignore"):  # MLflow imports what Starlette will drop some day
            from mlflow.server.fastapi_app import app
        from mlflow.server.handlers import initialize_backend_stores

        initialize_backend_stores(uri, uri, artifact_location(conf.tracking))  # of experiments that the page makes
        guarded = _OwnPages(app, port)
        server = _Server(
            uvicorn.Config(guarded, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_S)
        )
        server.run(sockets=[door])


class _OwnPages:
    """Answers no page of another origin: MLflow itself lets those of every port of this machine read and write."""

    def __init__(self, app: ASGIApp, port: int):
        self.app = app
        self.origins = {f"http://{name}" for name in _names(port)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origins = {value.decode("latin-1") for name, value in scope.get("headers", []) if name == b"origin"}
        if origins <= self.origins:
            await self.app(scope, receive, send)
        else:
            await PlainTextResponse("a page of another origin", status_code=403)(scope, receive, send)


class _Server(uvicorn.Server):
    """Says where it is when it answers."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for door in sockets or []:
            say("runs", f"http://{HOST}:{door.getsockname()[1]}")


def _names(port: int) -> list[str]:
    """As browsers write where they are; without the port, if it is HTTP's."""
    return [name if port == 80 else f"{name}:{port}" for name in NAMES]


def _prepare(uri: str, port: int) -> None:
    """What `mlflow server` tells its workers, through their environment, before they import the application."""
    from mlflow.server import constants

    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: uri,
        constants.REGISTRY_STORE_URI_ENV_VAR: uri,
        constants.SERVE_ARTIFACTS_ENV_VAR: "false",  # files are read where the runs left them
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # Whatever the environment says, it opens nothing.
        "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false",
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(_names(port)),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{name}" for name in _names(port)),
        "MLFLOW_SERVER_X_FRAME_OPTIONS": "SAMEORIGIN",
        "MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS": "false",
    }
    quieten()


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        problem = f"cannot be listened at on {HOST}: {os.strerror(error.errno or 0)}"
        raise ConfigError(Fault("port", problem, str(port), fix="port=0 takes a free one")) from None
