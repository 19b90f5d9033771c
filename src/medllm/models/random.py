"""A base model of random weights made where it stays: each weight is drawn on the device and quantized at once.

The 8B shape in 4 bit takes seconds this way, and never more memory than the finished model and one weight more.
"""

import math
from typing import Any

import torch
from torch import nn

# GPT-2's: output projections are narrower, so that the residual stream does not grow with the depth.
STD = 0.02
OUTPUTS = ("o_proj", "down_proj")


def build_random(config: Any, arguments: dict[str, Any], quantization_config: Any, device: str, seed: int) -> Any:
    """A causal language model of that config, its weights drawn on `device`: other numbers on another kind of device.

    Args:
        config: transformers' own; of an architecture with RMS norms, whose weights begin as 1.
        arguments: Of `from_config`: dtype and attention.
        quantization_config: A `BitsAndBytesConfig`, or None.
        device: Where the weights are drawn and stay.
        seed: Of the weights; the process's random state stays as it was.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, **arguments)
    quantizer = None
    if quantization_config is not None:
        from transformers.quantizers import AutoHfQuantizer

        quantizer = AutoHfQuantizer.from_config(quantization_config, pre_quantized=False)
        quantizer.preprocess_model(model=model, device_map={"": device})
    generator = torch.Generator(device).manual_seed(seed)
    output_std = STD / math.sqrt(2 * config.num_hidden_layers)
    for path, module in list(model.named_modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            std = output_std if path.endswith(OUTPUTS) else STD
            setattr(module, name, _drawn(parameter, module, name, arguments["dtype"], std, generator))
        _move_buffers(module, config, device)
    model.tie_weights()
    if quantizer is not None:
        quantizer.postprocess_model(model)
        model.hf_quantizer = quantizer
    return model.eval()


def _drawn(
    parameter: Any, module: nn.Module, name: str, dtype: torch.dtype, std: float, generator: torch.Generator
) -> nn.Parameter:
    """A parameter of the same kind with values: matrices at random, norms 1, biases 0."""
    value = torch.empty(parameter.shape, dtype=dtype, device=generator.device)
    if name == "bias":
        value.zero_()
    elif value.ndim < 2:
        value.fill_(1)
    else:
        value.normal_(0, std, generator=generator)
    if type(parameter) is nn.Parameter:
        return nn.Parameter(value, requires_grad=False)
    # bitsandbytes' parameters quantize when they are moved to a device, with the settings that they carry.
    settings = {key: setting for key, setting in vars(parameter).items() if key not in ("SCB", "CB")}
    source = value if "quant_type" in settings else value.cpu()
    quantized: nn.Parameter = type(parameter)(source, requires_grad=False, **settings).to(generator.device)
    return quantized


def _move_buffers(module: nn.Module, config: Any, device: str) -> None:
    """Buffers hold no random numbers: the module is made once more, on the device, and its own are taken."""
    if not any(buffer.is_meta for buffer in module.buffers(recurse=False)):
        return
    with torch.device(device):
        made = type(module)(config)
    for name, buffer in made.named_buffers(recurse=False):
        module.register_buffer(name, buffer, persistent=False)
    for name, value in vars(made).items():
        if isinstance(value, torch.Tensor):  # such as the rotary embedding's `original_inv_freq`
            setattr(module, name, value)
