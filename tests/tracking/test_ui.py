"""`scripts/ui.py` shows the run record, to this machine alone, and is gone when it ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import fields
from pathlib import Path

import psutil
import pytest

from medllm.config.compose import load_conf
from medllm.config.tracking import MlflowConf
from medllm.config.ui import UiConf
from medllm.errors import ConfigError
from medllm.tracking.build import open_record
from medllm.tracking.record import Opening
from medllm.tracking.ui import _listen, show_runs

ROOT = Path(__file__).parents[2]
BOUND_MIB = 500


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["tracking.tracking_uri=http://127.0.0.1:5000"], "is a server, which shows its runs itself"),
        (["tracking=none"], "keeps no runs"),
        (["tracking.tracking_uri=sqlite:////nowhere/mlflow.db"], "no such database yet"),
        (["port=70000"], "port=70000: is out of range"),
        (["host=0.0.0.0"], "host=0.0.0.0: no such key"),
    ],
)
def test_what_cannot_be_shown(overrides: list[str], said: str) -> None:
    """Is refused before MLflow is imported, and no database is made by looking; another address to listen at is no key."""
    with pytest.raises(ConfigError, match=re.escape(said)):
        show_runs(load_conf(UiConf, overrides))


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """Is named, with the remedy."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        overrides = [f"port={taken.getsockname()[1]}", f"tracking.tracking_uri=sqlite:///{tmp_path}/mlflow.db"]
        with pytest.raises(ConfigError, match="port=0 takes a free one"):
            show_runs(load_conf(UiConf, overrides))


def test_it_is_this_machines_alone() -> None:
    """It listens at its address; there is no key for another."""
    assert "host" not in {f.name for f in fields(UiConf)}
    with _listen(load_conf(UiConf, ["port=0"]).port) as door:
        assert door.getsockname()[0] == "127.0.0.1"


def answer(address: str, data: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """Status and body."""
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"} | headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, b""


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """A process and all that it started."""
    head = psutil.Process(process.pid)
    return [head, *head.children(recursive=True)]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_it_answers_and_leaves_nothing(tmp_path: Path, signum: signal.Signals) -> None:
    """Runs and their files are shown within the memory promised, no other name and no other machine; no process is left."""
    conf = MlflowConf(f"sqlite:///{tmp_path}/mlflow.db", "test", f"{tmp_path}/mlruns")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file.txt").write_text("what a run left")
    with open_record(conf, Opening("one"), tmp_path / "run") as record:
        record.log_artifact(tmp_path / "run" / "file.txt")
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "ui.py"), "port=0", f"tracking.tracking_uri={conf.tracking_uri}"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ
        | {
            "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true",
            "MLFLOW_SERVER_ALLOWED_HOSTS": "*",
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "*",
            "MLFLOW_SERVER_X_FRAME_OPTIONS": "NONE",
        },
    )
    assert process.stderr is not None
    try:
        address = process.stderr.readline().split()[-1]
        assert answer(f"{address}/")[0] == 200
        print(f"ready after {time.perf_counter() - began:.1f} s")
        assert b"one" in answer(f"{address}/api/2.0/mlflow/runs/get?run_id={record.id}")[1]
        shown = answer(f"{address}/get-artifact?path=file.txt&run_uuid={record.id}")
        assert shown == (200, b"what a run left")
        port = address.rpartition(":")[2]
        assert answer(f"{address}/", Host=f"localhost:{port}")[0] == 200
        for host in ("evil.example", f"evil.example:{port}", "localhost:1", f"192.168.0.1:{port}", f"0.0.0.0:{port}"):
            assert answer(f"{address}/", Host=host)[0] == 403, host
        tagging, tag = f"{address}/api/2.0/mlflow/runs/set-tag", {"run_id": record.id, "key": "a", "value": "b"}
        for origin in ("https://evil.example", "http://localhost:9999", f"https://localhost:{port}", "null"):
            assert answer(tagging, json.dumps(tag).encode(), Origin=origin)[0] == 403, origin
            assert answer(f"{address}/", Origin=origin)[0] == 403, origin
        for origin in (f"http://127.0.0.1:{port}", f"http://localhost:{port}"):
            assert answer(tagging, json.dumps(tag).encode(), Origin=origin)[0] == 200, origin
        made = json.loads(answer(f"{address}/api/2.0/mlflow/experiments/create", b'{"name": "made there"}')[1])
        kept = answer(f"{address}/api/2.0/mlflow/experiments/get?experiment_id={made['experiment_id']}")[1]
        place = json.loads(kept)["experiment"]["artifact_location"]
        assert place.startswith((tmp_path / "mlruns").as_uri())
        with urllib.request.urlopen(f"{address}/") as response:
            assert response.headers["X-Frame-Options"] == "SAMEORIGIN"
        processes = family(process)
        listening = [
            c.laddr for one in processes for c in one.net_connections("inet") if c.status == psutil.CONN_LISTEN
        ]
        assert {place.ip for place in listening} == {"127.0.0.1"}
        pss = sum(one.memory_full_info().pss for one in processes) / 2**20 if sys.platform == "linux" else 0
        print(f"{len(processes)} processes, {pss:.0f} MiB")
        assert pss <= BOUND_MIB
        process.send_signal(signum)
        assert process.wait(60) == (143 if signum == signal.SIGTERM else -signum)
        _, alive = psutil.wait_procs(processes[1:], timeout=20)
        assert alive == []
    finally:
        process.kill()
        process.wait()
