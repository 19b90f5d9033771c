"""Writes a whole model as one GGUF file with llama.cpp's own Python package, one tensor in memory at a time.

The package has the format, the names of tensors and the arithmetic of its types; llama.cpp's converter itself is not released on
the package index. What stands here is what that converter (llama.cpp, conversion/llama.py and qwen.py) does for three kinds of
models, and what is not known to be right is refused.

    F16     matrices in float16, which holds bfloat16's numbers from 2^-14 to 65504 exactly, the rest in float32
    Q8_0    matrices in blocks of 32 numbers of eight bits with a float16 scale each; rows of other lengths in float16
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, LlamaFileType

from medllm.config.export import Format
from medllm.config.model import ModelConf
from medllm.conversation import Conversation, Renderer
from medllm.errors import ExportError, ModelError
from medllm.export.vocabulary import OTHER_WAY, Vocabulary, as_llama_cpp, build_vocabulary

Tensor = torch.Tensor
ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
TYPES = {
    Format.gguf_f16: (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    Format.gguf_q8_0: (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
# What the file must say of the model's shape, by the names of transformers' config.
SHAPE = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "tie_word_embeddings",
)


@dataclass(frozen=True)
class About:
    """What the file says of the model besides its weights.

    Attributes:
        name: In words.
        licence: As Hugging Face spells it; empty if unknown.
    """

    name: str
    licence: str


def check_convertible(config: Any, tokenizer: Any) -> None:
    """Before anything is read.

    Args:
        config: transformers' config of the model.
        tokenizer: Its tokenizer.

    Raises:
        ModelError: if this kind of model or tokenizer is not written as GGUF here.
    """
    kind = config.model_type
    if kind not in ARCHITECTURES:
        raise ModelError(
            f"models of type {kind} are not written as GGUF here\n    allowed: {', '.join(ARCHITECTURES)}\n{OTHER_WAY}"
        )
    rope = config.rope_parameters
    faults = {
        f"rope_type={rope['rope_type']}": rope["rope_type"] not in ("default", "llama3"),
        "partial_rotary_factor": rope.get("partial_rotary_factor", 1.0) != 1.0,
        "attention_bias": bool(getattr(config, "attention_bias", False)),
        "mlp_bias": bool(getattr(config, "mlp_bias", False)),
        "use_sliding_window": bool(getattr(config, "use_sliding_window", False)),
        f"hidden_act={config.hidden_act}": config.hidden_act != "silu",
    }
    found = [name for name, is_fault in faults.items() if is_fault]
    if found:
        raise ModelError(f"a {kind} model with {', '.join(found)} is not written as GGUF here\n{OTHER_WAY}")
    build_vocabulary(tokenizer, max(config.vocab_size, len(tokenizer)))


def write_gguf(whole: Path, renderer: Renderer, kind: Format, about: About, file: Path) -> None:
    """Writes the file.

    Args:
        whole: Folder of a whole model in safetensors.
        renderer: Of inference, for the tokens that end an answer.
        kind: One of `TYPES`.
        about: What it is.
        file: Where to.

    Raises:
        ExportError: if a weight is too large for the type.
        ModelError: as `check_convertible`.
    """
    config = load_config(whole)
    vocabulary = build_vocabulary(renderer.tokenizer, config.vocab_size)
    quantized, file_type = TYPES[kind]
    architecture = ARCHITECTURES[config.model_type]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[architecture])
    _add_model(writer, config, about, file_type)
    _add_tokenizer(writer, vocabulary, renderer)
    types: dict[str, GGMLQuantizationType] = {}
    for name, shape in _shapes(whole, config):
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise ModelError(f"{name} has no name in a GGUF of a {config.model_type} model\n{OTHER_WAY}")
        types[name] = _type(shape, quantized)
        size = _bytes(shape, types[name])
        writer.add_tensor_info(target, shape, np.dtype(np.float32), size, raw_dtype=types[name])
    factors = _rope_factors(config)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, weight in _weights(whole, config):
        numbers = _permuted(name, weight, config).float().numpy()
        with np.errstate(over="ignore"):
            data = gguf.quantize(numbers, types[name])
        if types[name] is GGMLQuantizationType.F16 and not np.isfinite(data).all():
            raise ExportError(
                f"{name} holds numbers beyond 65504, the largest of float16\n    fix: formats=[gguf_q8_0] or [merged]"
            )
        writer.write_tensor_data(data)
    if factors is not None:
        writer.write_tensor_data(factors)
    writer.close()


def load_config(folder: Path, **arguments: Any) -> Any:
    """The config of a folder as transformers reads it, or with `gguf_file` what it reads of that."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, **arguments)


