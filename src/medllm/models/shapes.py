"""Base models without contents: every tensor has its shape and precision, and takes no memory."""

from typing import Any

import torch
from torch import nn

from medllm.config.model import ModelConf
from medllm.config.quantization import FourBitConf, Int8Conf, QuantizationConf
from medllm.models.preflight import meta_model, with_embeddings


class _QuantizedProduct(torch.autograd.Function):
    """x W^T as bitsandbytes computes it: the weight is made for the product, and made again for the gradient."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, layer: "QuantizedShape") -> torch.Tensor:
        ctx.layer, ctx.dtype = layer, inputs.dtype
        ctx.kept = inputs if layer.keeps_input else None
        return (inputs.to(layer.compute_dtype) @ layer.weight.t()).to(inputs.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return (gradients[0].to(ctx.layer.compute_dtype) @ ctx.layer.weight).to(ctx.dtype), None


class QuantizedShape(nn.Linear):
    """A quantized linear layer's memory: packed weights that stay, a dequantized copy wherever the weight is read.

    Args:
        linear: The layer it stands for.
        conf: How that is quantized.
    """

    def __init__(self, linear: nn.Linear, conf: FourBitConf | Int8Conf):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weights = linear.in_features * linear.out_features
        self.keeps_input = isinstance(conf, Int8Conf)  # bitsandbytes' MatMul8bitLt does, although the weight is frozen
        if isinstance(conf, FourBitConf):
            # A float32 constant per 64 weights, or a byte where constants are quantized too (and one more per 256 of those).
            packed = weights // 2 + weights // 64 * (1 if conf.bnb_4bit_use_double_quant else 4)
            self.compute_dtype = getattr(torch, conf.bnb_4bit_compute_dtype.value)
        else:
            packed = weights + 4 * linear.out_features
            self.compute_dtype = linear.weight.dtype
        self.packed = nn.Parameter(torch.empty(packed, dtype=torch.uint8, device="meta"), requires_grad=False)
        self.bias = linear.bias

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """(out_features, in_features), made anew at each reading."""
        return torch.empty(self.out_features, self.in_features, dtype=self.compute_dtype, device=self.packed.device)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """As nn.Linear's."""
        product: torch.Tensor = _QuantizedProduct.apply(inputs, self)
        return product if self.bias is None else product + self.bias


def build_base_shape(conf: ModelConf, quantization: QuantizationConf, new_token_ids: tuple[int, ...]) -> Any:
    """What `build_base_model` would make, on the meta device."""
    dtype, attention = getattr(torch, conf.dtype.value), conf.attn_implementation.value
    model = with_embeddings(meta_model(conf, dtype=dtype, attn_implementation=attention), new_token_ids)
    if isinstance(quantization, FourBitConf | Int8Conf):
        head = model.get_output_embeddings()
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear) and child is not head:
                    setattr(module, name, QuantizedShape(child, quantization))
    model.config.use_cache = False
    return model.requires_grad_(False)


def layer_lists(model: Any) -> list[nn.ModuleList]:
    """The lists of a model's decoder layers: one in most models."""
    count = int(model.config.num_hidden_layers)
    return [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count]


def move_shapes(model: nn.Module, device: str) -> None:
    """Gives parameters and buffers a place on a device, in the present fake mode; tied ones stay tied."""
    moved: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in moved:
                    new = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
                    is_parameter = isinstance(tensor, nn.Parameter)
                    moved[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if is_parameter else new
                tensors[name] = moved[id(tensor)]  # type: ignore[assignment]
