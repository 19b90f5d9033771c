"""Builds transformers' quantization config, and proves that the backend runs here."""

from typing import Any

import torch
from torch import nn

from medllm.config.quantization import FourBitConf, Int8Conf, NoQuantizationConf, QuantizationConf
from medllm.errors import ModelError


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


def quantize_layers(module: nn.Module, conf: QuantizationConf, device: str) -> None:
    """Replaces the linear layers of a module, whose weights are there, by quantized ones."""
    import bitsandbytes as bnb

    for parent in list(module.modules()):
        for name, linear in list(parent.named_children()):
            if not isinstance(linear, nn.Linear):
                continue
            shape: dict[str, Any] = {
                "input_features": linear.in_features,
                "output_features": linear.out_features,
                "bias": linear.bias is not None,
                "device": "meta",
            }
            weight = linear.weight.data
            if isinstance(conf, FourBitConf):
                kind = {
                    "quant_type": conf.bnb_4bit_quant_type.value,
                    "compress_statistics": conf.bnb_4bit_use_double_quant,
                }
                compute_dtype = getattr(torch, conf.bnb_4bit_compute_dtype.value)
                layer = bnb.nn.Linear4bit(**shape, compute_dtype=compute_dtype, **kind)
                layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, module=layer, **kind)
            elif isinstance(conf, Int8Conf):
                layer = bnb.nn.Linear8bitLt(**shape, has_fp16_weights=False, threshold=conf.llm_int8_threshold)
                layer.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
            else:
                raise ModelError(f"quantization: no builder for {type(conf).__name__}")
            if linear.bias is not None:
                layer.bias = linear.bias
            setattr(parent, name, layer.to(device))


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


def backend_fault(conf: QuantizationConf, device: str) -> str:
    """Why this machine cannot compute with quantized weights; empty if it can.

    Tries one product, forward and backward, instead of trusting a version number.
    """
    if isinstance(conf, NoQuantizationConf):
        return ""
    try:
        import bitsandbytes as bnb

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
