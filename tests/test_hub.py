"""What goes to a hub on localhost, through `huggingface_hub`'s own client: all of it in one commit, or nothing."""

import hashlib
from pathlib import Path

import pytest

from medllm.errors import HubError
from medllm.hub import HubFile, Target, push
from tests.hub_server import TOKEN, Hub

PLACE = "clinic/model"


def made(name: str, content: bytes, folder: Path | None = None) -> HubFile:
    """A file to send, from memory or from a folder."""
    where: bytes | Path = content
    if folder is not None:
        where = folder / name
        where.write_bytes(content)
    return HubFile(name, where, len(content), hashlib.sha256(content).hexdigest())


def is_ours(name: str) -> bool:
    """What a publication may have, here."""
    return name.endswith((".safetensors", ".json"))


def files_of(hub: Hub, revision: str = "main") -> dict[str, bytes]:
    """What the repository holds."""
    repo = hub.repos[PLACE]
    return repo.commits[repo.at(revision)]


@pytest.mark.parametrize("part_bytes", [0, 1000])
def test_every_byte_in_one_private_commit(hub: Hub, tmp_path: Path, part_bytes: int) -> None:
    """Small files and large ones, from memory and disk, in one part and in several; the token goes to the hub alone."""
    hub.part_bytes = part_bytes
    contents = {"config.json": b'{"a": 1}', "model.safetensors": bytes(range(256)) * 17, "README.md": b"# Hello\n"}
    files = [made(name, content, tmp_path if name[0] == "m" else None) for name, content in contents.items()]
    pushed = push(Target(PLACE), files, is_ours)
    assert hub.repos[PLACE].private and pushed.changed and pushed.url.endswith(f"{PLACE}/commit/{pushed.commit}")
    assert {name: content for name, content in files_of(hub).items() if name != ".gitattributes"} == contents
    assert len(hub.repos[PLACE].commits) == 2 and len(hub.asked("/commit/")) == 1
    assert len([r for r in hub.asked("/large/") if r.startswith("PUT")]) == (5 if part_bytes else 1)
    assert {token for _, path, token in hub.requests if PLACE in path and "/large/" not in path} == {f"Bearer {TOKEN}"}
    assert {token for _, path, token in hub.requests if path.startswith("/large/")} == {""}
    assert not hub.asked(TOKEN)


def test_nothing_new_is_no_commit(hub: Hub) -> None:
    """The same again sends nothing; a changed file is a commit of its own, and what others wrote stays."""
    first = push(Target(PLACE), [made("a.json", b"1"), made("a.safetensors", b"2" * 99)], is_ours)
    repo = hub.repos[PLACE]
    repo.commit("main", {**files_of(hub), "photo.png": b"theirs", "notes/b.json": b"theirs"})
    hub.requests.clear()
    again = push(Target(PLACE), [made("a.json", b"1"), made("a.safetensors", b"2" * 99)], lambda name: name[0] == "a")
    assert not again.changed and again.commit == repo.branches["main"] != first.commit
    assert not hub.asked("/commit/") and not hub.asked("preupload") and not hub.asked("/large/")
    third = push(Target(PLACE), [made("a.json", b"3")], lambda name: name[0] == "a")
    assert third.removed == ("a.safetensors",) and not hub.asked("/large/")
    assert {n: c for n, c in files_of(hub).items() if n != ".gitattributes"} == {
        "a.json": b"3",
        "photo.png": b"theirs",
        "notes/b.json": b"theirs",
    }


def test_branches_and_tags(hub: Hub) -> None:
    """A branch is made where it is missing; a tag names its commit for good."""
    push(Target(PLACE, tag="v1"), [made("a.json", b"1")], is_ours)
    repo = hub.repos[PLACE]
    assert repo.tags == {"v1": repo.branches["main"]}
    assert not push(Target(PLACE, tag="v1"), [made("a.json", b"1")], is_ours).changed
    with pytest.raises(HubError, match="tag=v1: names another commit of clinic/model, and stays"):
        push(Target(PLACE, tag="v1"), [made("a.json", b"2")], is_ours)
    assert files_of(hub)["a.json"] == b"1"
    push(Target(PLACE, revision="trial/2"), [made("a.json", b"2")], is_ours)
    assert (files_of(hub)["a.json"], files_of(hub, "trial/2")["a.json"]) == (b"1", b"2")
    assert not push(Target(PLACE, tag="v1.1"), [made("a.json", b"1")], is_ours).changed
    assert repo.tags["v1.1"] == repo.tags["v1"]


def test_who_can_read_does_not_change(hub: Hub) -> None:
    """What is public already is no place for what should be private, nor the reverse; nothing is sent, nothing is set."""
    for private in (True, False):
        hub.repos.clear()
        push(Target(PLACE, private=private), [made("a.json", b"1")], is_ours)
        assert hub.repos[PLACE].private is private
        hub.requests.clear()
        found = "private" if private else "public"
        with pytest.raises(HubError, match=f"clinic/model is {found}, and nothing here changes that"):
            push(Target(PLACE, private=not private), [made("a.json", b"2")], is_ours)
        assert not [r for r in hub.requests if r[0] != "GET"] and hub.repos[PLACE].private is private


