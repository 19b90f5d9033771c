"""Puts files on the Hugging Face hub: in one commit or not at all, and looks afterwards whether they are there.

`HF_ENDPOINT` names another hub. Large files go through Xet, as the hub's own client sends them; one that does not speak it needs
`HF_HUB_DISABLE_XET=1`.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medllm import __version__
from medllm.console import harmless, say
from medllm.errors import HubError
from medllm.redaction import redacted

# By the hub's answer: what it means, and what to do.
ANSWERS = {
    401: ("the hub does not know the token", "set HF_TOKEN to a valid token with write access"),
    402: ("the hub wants to be paid for this", "see the owner's plan and storage on the hub"),
    403: (
        "the token may not do this",
        "set HF_TOKEN to one that may write there, or name an owner that it may write to",
    ),
    404: (
        "there is no such thing, or the token may not see it",
        "correct the names, or set HF_TOKEN to one that sees it",
    ),
    409: ("the repository changed meanwhile", "type the same again"),
    412: ("the repository changed meanwhile", "type the same again"),
    413: ("the hub takes no files of this size", "split the weights into smaller files"),
    429: ("the hub got too many requests", "wait some minutes, and type the same again"),
}
TROUBLE = ("the hub is in trouble", "wait some minutes, and type the same again; nothing is sent twice")
AWAY = ("the hub cannot be reached", "check connection, proxy and HF_ENDPOINT, and type the same again")
OFFLINE = ("HF_HUB_OFFLINE forbids to reach the hub", "unset HF_HUB_OFFLINE")
UNKNOWN = ("the upload failed", "type the same again; nothing is sent twice")


@dataclass(frozen=True)
class HubFile:
    """A file as it is sent.

    Attributes:
        name: In the repository.
        content: Its bytes, or where they are.
        size: In bytes.
        sha256: Of its bytes.
    """

    name: str
    content: Path | bytes
    size: int
    sha256: str


@dataclass(frozen=True)
class Target:
    """Where files go.

    Attributes:
        repo_id: OWNER/NAME; made where it does not exist.
        private: Whether it is to be private; one that is otherwise is refused, and never changed.
        revision: Branch; made where it does not exist.
        tag: Given to the commit; None is none.
    """

    repo_id: str
    private: bool = True
    revision: str = "main"
    tag: str | None = None


@dataclass(frozen=True)
class Pushed:
    """What came of it.

    Attributes:
        commit: That holds the files.
        url: Of the commit.
        changed: Whether the commit was made now; otherwise all was there already.
        removed: Files of an earlier publication that this one does not have.
    """

    commit: str
    url: str
    changed: bool
    removed: tuple[str, ...]


def hub_token() -> str:
    """The token, from the environment alone.

    Raises:
        HubError: if there is none, or what is there is none.
    """
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise HubError("HF_TOKEN is not set\n    fix: set it in the environment to a token with write access")
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise HubError("HF_TOKEN is no token: it holds blanks or signs that no token has\n    fix: copy it again")
    return token


def endpoint() -> str:
    """Address of the hub."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def push(target: Target, files: Sequence[HubFile], is_ours: Callable[[str], bool]) -> Pushed:
    """Commits the files, all of them or none, and verifies that the hub holds them.

    Args:
        target: Where to.
        files: All that this publication has.
        is_ours: Of a file's name, whether a publication may have it: one that is there and not among `files` is removed. What
            others put into the repository stays.

    Raises:
        HubError: if the hub refuses, cannot be reached, is public where it should be private or the reverse, or does not hold
            what was sent.
    """
    token = hub_token()
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, logging

    logging.set_verbosity_error()  # its warnings tell the addresses that files are sent to, which hold signatures
    api = HfApi(token=token, library_name="medllm", library_version=__version__)
    with _told(target):
        head, tagged = _open(api, target)
        there = _listing(api, target, head) if head else {}
        removed = sorted(name for name in there if is_ours(name) and name not in {file.name for file in files})
        new = _differences(files, there)
        changed = bool(removed or new)
        if tagged and (changed or tagged != head):
            raise HubError(
                f"tag={target.tag}: names another commit of {target.repo_id}, and stays\n    fix: another tag"
            )
        commit = head
        if changed:
            size = sum(file.size for file in files if file.name in new)
            say("upload", f"{len(new)} of {len(files)} files, {size / 1e6:,.1f} MB, in one commit")
            added = [CommitOperationAdd(file.name, file.content) for file in files]
            commit = api.create_commit(
                target.repo_id,
                [*added, *(CommitOperationDelete(name, is_folder=False) for name in removed)],
                commit_message="Publish with medllm",
                revision=target.revision,
                parent_commit=head or None,  # what others commit meanwhile is refused instead of mixed with
            ).oid
            if wrong := _differences(files, _listing(api, target, commit)):
                raise HubError(
                    f"{target.repo_id} does not hold at {commit} what was sent: {', '.join(wrong)}\n"
                    "    fix: type the same again; if it stays so, look for these in the repository's .gitignore"
                )
        if target.tag and not tagged:
            api.create_tag(target.repo_id, tag=target.tag, revision=commit)
    return Pushed(commit, f"{api.endpoint}/{target.repo_id}/commit/{commit}", changed, tuple(removed))


