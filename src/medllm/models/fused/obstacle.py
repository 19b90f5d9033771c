"""Why a run cannot be trained by the fused step."""

import importlib.util
from typing import Any

import torch

from medllm.config.lora import Bias, LoraConf
from medllm.config.model import Dtype
from medllm.config.quantization import Int8Conf
from medllm.config.run import RunConf
from medllm.models.fused.projection import is_linear, rank_of

# Architectures whose decoder layer is the one of `step`.
FAMILIES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
# Rotary embeddings whose angles do not depend on the length of the input.
STATIC_ROTARY = ("default", "linear", "llama3", "yarn")


def obstacle_of_conf(conf: RunConf, device: str) -> str:
    """Why this run takes the plain path, as far as its configuration says; empty if it need not.

    Args:
        conf: The run's.
        device: Of the run.
    """
    lora, trainer = conf.lora, conf.trainer
    if not isinstance(lora, LoraConf):
        return "what is trained is not LoRA"
    if lora.use_dora:
        return "lora.use_dora=true"
    if lora.bias is not Bias.none:
        return f"lora.bias={lora.bias.value}"
    if isinstance(conf.quantization, Int8Conf):
        return "quantization=int8"
    if trainer.neftune_noise_alpha is not None:
        return "trainer.neftune_noise_alpha is set"
    if trainer.fp16 or conf.model.dtype is Dtype.float16:
        return "float16"
    if trainer.bf16 and conf.model.dtype is Dtype.float32:
        return "model.dtype=float32 under trainer.bf16=true"
    if device != "cpu" and importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    return ""


def obstacle_of_model(model: Any, max_length: int) -> str:
    """Why this model does; empty if it need not.

    Args:
        model: With its adapter; shapes are enough.
        max_length: Of a conversation.
    """
    base = model.get_base_model()
    config = base.config
    if type(base).__name__ not in FAMILIES:
        return f"{type(base).__name__} is not one of {', '.join(FAMILIES)}"
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}"
    if getattr(config, "attention_dropout", 0.0):
        return "the model has dropout in its attention"
    rotary = getattr(base.model.rotary_emb, "rope_type", "default")
    if rotary not in STATIC_ROTARY:
        return f"rotary embeddings of type {rotary}"
    layer = base.model.layers[0].self_attn
    if 2 * len(base.model.rotary_emb.inv_freq) != layer.head_dim:
        return "rotary embeddings of a part of each head"
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if window is not None and window < max_length:
        return f"attention reaches {window} tokens back, data.max_length is {max_length}"
    if not isinstance(base.lm_head, torch.nn.Linear) or type(base.lm_head).__module__.startswith("bitsandbytes"):
        return "the output layer is adapted or quantized"
    if not isinstance(base.model.embed_tokens, torch.nn.Embedding):
        return "embeddings of new tokens are trained"
    layers = [
        module
        for block in base.model.layers
        for parent in (block.self_attn, block.mlp)
        for name, module in parent.named_children()
        if name.endswith("_proj")
    ]
    if not all(is_linear(layer) for layer in layers):
        return "its projections are not all linear layers"
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    if dtypes != {torch.float32}:
        return f"adapters are in {', '.join(str(dtype).removeprefix('torch.') for dtype in dtypes)}, not in float32"
    adapted = sum(2 for layer in layers if rank_of(layer))
    trained = sum(1 for parameter in model.parameters() if parameter.requires_grad)
    return "" if adapted == trained else "adapters sit outside the decoder layers' projections"
