"""A hub on localhost that speaks what `huggingface_hub` speaks to publish and to download models, and remembers all of it.

Repositories are lists of commits, commits are files by name. Files in safetensors are large ones: they come through git-lfs's
batch API, in one part or in several, and are checked by their SHA-256 before a commit may name them.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "canary" * 6


@dataclass
class Repo:
    """One repository."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def at(self, revision: str) -> str:
        """The commit of a branch, a tag, or itself."""
        return self.branches.get(revision) or self.tags.get(revision) or revision

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        """A new one on a branch."""
        oid = hashlib.sha1(repr((len(self.commits), branch, sorted(files))).encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid


@dataclass
class Hub:
    """What the server holds, has been asked, and is to do wrong.

    Attributes:
        requests: Method, path and authorization of each, in order.
        faults: By part of a path, what to answer instead, each once: a status, or 0 to hang up.
        role: Of the token.
        part_bytes: Size of the parts of large files; 0 takes them whole.
        lost: Names of files that a commit leaves out though it was told to hold them.
    """

    endpoint: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    faults: list[tuple[str, int]] = field(default_factory=list)
    role: str = "write"
    part_bytes: int = 0
    lost: set[str] = field(default_factory=set)

    def asked(self, part: str) -> list[str]:
        """Requests whose path holds this."""
        return [f"{method} {path}" for method, path, _ in self.requests if part in path]


def is_large(name: str) -> bool:
    """Whether a file comes through git-lfs."""
    return name.endswith(".safetensors")


def blob_id(content: bytes) -> str:
    """Git's hash of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers by method and path."""

    hub: Hub

    def answer(self, status: int, value: Any = None, content: bytes | None = None, **headers: str) -> None:
        """Sends JSON, or bytes."""
        sent = json.dumps(value).encode() if content is None else content
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if content is None else "application/octet-stream")
        self.send_header("Content-Length", str(len(sent)))
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(sent)

    def refuse(self, status: int, error: str = "", code: str = "") -> None:
        """Sends an error as the hub does."""
        self.answer(status, {"error": error}, **({"X_Error_Code": code} if code else {}))

    def log_message(self, *arguments: Any) -> None:
        """Keeps quiet."""

    def handle_any(self) -> None:
        """One request."""
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        token = self.headers.get("Authorization", "")
        hub.requests.append((self.command, path, token))
        for fault in hub.faults:
            if fault[0] in path:
                hub.faults.remove(fault)
                if not fault[1]:
                    self.close_connection = True
                    self.connection.close()
                    return
                self.refuse(fault[1], f"as it was told, to {token.removeprefix('Bearer ')}")
                return
        if path.startswith("/large/"):  # another host's, as at the hub: it knows no token
            self.take_large(path, body)
            return
        if token != f"Bearer {TOKEN}":
            self.refuse(401, "Invalid username or password.")
            return
        for pattern, action in (
            (r"GET /api/whoami-v2", self.whoami),
            (r"POST /api/validate-yaml", lambda: self.answer(200, {"errors": [], "warnings": []})),
            (r"POST /api/repos/create", lambda: self.create(json.loads(body))),
            (r"GET /api/models/([^/]+/[^/]+)(?:/revision/(.+))?", self.info),
            (r"GET /api/models/([^/]+/[^/]+)/refs", self.refs),
            (r"GET /api/models/([^/]+/[^/]+)/tree/(.+)", self.tree),
            (r"POST /api/models/([^/]+/[^/]+)/preupload/(.+)", lambda *at: self.preupload(*at, json.loads(body))),
            (r"POST /api/models/([^/]+/[^/]+)/commit/(.+)", lambda *at: self.commit(*at, body)),
            (r"POST /api/models/([^/]+/[^/]+)/branch/(.+)", self.branch),
            (r"POST /api/models/([^/]+/[^/]+)/tag/(.+)", lambda *at: self.tag(*at, json.loads(body)["tag"])),
            (r"POST /([^/]+/[^/]+)\.git/info/lfs/objects/batch", lambda repo: self.batch(json.loads(body))),
            (r"(?:GET|HEAD) /([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.resolve),
        ):
            match = re.fullmatch(pattern, f"{self.command} {path}")
            if match:
                named = match[1] if match.re.groups else ""
                if named and named not in hub.repos:
                    self.refuse(404, "Repository not found", "RepoNotFound")
                else:
                    action(*match.groups())
                return
        self.refuse(404, "no such address")

    def do_GET(self) -> None:
        """As any."""
        self.handle_any()

    def do_HEAD(self) -> None:
        """As any."""
        self.handle_any()

    def do_POST(self) -> None:
        """As any."""
        self.handle_any()

    def do_PUT(self) -> None:
        """As any."""
        self.handle_any()

    def whoami(self) -> None:
        """Who the token is of, and what it may."""
        self.answer(200, {"name": "clinic", "auth": {"accessToken": {"role": self.hub.role}}})

    def create(self, asked: dict[str, Any]) -> None:
        """A repository with the hub's own first commit."""
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != "clinic":
            self.refuse(403, "You don't have the rights to create a model under this namespace")
            return
        private = asked["visibility"] == "private" if "visibility" in asked else bool(asked.get("private"))
        self.hub.repos[name] = Repo(private)
        self.hub.repos[name].commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        self.answer(200, {"url": f"{self.hub.endpoint}/{name}", "name": name})

    def info(self, name: str, revision: str | None) -> None:
        """Of a repository."""
        repo = self.hub.repos[name]
        oid = repo.at(revision or "main")
        if oid not in repo.commits:
            self.refuse(404, "no such revision", "RevisionNotFound")
            return
        files = [{"rfilename": file} for file in repo.commits[oid]]
        self.answer(200, {"id": name, "sha": oid, "private": repo.private, "siblings": files, "tags": []})

    def refs(self, name: str) -> None:
        """Branches and tags."""
        repo = self.hub.repos[name]

        def told(kind: str, refs: dict[str, str]) -> list[dict[str, str]]:
            return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": oid} for n, oid in refs.items()]

        self.answer(200, {"branches": told("heads", repo.branches), "tags": told("tags", repo.tags), "converts": []})

    def tree(self, name: str, revision: str) -> None:
        """Files of a commit."""
        repo = self.hub.repos[name]
        entries: list[dict[str, Any]] = []
        for file, content in repo.commits[repo.at(revision)].items():
            entry = {"type": "file", "path": file, "size": len(content), "oid": blob_id(content)}
            if is_large(file):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
            entries.append(entry)
        self.answer(200, entries)

    def preupload(self, name: str, revision: str, asked: dict[str, Any]) -> None:
        """Which files are large, and what is there of them."""
        repo = self.hub.repos[name]
        there = repo.commits[repo.at(revision)]
        found = []
        for file in asked["files"]:
            large, content = is_large(file["path"]), there.get(file["path"])
            oid = None
            if content is not None:
                oid = hashlib.sha256(content).hexdigest() if large else blob_id(content)
            mode = "lfs" if large else "regular"
            found.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer(200, {"files": found})

    def batch(self, asked: dict[str, Any]) -> None:
        """Where large files are sent to; nothing for those that are there."""
        found = []
        for one in asked["objects"]:
            entry = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.hub.large:
                href, header = f"{self.hub.endpoint}/large/{one['oid']}", {}
                if size := self.hub.part_bytes:
                    count = -(-one["size"] // size)
                    header = {str(part): f"{href}/{part}" for part in range(1, count + 1)} | {"chunk_size": str(size)}
                entry["actions"] = {"upload": {"href": href, "header": header}}
            found.append(entry)
        self.answer(200, {"transfer": "multipart" if self.hub.part_bytes else "basic", "objects": found})

    def take_large(self, path: str, body: bytes) -> None:
        """A large file, a part of one, or the end of its parts."""
        _, _, oid, *part = path.split("/")
        if part:
            self.hub.parts.setdefault(oid, {})[int(part[0])] = body
            self.answer(200, {}, ETag=f'"{part[0]}"')
            return
        content = body
        if self.command == "POST":
            content = b"".join(self.hub.parts[oid][one["partNumber"]] for one in json.loads(body)["parts"])
        if hashlib.sha256(content).hexdigest() != oid:
            self.refuse(400, "is not what was announced")
            return
        self.hub.large[oid] = content
        self.answer(200, {})

    def commit(self, name: str, branch: str, body: bytes) -> None:
        """All of it, or nothing."""
        repo = self.hub.repos[name]
        lines = [json.loads(line) for line in body.decode().splitlines()]
        files = dict(repo.commits[repo.branches[branch]])
        for line in lines:
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit") not in (None, repo.branches[branch]):
                self.refuse(412, "A commit has happened since. Please refresh and try again.")
                return
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = repo.commit(branch, {file: content for file, content in files.items() if file not in self.hub.lost})
        url = f"{self.hub.endpoint}/{name}/commit/{oid}"
        self.answer(200, {"commitUrl": url, "commitOid": oid, "hookOutput": ""})

    def branch(self, name: str, branch: str) -> None:
        """A new one, from main."""
        repo = self.hub.repos[name]
        repo.branches[branch] = repo.branches["main"]
        self.answer(200, {})

    def tag(self, name: str, revision: str, tag: str) -> None:
        """A new one."""
        repo = self.hub.repos[name]
        if tag in repo.tags:
            self.refuse(409, "Tag reference exists already")
            return
        repo.tags[tag] = repo.at(revision)
        self.answer(200, {})

    def resolve(self, name: str, revision: str, file: str) -> None:
        """A file's bytes."""
        repo = self.hub.repos[name]
        oid = repo.at(revision)
        content = repo.commits[oid].get(file)
        if content is None:
            self.refuse(404, "Entry not found", "EntryNotFound")
            return
        etag = hashlib.sha256(content).hexdigest() if is_large(file) else blob_id(content)
        self.answer(200, content=content, ETag=f'"{etag}"', X_Repo_Commit=oid)


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub of its own."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HandlerOfThisHub", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