def load_gguf(file: Path, whole: Path, conf: ModelConf, device: str) -> Any:
    """The model as transformers reads it from the file, its weights written out, in evaluation mode.

    transformers reads neither the factors of Llama 3.1's positions nor the size of Qwen 3's heads, so these are taken from the
    whole model; all else comes from the file.

    Raises:
        ExportError: if the file tells another shape than the model has.
    """
    from transformers import AutoModelForCausalLM, GgufConfig

    wanted, config = load_config(whole), load_config(file.parent, gguf_file=file.name)
    if wanted.model_type == "qwen3":
        config.head_dim = wanted.head_dim
    differing = [name for name in SHAPE if getattr(wanted, name, None) != getattr(config, name, None)]
    close = {
        "rms_norm_eps": (wanted.rms_norm_eps, config.rms_norm_eps),
        "rope_theta": (wanted.rope_parameters["rope_theta"], config.rope_parameters["rope_theta"]),
    }
    differing += [name for name, (a, b) in close.items() if not np.isclose(a, b, rtol=1e-6)]
    if differing:
        raise ExportError(f"{file.name} does not tell the model's {', '.join(differing)}; nothing of it was exported")
    config.rope_parameters = wanted.rope_parameters
    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        config=config,
        quantization_config=GgufConfig(dequantize=True),
        dtype=getattr(torch, conf.dtype.value),
        attn_implementation=conf.attn_implementation.value,
    )
    return model.requires_grad_(False).to(device).eval()


def check_ids(file: Path, renderer: Renderer, conversations: list[Conversation]) -> None:
    """Renders conversations with what stands in the file, its chat template and its tokenizer.

    Raises:
        ExportError: if the ids are not the renderer's.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    as_llama_cpp(tokenizer, build_vocabulary(renderer.tokenizer, len(renderer.tokenizer)).pre)
    for conversation in conversations:
        text = tokenizer.apply_chat_template(
            renderer.template_messages(conversation), tokenize=False, add_generation_prompt=True
        )
        if tokenizer(text, add_special_tokens=False)["input_ids"] != renderer.render_prompt(conversation):
            raise ExportError(
                f"the tokenizer in {file.name} gives {conversation.id or 'a prompt'} other tokens; nothing of it was exported"
            )


def file_name(name: str, kind: Format) -> str:
    """As llama.cpp names files: the model's name, then the type."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"
    return f"{plain}-{kind.value.removeprefix('gguf_')}.gguf"


def _add_model(writer: gguf.GGUFWriter, config: Any, about: About, file_type: LlamaFileType) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(about.name)
    writer.add_license(about.licence)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(_head_dim(config))
    writer.add_key_length(_head_dim(config))
    writer.add_value_length(_head_dim(config))


def _add_tokenizer(writer: gguf.GGUFWriter, vocabulary: Vocabulary, renderer: Renderer) -> None:
    tokenizer = renderer.tokenizer
    writer.add_tokenizer_model("gpt2")  # llama.cpp's word for byte-level BPE
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    special = {
        writer.add_bos_token_id: tokenizer.bos_token_id,
        writer.add_eos_token_id: tokenizer.eos_token_id,
        writer.add_eot_token_id: renderer.end_of_turn_id,
        writer.add_unk_token_id: tokenizer.unk_token_id,
        writer.add_pad_token_id: tokenizer.pad_token_id,
    }
    for add, token_id in special.items():
        if token_id is not None:
            add(token_id)
    # The chat template writes all that is to stand around a prompt; training added nothing to it either.
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(str(tokenizer.chat_template))


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _files(whole: Path, config: Any) -> Iterator[tuple[Any, str]]:
    """Each tensor's name with the open file that holds it, but for what llama.cpp computes or takes from elsewhere.

    That are output embeddings that are the input ones, and frequencies of positions, which old files hold.
    """
    from safetensors import safe_open

    for path in sorted(whole.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            names = file.keys()
            for name in names:
                tied = config.tie_word_embeddings and name == "lm_head.weight"
                if not tied and not name.endswith(".rotary_emb.inv_freq"):
                    yield file, name


def _shapes(whole: Path, config: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    for file, name in _files(whole, config):
        yield name, tuple(file.get_slice(name).get_shape())


def _weights(whole: Path, config: Any) -> Iterator[tuple[str, Tensor]]:
    for file, name in _files(whole, config):
        yield name, file.get_tensor(name)


def _type(shape: tuple[int, ...], quantized: GGMLQuantizationType) -> GGMLQuantizationType:
    """Vectors stay in float32, as norms are all."""
    if len(shape) < 2:
        return GGMLQuantizationType.F32
    return quantized if shape[-1] % gguf.GGML_QUANT_SIZES[quantized][0] == 0 else GGMLQuantizationType.F16


def _bytes(shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return prod(shape) // block * size


def _permuted(name: str, weight: Tensor, config: Any) -> Tensor:
    """Queries and keys of a Llama with both halves of each head interleaved, for llama.cpp turns neighbours, not halves."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if config.model_type != "llama" or heads is None:
        return weight
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def _rope_factors(config: Any) -> np.ndarray | None:
    """(head_dim / 2,) float32: by what llama.cpp divides each frequency of Llama 3.1's positions; None for plain ones."""
    if config.rope_parameters["rope_type"] == "default":
        return None
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS[config.rope_parameters["rope_type"]](config, torch.device("cpu"))
    dim = _head_dim(config)
    plain = 1.0 / config.rope_parameters["rope_theta"] ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    return (plain / scaled).float().numpy()
