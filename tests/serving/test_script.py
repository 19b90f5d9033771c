"""The server as it is typed."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from medllm.config.compose import load_conf
from medllm.config.serve import ServeConf
from medllm.serving.server import listen
from tests.conftest import ROOT
from tests.serving.conftest import OWN


def test_nobody_else_is_served_unless_asked_for() -> None:
    """A server of health data listens at this machine's own address, and at no other by default."""
    conf = load_conf(ServeConf, ["artifact=x", "port=0"])
    assert conf.host == "127.0.0.1"
    with listen(conf) as door:
        assert door.getsockname()[0] == "127.0.0.1"


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_is_and_goes_when_it_is_told(trained: Path, tmp_path: Path, signum: int) -> None:
    """Page, API and vLLM's command; the exit code of the signal, and no traceback."""
    log = tmp_path / "log"
    command = [sys.executable, str(ROOT / "scripts" / "serve.py"), f"artifact={trained}", *OWN, "web=true"]
    with log.open("w") as file:
        server = subprocess.Popen(
            command, stderr=file, stdout=file, cwd=tmp_path, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
    for _ in range(600):
        found = re.search(r"api +(http://127.0.0.1:\d+)/v1", log.read_text())
        if found or server.poll() is not None:
            break
        time.sleep(0.1)
    assert found, log.read_text()
    for _ in range(100):
        try:
            with urllib.request.urlopen(f"{found[1]}/health") as response:
                assert response.read() == b'{"status":"ok"}'
            break
        except OSError:
            time.sleep(0.1)
    server.send_signal(signum)
    assert server.wait(20) in (128 + signum, -signum)
    text = log.read_text()
    assert "UNREVIEWED" in text and "vllm serve" in text and "page" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "artifact"),
        pytest.param(["artifact=nowhere"], "nowhere", marks=pytest.mark.slow),  # loads all libraries
        (["artifact=run", "port=70000"], "port=70000: is out of range"),
        (["artifact=run", "max_bach=3"], "did you mean max_batch?"),
    ],
)
def test_what_is_wrong_is_told_without_a_traceback(arguments: list[str], said: str, tmp_path: Path) -> None:
    """Exit code 2."""
    command = [sys.executable, str(ROOT / "scripts" / "serve.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
