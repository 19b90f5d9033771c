"""From a trained artifact and its card to a repository on the hub, and back."""

import functools
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from medllm.artifact import MANIFEST, load_artifact, sha256
from medllm.card.facts import load_facts
from medllm.card.write import write_cards
from medllm.config.card import CardConf
from medllm.config.compose import load_conf
from medllm.config.hub import repo_id_faults
from medllm.config.publish import PublishConf, Risk
from medllm.config.run import RunConf
from medllm.config.store import project_root
from medllm.errors import ArtifactError, ConfigError, HubError
from medllm.export.write import export
from medllm.inference.load import open_artifact
from medllm.licences import base_licence
from medllm.publication import publish as publish_module
from medllm.publication.checks import faults_before_training, obstacles
from medllm.publication.publish import Publication, prepare, publish, publish_trained, show
from tests.evaluation.conftest import train_tiny
from tests.export.test_merged import conf_of as export_conf
from tests.hub_server import TOKEN, Hub
from tests.review.made import run_folder

SCRIPT = project_root() / "scripts" / "publish.py"


@pytest.fixture(scope="session")
def carded(dialogues: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run with its card, whose base's licence a person has stated; not to be written to."""
    prompts = "generation.sample_prompts=[Mrs Example coughs since Tuesday.]"
    run = train_tiny(dialogues, tmp_path_factory.mktemp("carded") / "run", "model.dtype=float32", prompts)
    say_in_card(run, base_license="apache-2.0", data_rights="Made up.")
    return run


@pytest.fixture
def run(carded: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(carded, tmp_path / "run"))


def say_in_card(run: Path, **said: str) -> None:
    """Fills in `card.yaml`, and writes the card."""
    path = run / "card" / "card.yaml"
    if not path.is_file():
        write_cards(run / "artifact")
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **said}))
    write_cards(run / "artifact")


def conf_of(run: Path, *overrides: str) -> PublishConf:
    """What is asked for."""
    return replace(_conf("tracking=none", *overrides), artifact=str(run))


# Composing takes half a second; nobody changes these.
_conf = functools.cache(lambda *overrides: load_conf(PublishConf, ["artifact=.", "repo_id=clinic/demo", *overrides]))


def prepared(run: Path, *overrides: str) -> Publication:
    """What would be published."""
    return prepare(conf_of(run, *overrides), run / "artifact")


def faults_of(run: Path, *overrides: str) -> str:
    """What stands against it, as it is told."""
    return "\n".join(map(str, prepared(run, *overrides).faults))


