"""Quantized bases, kept between runs.

    the base's files -> read and quantized, once -> safetensors folder in the cache -> loaded as they are

Quantizing 8 billion weights reads 16 GB at every start; what comes of it takes a third of that and is loaded without any
computation, bit for bit the same.
"""

import gc
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from medllm import ranks
from medllm.cache import OF_WEIGHTS, cache_dir, cached, code_version, key_of
from medllm.config.model import ModelConf
from medllm.config.quantization import FourBitConf, QuantizationConf
from medllm.console import say
from medllm.errors import StorageError
from medllm.models.quantization import build_quantization_config

KIND = "quantized"
SHARD = "1GB"  # a shard is copied to the host in one piece when it is written
SPARE_BYTES = 1 << 30  # what is left to others on the disk
GIB = 1 << 30
# Of a file of weights, 8 MiB in all; and all of one that is no larger.
PIECES, PIECE = 128, 1 << 16


class _NotKeptError(Exception):
    """The model is quantized, but there is no place to keep it."""


def folder_identity(folder: Path) -> list[tuple[str, int, str]]:
    """What tells the weights of one local folder from those of another: each file's name, size, and time or content.

    Times stand for the content of weights, which would take as long to read as to quantize.
    """
    found = []
    for path in sorted(file for file in folder.iterdir() if file.suffix in (".json", ".safetensors")):
        stat = path.stat()
        is_text = path.suffix == ".json"
        content = hashlib.sha256(path.read_bytes()).hexdigest() if is_text else str(stat.st_mtime_ns)
        found.append((path.name, stat.st_size, content))
    return found


def folder_sample(folder: Path) -> list[tuple[str, int, str]]:
    """What tells a base in a local folder from another one, wherever it was copied: of each file name, size and pieces.

    Pieces lie all over the weights, since a merge changes every layer and leaves embeddings as they are.
    """
    found = []
    for path in sorted(file for file in folder.iterdir() if file.suffix in (".json", ".safetensors")):
        size, digest = path.stat().st_size, hashlib.sha256()
        with path.open("rb") as file:
            for start in range(0, size, max(PIECE, size // PIECES)):
                file.seek(start)
                digest.update(file.read(PIECE))
        found.append((path.name, size, digest.hexdigest()))
    return found


def quantized_key(identity: Any, conf: ModelConf, quantization: QuantizationConf, device: str) -> str:
    """A hash of all that the quantized weights depend on.

    Args:
        identity: Of the base's files: `folder_identity`, or name and commit on the hub.
        conf: Gives the precision that is quantized from.
        quantization: How; not none.
        device: Processors of one kind round alike, those of two kinds need not.
    """
    how = build_quantization_config(quantization).to_dict()
    code = code_version([Path(__file__)], ("bitsandbytes", "transformers"))
    return key_of(identity, conf.dtype.value, how, device.partition(":")[0], code)


def kept_quantized(
    key: str, name: str, quantization: QuantizationConf, quantize: Callable[[], Any], load: Callable[[Path], Any]
) -> Any:
    """The quantized model: loaded from the cache, or made now and kept there for the next time.

    Args:
        key: Of `quantized_key`.
        name: Of the model, for people who list the cache.
        quantization: How it is quantized, likewise.
        quantize: Makes it from the base's own files.
        load: Loads it from a folder that `save_pretrained` wrote.
    """
    made: list[Any] = []

    def build(folder: Path) -> None:
        made.append(quantize())
        if not ranks.is_main():  # transformers writes nothing there
            raise _NotKeptError("rank 0 could not keep it")
        _keep(made[0], folder)

    try:
        with ranks.main_first():
            folder = cached(KIND, key, build, {"model": name, "as": _shown(quantization)}, OF_WEIGHTS)
    except (_NotKeptError, OSError, StorageError) as reason:
        if not made:
            raise
        say("cache", f"{name} will be quantized again at the next start: {reason}")
        return made[0]
    made.clear()  # what was just quantized keeps the base's own files in memory
    gc.collect()
    return load(folder)


def _keep(model: Any, folder: Path) -> None:
    """Writes the model into an empty folder.

    Raises:
        _NotKeptError: if the disk is full, or will be.
    """
    needed = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        raise _NotKeptError(f"it takes {needed / GIB:.1f} GiB, and {cache_dir()} has {free / GIB:.1f} GiB left")
    try:
        model.save_pretrained(folder, max_shard_size=SHARD)
    except (OSError, SafetensorError) as error:
        raise _NotKeptError(str(error)) from None


def _shown(quantization: QuantizationConf) -> str:
    if isinstance(quantization, FourBitConf):
        return quantization.bnb_4bit_quant_type.value + (" double" if quantization.bnb_4bit_use_double_quant else "")
    return "int8"
