"""Upload to a local server that speaks the hub's commit API."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from medllm.config.hub import HubConf
from medllm.errors import HubError
from medllm.hub import push


class Hub(BaseHTTPRequestHandler):
    """Accepts repositories and commits of regular files, and remembers them."""

    seen: dict[str, Any] = {}

    def do_POST(self) -> None:
        """Answers create, preupload and commit."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen["authorization"] = self.headers.get("Authorization")
        if self.seen.get("refuse"):
            self.answer(403, {"error": "You don't have the rights to create a model under this namespace"})
        elif self.path == "/api/repos/create":
            self.seen["create"] = json.loads(body)
            self.answer(200, {"url": f"http://{self.headers['Host']}/owner/{self.seen['create']['name']}", "id": "1"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            self.answer(200, {"files": modes})
        elif "/commit/" in self.path:
            lines = [json.loads(line) for line in body.decode().splitlines()]
            files = {line["value"]["path"]: line["value"]["content"] for line in lines if line["key"] == "file"}
            self.seen["files"] = {path: base64.b64decode(content) for path, content in files.items()}
            self.answer(
                200,
                {
                    "commitUrl": f"http://{self.headers['Host']}/owner/name/commit/abc",
                    "commitOid": "abc",
                    "hookOutput": "",
                },
            )
        else:
            self.answer(404, {})

    def do_GET(self) -> None:
        """Nothing to list."""
        self.answer(404, {"error": "not found"})

    def answer(self, status: int, value: dict[str, Any]) -> None:
        """Sends JSON."""
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        """Keeps quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A server on localhost, and the client pointed at it."""
    from huggingface_hub import constants

    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", endpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    Hub.seen.clear()
    yield Hub.seen
    server.shutdown()


def folder_with_files(folder: Path) -> Path:
    """A small artifact."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "manifest.json").write_text('{"format": 1}')
    return folder


def test_upload(hub: dict[str, Any], tmp_path: Path) -> None:
    """A private repository, every file in one commit, the token from the environment and in no file."""
    push(HubConf(True, "owner/name"), folder_with_files(tmp_path / "artifact"))
    assert hub["create"]["name"] == "name"
    assert hub["create"].get("visibility", "private" if hub["create"].get("private") else "public") == "private"
    assert set(hub["files"]) == {"adapter_config.json", "manifest.json"}
    assert hub["authorization"] == "Bearer hf_canary"
    assert not [content for content in hub["files"].values() if b"hf_canary" in content]


def test_a_refused_upload_is_one_message(hub: dict[str, Any], tmp_path: Path) -> None:
    """The artifact stays, the remedy is named, the token is not."""
    hub["refuse"] = True
    folder = folder_with_files(tmp_path / "artifact")
    with pytest.raises(HubError, match=r"hub.hub_model_id=owner/name cannot be uploaded") as caught:
        push(HubConf(True, "owner/name"), folder)
    assert "HF_TOKEN" in str(caught.value)
    assert "hf_canary" not in str(caught.value)
    assert folder.is_dir()