def download(folder: Path) -> Path:
    """By the client's own means."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download("clinic/demo", local_dir=folder, token=TOKEN))


def logits(folder: Path) -> torch.Tensor:
    """Of an artifact, as the chat loads it."""
    ids = torch.arange(5, 25)[None]
    with torch.no_grad(), open_artifact(folder, use_cpu=True).model(tuned=True) as model:
        return model(input_ids=ids).logits


def test_published_and_downloaded_it_is_the_artifact(
    hub: Hub, run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Same bytes, same logits, one private commit; nothing of this machine, of patients or of the token is in it or told."""
    publication = prepared(run)
    show(publication)
    pushed = publish(conf_of(run), publication)
    repo = hub.repos["clinic/demo"]
    sent = {name: content for name, content in repo.commits[pushed.commit].items() if name != ".gitattributes"}
    assert repo.private and len(hub.asked("/commit/")) == 1
    assert {file.name for file in publication.files} == set(sent)
    assert {"README.md", "LICENSE", "adapter_model.safetensors", "config.yaml", "tokenizer.json"} <= set(sent)
    assert publication.left_out == {"samples.json": "is not published"}
    for secret in (TOKEN, str(tmp_path), str(run.parent), str(Path.home()) + "/", "Mrs Example", "mlflow.db"):
        assert not [name for name, content in sent.items() if secret.encode() in content], secret
    assert TOKEN not in "".join(capfd.readouterr())
    folder = download(tmp_path / "downloaded")
    loaded = load_artifact(folder)
    assert loaded.manifest["published"] == {"from_manifest_sha256": sha256(run / "artifact" / MANIFEST)}
    assert loaded.manifest["weights_sha256"] == sha256(folder / "adapter_model.safetensors")
    torch.testing.assert_close(logits(folder), logits(run / "artifact"), atol=0, rtol=0)
    (folder / "metrics.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"damaged: metrics\.json"):
        load_artifact(folder)


@pytest.mark.slow
def test_what_is_new_is_a_commit(hub: Hub, run: Path, tmp_path: Path) -> None:
    """The same again is none; a card that says more is one; a merged model in its place leaves nothing of the adapter."""
    first = publish(conf_of(run), prepared(run))
    assert not publish(conf_of(run), prepared(run)).changed
    say_in_card(run, contact="a@example.org")
    second = publish(conf_of(run), prepared(run))
    repo = hub.repos["clinic/demo"]
    now, before = repo.commits[second.commit], repo.commits[first.commit]
    assert second.changed and {n for n in now if now[n] != before[n]} == {"README.md", "applied_model_card.xml"}
    place, _ = export(export_conf(run), run / "artifact", tmp_path / "out")["merged"]
    write_cards(place)
    card = tmp_path / "out" / "card" / "card.yaml"
    card.write_text(yaml.safe_dump({**yaml.safe_load(card.read_text()), "base_license": "apache-2.0"}))
    write_cards(place)
    third = publish(conf_of(run), prepare(conf_of(place), place))
    assert third.removed == ("adapter_config.json", "adapter_model.safetensors", "label_proof.json")
    torch.testing.assert_close(logits(download(tmp_path / "whole")), logits(place), atol=0, rtol=0)


def test_a_dry_run_asks_nobody(
    hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names, sizes and SHA-256 of what would be sent, without a token and without a request; then the same line without it."""
    main = runpy.run_path(str(SCRIPT))["main"]
    monkeypatch.delenv("HF_TOKEN")
    place = [f"artifact={run}", "repo_id=clinic/demo", "tracking=none"]
    main([*place, "--dry-run"])
    told = capsys.readouterr().out
    assert f"clinic/demo on {hub.endpoint}, main; private" in told and "nothing was sent" in told
    weights = run / "artifact" / "adapter_model.safetensors"
    assert f"{weights.stat().st_size:,} bytes  sha256 {sha256(weights)}" in told
    assert "left out  samples.json" in told and "warning   review is UNREVIEWED" in told
    with pytest.raises(ConfigError, match=r"review: is UNREVIEWED.*\n.*accept=\[unreviewed,gate\]"):
        main([*place, "private=false", "--dry-run"])
    assert "PUBLIC: everybody can read it" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="HF_TOKEN is not set"):
        main(place)
    assert not hub.requests
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    capsys.readouterr()
    main([*place, "tag=v1"])
    assert f"published {hub.endpoint}/clinic/demo/commit/" in capsys.readouterr().out
    main([*place, "tag=v1"])
    assert f"unchanged {hub.endpoint}/clinic/demo/commit/" in capsys.readouterr().out


def test_everything_that_stands_against_it_is_told_together(run: Path) -> None:
    """A public model that nobody has reviewed, with a gate against it and data of nobody knows whom; each by its name."""
    manifest = {"artifact": {"manifest_sha256": sha256(run / "artifact" / MANIFEST)}, "name": "quick", "metrics": []}
    (run / "evaluation" / "quick").mkdir(parents=True)
    results = {
        **manifest,
        "sides": ["base"],
        "limited": False,
        "gate": {"decision": "don't ship", "reasons": ["emergency recall fell"]},
    }
    (run / "evaluation" / "quick" / "results.json").write_text(json.dumps(results))
    stale = faults_of(run)
    assert "card/README.md: does not say what is known now" in stale and "scripts/card.py" in stale
    card = run / "card" / "card.yaml"
    values = {**yaml.safe_load(card.read_text()), "data_rights": None, "base_license": None}
    card.write_text(yaml.safe_dump(values))
    write_cards(run / "artifact")
    told = faults_of(run, "private=false")
    for problem in (
        "base_license: is not known of tiny_random",
        "data_rights: nobody has stated by what right dialogues.csv was used",
        "review: is UNREVIEWED: no expert review has been decided",
        "gate: evaluation quick says don't ship: emergency recall fell",
        "or accept=[unreviewed,gate,license,data_rights] if you answer for it",
    ):
        assert problem in told, told
    assert "base_license" in (private := faults_of(run)) and "review" not in private and "gate" not in private
    accepted = prepared(run, "private=false", "accept=[unreviewed,gate,license,data_rights]")
    assert not accepted.faults
    assert any("review is UNREVIEWED" in line for line in accepted.warnings)


def test_no_card_no_publication(run: Path) -> None:
    """The card comes first; an artifact whose bytes are not those of its manifest has none to give."""
    (run / "artifact" / "metrics.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"damaged: metrics\.json"):
        prepared(run)
    shutil.rmtree(run / "card")
    with pytest.raises(ConfigError, match=r"card: the artifact has none\n.*scripts/card.py artifact="):
        prepared(run)
    assert not (run / "card").exists()


def test_foreign_files_stay_here(run: Path) -> None:
    """What was put into the artifact's folder later is named and not sent; weights and pickles among it are refused."""
    (run / "artifact" / "patients.csv").write_bytes(b"x")
    publication = prepared(run)
    assert set(publication.left_out) == {"patients.csv", "samples.json"}
    assert not {file.name for file in publication.files} & set(publication.left_out)
    for name in ("optimizer.pt", "pytorch_model.bin", "extra.safetensors"):
        (run / "artifact" / name).write_bytes(b"x")
        with pytest.raises(ArtifactError, match=re.escape(name)):
            prepared(run)
        (run / "artifact" / name).unlink()


def test_secrets_and_places_in_texts(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found in whichever file, private or not; a secret itself is not repeated, and there is no accepting it."""
    monkeypatch.setenv("CLINIC_DB_PASSWORD", "correct-horse-battery")
    assert not faults_of(run)
    secrets = {
        "a token of the hub": "hf_" + "AbCd1234" * 5,
        "the value of CLINIC_DB_PASSWORD": "correct-horse-battery",
        "an address with its password": "postgres://nurse:s3cret@db.example.org/x",
        "an access key of AWS": "AKIA" + "ABCD" * 4,
    }
    say_in_card(run, how_to_use=" and ".join(secrets.values()))
    accept = "accept=[unreviewed,rejected,gate,license,data_rights]"
    faults = faults_of(run, accept)
    for what, secret in secrets.items():
        assert f"README.md: holds {what}\n" in faults and secret not in faults
    say_in_card(run, how_to_use="see /home/nurse/patients/list.csv")
    assert "README.md=/home/nurse/patients: holds a place of this machine" in faults_of(run, accept)


def test_secrets_in_weights(hub: Hub, run: Path) -> None:
    """The head of a safetensors file is text, too."""
    from safetensors.torch import load_file, save_file

    from medllm.artifact import seal

    artifact = load_artifact(run)
    weights = run / "artifact" / "adapter_model.safetensors"
    save_file(load_file(weights), weights, {"format": "pt", "by": "hf_" + "AbCd1234" * 5})
    keep = {k: v for k, v in artifact.manifest.items() if k not in ("files", "format", "created", "medllm")}
    (run / "artifact" / MANIFEST).unlink()
    seal(run / "artifact", artifact.conf, keep)
    write_cards(run / "artifact")
    assert "adapter_model.safetensors: holds a token of the hub" in faults_of(run)
    with pytest.raises(ConfigError, match="holds a token"):
        publish(conf_of(run), prepared(run))
    assert not hub.requests


LLAMA = ("model=llama3_8b_instruct", "model.revision=" + "a" * 40)


@pytest.mark.slow
def test_llama_wants_its_name_and_its_text(tmp_path: Path) -> None:
    """The repository's name; for everybody to see also the text of the licence; NOTICE and the banner come from the card."""
    run = run_folder(tmp_path / "run", 2, "", *LLAMA)
    say_in_card(run)
    told = faults_of(run)
    assert "repo_id=clinic/demo: the Meta Llama 3 Community License wants the model's name to begin with" in told
    assert "fix: repo_id=clinic/Llama-3-demo" in told
    assert "wants its text with the weights" not in told
    named = ("repo_id=clinic/llama-3-demo", "private=false")
    assert "wants its text with the weights" in faults_of(run, *named)
    (run / "card" / "LICENSE").write_text("The text.")
    assert "wants its text with the weights" not in faults_of(run, *named)
    sent = {file.name: file.content for file in prepared(run, *named).files}
    assert sent["LICENSE"] == b"The text." and b"Built with Meta Llama 3" in sent["README.md"] and "NOTICE" in sent
    say_in_card(run, license="mit")
    assert "stays that of the weights\n    allowed: llama3" in faults_of(run, *named)


def test_licences_that_forbid(run: Path) -> None:
    """What the base or the data forbid, what is published does not allow."""
    facts = load_facts(run / "artifact")

    def told(base: str, **said: str) -> str:
        of_it = replace(facts, licence=base_licence("owner/name", base), human=CardConf(**said))
        found = obstacles(of_it, [], "clinic/demo")
        assert all(o.risk is Risk.license for o in found if "forbids" in o.fault.problem)
        return "\n".join(str(o.fault) for o in found)

    assert "base_license=cc-by-nc-4.0: forbids commercial use, which license mit" in told("cc-by-nc-4.0", license="mit")
    assert "data_license=cc-by-nc-4.0: forbids commercial use" in told("mit", data_license="cc-by-nc-4.0")
    assert "data_license=cc-by-nd-4.0: forbids to share" in told("mit", data_license="cc-by-nd-4.0")
    assert "forbids" not in told("cc-by-nc-4.0")
    assert "forbids" not in told("mit", data_license="cc-by-4.0")


@pytest.mark.slow
def test_a_base_that_only_this_machine_has(tmp_path: Path) -> None:
    """Is not published by its folder; with its id on the hub, that stands in configuration and manifest instead."""
    where = "model.pretrained_model_name_or_path=/models/qwen3-8b"
    run = run_folder(tmp_path / "run", 2, "", "model=pretrained", where, "data=local", "data.path=/wards/3/visits.csv")
    say_in_card(run)
    assert "base_model: is a folder of this machine" in faults_of(run)
    say_in_card(run, base_model="Qwen/Qwen3-8B")
    assert "base_model" not in faults_of(run)
    sent = {file.name: file.content for file in prepared(run).files}
    config = yaml.safe_load(sent["config.yaml"])
    assert config["model"]["pretrained_model_name_or_path"] == "Qwen/Qwen3-8B"
    assert config["data"]["path"] == "visits.csv" and config["tracking"] == {}
    texts = [content for content in sent.values() if isinstance(content, bytes)]
    assert len(texts) > 3 and not [text for text in texts if b"/models/" in text or b"/wards/" in text]


def test_a_rejection_has_a_name_of_its_own(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not accepted as `unreviewed`."""
    from medllm.card import facts
    from medllm.review.approval import ReviewStatus

    status = ReviewStatus("rejected", ("severe harm",), "first", "2026-01-01")
    monkeypatch.setattr(facts, "review_status", lambda folder: status)
    write_cards(run / "artifact")
    assert "review: is REJECTED: severe harm" in faults_of(run, "private=false", "accept=[unreviewed,gate]")
    assert not faults_of(run, "private=false", "accept=[rejected,gate]")


def test_the_commit_is_in_the_runs_record(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By the artifact's own store, unless that is switched off."""
    noted: list[Any] = []
    monkeypatch.setattr(publish_module, "tag_record", lambda *told: noted.append(told))
    publish(conf_of(run), prepared(run))
    assert not noted
    pushed = publish(replace(_conf(), artifact=str(run)), prepared(run))
    ((_, run_id, tags),) = noted
    assert run_id == load_artifact(run).manifest["run_id"]
    assert tags == {"hub.repo_id": "clinic/demo", "hub.commit": pushed.commit, "hub.url": pushed.url}


def trained_conf(*overrides: str) -> RunConf:
    """A run that uploads what it makes."""
    from medllm.config.compose import load_run_conf

    return load_run_conf(["hub.push_to_hub=true", "hub.hub_model_id=clinic/demo", "tracking=none", *overrides])


def test_a_run_that_uploads_is_checked_before_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Token, licence, name, and that nobody has reviewed what it will make."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert faults_before_training(trained_conf()) == []
    monkeypatch.delenv("HF_TOKEN")
    told = "\n".join(map(str, faults_before_training(trained_conf("model=llama3_8b_instruct"))))
    assert "HF_TOKEN is not set" in told and "fix: hub.hub_model_id=clinic/Llama-3-demo" in told
    told = "\n".join(map(str, faults_before_training(trained_conf("model=tiny_random", "hub.hub_private_repo=false"))))
    assert "the licence of tiny_random is not known here" in told and "nobody has reviewed what this run" in told


def test_a_run_uploads_by_the_same_way(hub: Hub, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With its card; what stands against it leaves the artifact and says how to go on."""
    assert publish_trained(trained_conf(), run / "artifact").startswith(f"{hub.endpoint}/clinic/demo/commit/")
    assert {"README.md", "manifest.json"} <= set(hub.repos["clinic/demo"].commits[hub.repos["clinic/demo"].at("main")])
    hub.role = "read"
    with pytest.raises(HubError, match="may only read"):
        publish_trained(trained_conf(), run / "artifact")
    assert f"python scripts/publish.py artifact={run / 'artifact'} repo_id=clinic/demo" in capsys.readouterr().err


@pytest.mark.parametrize(
    "override", ["token=hf_x1y2", "+hub.token=hf_x1y2", "repo_id=hf_" + "x1y2" * 9, "hf_" + "x1y2" * 9]
)
def test_a_typed_token_is_refused_and_not_repeated(override: str) -> None:
    """Wherever it is typed."""
    with pytest.raises(ConfigError, match="is no place for a credential") as caught:
        load_conf(PublishConf, ["artifact=x", "repo_id=clinic/demo", override])
    assert "x1y2" not in str(caught.value) and "HF_TOKEN" in str(caught.value)


def test_refusals() -> None:
    """Key, value, what is allowed; all of them together."""

    def told(*overrides: str) -> str:
        with pytest.raises(ConfigError) as caught:
            load_conf(PublishConf, ["artifact=x", "repo_id=clinic/demo", *overrides])
        return str(caught.value)

    names = told("repo_id=demo", "revision=../x", "tag=v 1")
    assert "repo_id=demo: is no repository of the hub\n      allowed: OWNER/NAME" in names
    assert "revision=../x: is no name of a branch or tag" in names and "tag=v 1: is no name of a" in names
    assert "allowed: unreviewed, rejected, gate, license, data_rights" in told("accept=[unreviewd]")
    assert "did you mean private?" in told("privat=false")
    assert not [name for name in ("a/b", "A-1/b.c_d-e") if repo_id_faults("", name)]
    wrong = ("a/b/c", "a/b..c", "a/b--c", "a/-b", "a/b.git", "/b", "a/", "a b/c")
    assert [name for name in wrong if repo_id_faults("", name)] == list(wrong)


@pytest.mark.slow
def test_as_it_is_typed(hub: Hub, run: Path, tmp_path: Path, tiny_overrides: list[str]) -> None:
    """Against the hub that HF_ENDPOINT names; the token is in no line and no file; a run that could not upload does not train."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_DEBUG": "1",
    }

    def typed(script: Path, *arguments: str) -> tuple[int, str]:
        command = [sys.executable, str(script), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert "Traceback" not in done.stderr and TOKEN not in done.stdout + done.stderr
        return done.returncode, done.stdout + done.stderr

    place = ("artifact=run", "repo_id=clinic/demo", "tracking=none")
    code, told = typed(SCRIPT, *place)
    assert code == 0 and f"published {hub.endpoint}/clinic/demo/commit/" in told, told
    code, told = typed(SCRIPT, *place)
    assert code == 0 and f"unchanged {hub.endpoint}/clinic/demo/commit/" in told, told
    code, told = typed(SCRIPT, "artifact=run", "repo_id=elsewhere/demo", "tracking=none")
    assert code == 1 and "elsewhere/demo on " in told and "the token may not do this (403)" in told, told
    code, told = typed(SCRIPT, *place, f"token={TOKEN}")
    assert code == 2 and "is no place for a credential" in told
    code, told = typed(SCRIPT, "--help")
    assert code == 0 and "--dry-run" in told
    before = len(hub.requests)
    upload = ("hub.push_to_hub=true", "hub.hub_model_id=clinic/demo")
    code, told = typed(project_root() / "train.py", *tiny_overrides, *upload)
    assert code == 2 and "the licence of tiny_random is not known here" in told and len(hub.requests) == before
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not [path for path in files if TOKEN.encode() in path.read_bytes()]