def _open(api: Any, target: Target) -> tuple[str, str]:
    """Makes repository and branch where they are missing; returns the commits of branch and tag, empty where there is none."""
    from huggingface_hub.errors import RepositoryNotFoundError

    # The first question, because the hub answers others to an unknown token as if there were no repository.
    if api.whoami().get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise HubError("HF_TOKEN may only read\n    fix: set it to a token with write access")
    try:
        info = api.model_info(target.repo_id)
    except RepositoryNotFoundError:
        api.create_repo(target.repo_id, private=target.private)
        info = api.model_info(target.repo_id)
    if bool(info.private) is not target.private:
        asked, other = ("true", "false") if target.private else ("false", "true")
        found = "private" if info.private else "public"
        raise HubError(
            f"private={asked}: {target.repo_id} is {found}, and nothing here changes that\n"
            f"    fix: private={other} if it is to be {found}, its settings on the hub if not, or another repository"
        )
    refs = api.list_repo_refs(target.repo_id)
    branches = {ref.name: str(ref.target_commit) for ref in refs.branches}
    tags = {ref.name: str(ref.target_commit) for ref in refs.tags}
    head = branches.get(target.revision, "")
    if not head and info.sha:
        api.create_branch(target.repo_id, branch=target.revision)
        head = str(info.sha)
    return head, tags.get(target.tag or "", "")


def _listing(api: Any, target: Target, revision: str) -> dict[str, Any]:
    """Files of a commit by name, as the hub tells of them."""
    tree = api.list_repo_tree(target.repo_id, recursive=True, revision=revision)
    return {entry.path: entry for entry in tree if hasattr(entry, "blob_id")}


def _differences(files: Sequence[HubFile], there: dict[str, Any]) -> list[str]:
    """Names of files that the hub does not hold as they are here."""
    return [file.name for file in files if file.name not in there or not _is_same(file, there[file.name])]


def _is_same(file: HubFile, there: Any) -> bool:
    """By size, and by SHA-256 of large files or git's hash of small ones."""
    if there.size != file.size:
        return False
    if there.lfs is not None:
        return bool(there.lfs.sha256 == file.sha256)
    content = file.content if isinstance(file.content, bytes) else file.content.read_bytes()
    return bool(there.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest())


@contextlib.contextmanager
def _told(target: Target) -> Iterator[None]:
    """Turns what the hub's client raises into one message, without the token."""
    from huggingface_hub.errors import (
        HTTPError,
        OfflineModeIsEnabled,
    )  # the first is of the library that it speaks HTTP with

    try:
        yield
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        status = getattr(getattr(cause, "response", None), "status_code", 0)
        said = str(getattr(cause, "server_message", None) or ("" if status else cause))
        if isinstance(cause, OfflineModeIsEnabled):
            (problem, fix), said = OFFLINE, ""
        elif status:
            problem, fix = ANSWERS.get(status, TROUBLE if status >= 500 else UNKNOWN)
            problem += f" ({status})"
        else:
            problem, fix = AWAY if isinstance(cause, HTTPError | ConnectionError) else UNKNOWN
        reason = harmless(" ".join(redacted(said).split()))[:300]
        raise HubError(
            f"{target.repo_id} on {endpoint()}: {problem}{f': {reason}' if reason else ''}\n    fix: {fix}"
        ) from None