@pytest.mark.parametrize(
    ("part", "status", "told"),
    [
        ("whoami", 401, "does not know the token \\(401\\).*\n    fix: set HF_TOKEN"),
        ("repos/create", 402, "wants to be paid"),
        ("repos/create", 403, "the token may not do this \\(403\\)"),
        ("repos/create", 409, "changed meanwhile \\(409\\)"),
        ("/tree/", 404, "no such thing, or the token may not see it"),
        ("/commit/", 412, "changed meanwhile \\(412\\).*\n    fix: type the same again"),
        ("/commit/", 413, "no files of this size"),
        ("/refs", 429, "too many requests"),
        ("/refs", 500, "in trouble \\(500\\)"),
        ("/commit/", 503, "in trouble \\(503\\)"),
        ("/refs", 418, "the upload failed \\(418\\)"),
        ("/refs", 0, "cannot be reached"),
        ("/commit/", 0, "cannot be reached"),
    ],
)
def test_refusals_leave_nothing_half_done(hub: Hub, part: str, status: int, told: str) -> None:
    """One message with its fix and without the token, though the hub repeats it; typing it again is all it takes."""
    files = [made("a.json", b"1"), made("a.safetensors", b"2" * 99)]
    hub.faults = [(part, status)]
    with pytest.raises(HubError, match=told) as caught:
        push(Target(PLACE), files, is_ours)
    message = str(caught.value)
    assert message.startswith(f"{PLACE} on {hub.endpoint}: ") and "\n    fix: " in message
    assert TOKEN not in message and ("[HF_TOKEN]" in message or status in (0, 401))
    assert not hub.repos or set(files_of(hub)) == {".gitattributes"}
    assert push(Target(PLACE), files, is_ours).changed
    assert set(files_of(hub)) == {".gitattributes", "a.json", "a.safetensors"}


@pytest.mark.parametrize(("status", "times"), [(500, 1), (0, 1), (503, 6)])
def test_large_files_are_tried_again(hub: Hub, status: int, times: int) -> None:
    """A hiccup is survived; an upload that stays broken is told, and no commit names what did not arrive."""
    hub.faults = [("/large/", status)] * times
    if times == 1:
        push(Target(PLACE), [made("a.safetensors", b"2" * 99)], is_ours)
    else:
        with pytest.raises(HubError, match="in trouble"):
            push(Target(PLACE), [made("a.safetensors", b"2" * 99)], is_ours)
        assert set(files_of(hub)) == {".gitattributes"}
        push(Target(PLACE), [made("a.safetensors", b"2" * 99)], is_ours)
    assert files_of(hub)["a.safetensors"] == b"2" * 99


def test_what_did_not_arrive_is_told(hub: Hub, tmp_path: Path) -> None:
    """A file that the hub ignores, and one that changes after it was checked."""
    hub.lost = {"a.json"}
    with pytest.raises(HubError, match=r"does not hold at [0-9a-f]{40} what was sent: a\.json"):
        push(Target(PLACE), [made("a.json", b"1"), made("b.json", b"1")], is_ours)
    changed = made("c.safetensors", b"1" * 99, tmp_path)
    (tmp_path / "c.safetensors").write_bytes(b"2" * 99)
    with pytest.raises(HubError, match=r"what was sent: c.safetensors"):
        push(Target(PLACE), [made("b.json", b"1"), changed], is_ours)


def test_what_others_commit_meanwhile_is_not_mixed_with(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit names the one that it goes onto."""
    push(Target(PLACE), [made("a.json", b"1")], is_ours)
    from huggingface_hub import HfApi

    honest = HfApi.preupload_lfs_files

    def meanwhile(*arguments: object, **named: object) -> object:
        hub.repos[PLACE].commit("main", {"a.json": b"theirs"})
        return honest(*arguments, **named)

    monkeypatch.setattr(HfApi, "preupload_lfs_files", meanwhile)
    with pytest.raises(HubError, match="changed meanwhile \\(412\\)"):
        push(Target(PLACE), [made("a.json", b"2")], is_ours)
    assert files_of(hub) == {"a.json": b"theirs"}


@pytest.mark.parametrize(
    ("token", "told"),
    [
        ("", "HF_TOKEN is not set"),
        ("hf_a b", "HF_TOKEN is no token"),
        ("hf_a\nb", "HF_TOKEN is no token"),
        ("hf_" + "other" * 6, "does not know the token"),
    ],
)
def test_tokens_that_are_none(hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str, told: str) -> None:
    """Told without it, and nothing is made; a token that may only read is told before anything is sent."""
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError, match=told) as caught:
        push(Target(PLACE), [made("a.json", b"1")], is_ours)
    assert not token or token not in str(caught.value)
    assert not hub.repos
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.role = "read"
    with pytest.raises(HubError, match="HF_TOKEN may only read"):
        push(Target(PLACE), [made("a.json", b"1")], is_ours)
    assert not hub.repos


def test_a_hub_that_is_not_there(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection, and none wanted; a login file of the hub's client is no token."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE forbids"):
        push(Target(PLACE), [made("a.json", b"1")], is_ours)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"on http://127\.0\.0\.1:9: the hub cannot be reached"):
        push(Target(PLACE), [made("a.json", b"1")], is_ours)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.utils._auth._get_token_from_file", lambda: TOKEN)
    with pytest.raises(HubError, match="HF_TOKEN is not set"):
        push(Target(PLACE), [made("a.json", b"1")], is_ours)
    assert not hub.requests
