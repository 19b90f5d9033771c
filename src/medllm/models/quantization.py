"""Builds transformers' quantization config, and proves that the backend runs here."""

import contextlib
import functools
import importlib
from collections.abc import Iterator
from typing import Any

import psutil
import torch

from medllm.config.quantization import FourBitConf, Int8Conf, NoQuantizationConf, QuantizationConf
from medllm.errors import ModelError
from medllm.libraries import hide

# Where a 4-bit layer has its weights written out, (out_features, in_features), while the fused engine holds them.
WRITTEN = "written_weight"


def build_quantization_config(conf: QuantizationConf) -> Any:
    """A `BitsAndBytesConfig`, or None where the base stays unquantized."""
    from transformers import BitsAndBytesConfig

    if isinstance(conf, NoQuantizationConf):
        return None
    if isinstance(conf, Int8Conf):
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=conf.llm_int8_threshold)
    if isinstance(conf, FourBitConf):
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=conf.bnb_4bit_quant_type.value,
            bnb_4bit_use_double_quant=conf.bnb_4bit_use_double_quant,
            bnb_4bit_compute_dtype=getattr(torch, conf.bnb_4bit_compute_dtype.value),
        )
    raise ModelError(f"quantization: no builder for {type(conf).__name__}")


@functools.cache
def bitsandbytes_fault() -> str:
    """Why bitsandbytes cannot be imported; empty if it can.

    One that is installed and cannot be is hidden from other libraries: peft would import it for any LoRA layer.
    """
    try:
        importlib.import_module("bitsandbytes")
    except Exception as error:  # whatever it raises, it means the same: not here
        hide("bitsandbytes")
        return str(error).strip().split("\n")[0]
    return ""


def keep_training_layout(model: Any) -> None:
    """Stops 4-bit layers from repacking their weights on the CPU.

    bitsandbytes 0.50 repacks a Linear4bit's weight at its first forward in eval mode on CPUs with AVX512-BF16. The packed
    product has no backward, so that after one evaluation gradients no longer pass through the base, silently; and it rounds
    the scales, so that evaluation and training see two different bases (LOG.md has the measurement). Delete this once
    `Linear4bit.forward` unpacks in training mode.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


@contextlib.contextmanager
def dequantized(model: Any, *, anew: bool = True) -> Iterator[None]:
    """Within it a 4-bit base on a CPU has its weights written out, to be asked: the same numbers, ten times as fast.

    bitsandbytes writes every weight out at every forward; a step of generation, which multiplies it with one row, costs next to
    nothing beside that. Weights that the fused engine holds written out are taken from there. The model stays as it is where new
    ones would take more than half of the memory that is free; layers that compute in another precision than the model's own stay
    too, or other numbers would come out.

    Args:
        model: A transformers model, with or without an adapter; afterwards its layers are the very ones that they were.
        anew: Whether weights are written out that nobody holds, which takes memory.
    """
    places = _slow_layers(model)
    new = [layer for *_, layer in places if not hasattr(layer, WRITTEN)]
    size = sum(layer.in_features * layer.out_features for layer in new) * model.dtype.itemsize
    if new and (not anew or size > psutil.virtual_memory().available / 2):
        places = [place for place in places if hasattr(place[-1], WRITTEN)]
    try:
        for parent, name, layer in places:
            setattr(parent, name, _written_out(layer))
        yield
    finally:
        for parent, name, layer in places:
            setattr(parent, name, layer)


def _slow_layers(model: Any) -> list[tuple[torch.nn.Module, str, Any]]:
    """Parent, name and layer of every 4-bit layer on a CPU that computes in the model's precision."""
    if model.device.type != "cpu" or not getattr(model, "is_loaded_in_4bit", False):
        return []
    from bitsandbytes.nn import Linear4bit

    children = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
    return [(p, n, c) for p, n, c in children if isinstance(c, Linear4bit) and c.compute_dtype is model.dtype]


def _written_out(layer: Any) -> torch.nn.Linear:
    from bitsandbytes.functional import dequantize_4bit

    linear = torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    weight = getattr(layer, WRITTEN, None)
    if weight is None:
        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    linear.weight = torch.nn.Parameter(weight.to(layer.compute_dtype), requires_grad=False)
    linear.bias = layer.bias
    return linear.train(layer.training)


def backend_fault(conf: QuantizationConf, device: str) -> str:
    """Why this machine cannot compute with quantized weights; empty if it can.

    Tries one product, forward and backward, instead of trusting a version number.
    """
    if isinstance(conf, NoQuantizationConf):
        return ""
    reason = bitsandbytes_fault()
    if reason:
        return f"bitsandbytes does not work on {device}: {reason}"
    import bitsandbytes as bnb

    try:
        if isinstance(conf, FourBitConf):
            compute_dtype = getattr(torch, conf.bnb_4bit_compute_dtype.value)
            layer = bnb.nn.Linear4bit(64, 64, bias=False, compute_dtype=compute_dtype, quant_type="nf4").to(device)
        else:
            layer = bnb.nn.Linear8bitLt(64, 64, bias=False, has_fp16_weights=False).to(device)
        inputs = torch.ones(2, 64, device=device, requires_grad=True)
        layer(inputs).sum().backward()
    except Exception as error:  # whatever it raises, it means the same: not here
        return f"bitsandbytes does not work on {device}: {str(error).strip().split(chr(10))[0]}"
    return "" if inputs.grad is not None else f"bitsandbytes computes no gradient on {device}"
