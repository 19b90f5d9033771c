"""Triton kernels of the step. Formulas and shapes are those of `reference`, function by function."""

from medllm.models.fused.kernels.activation import swiglu, swiglu_backward
from medllm.models.fused.kernels.dropping import add_dropped_, dropout
from medllm.models.fused.kernels.loss import cross_entropy_
from medllm.models.fused.kernels.norms import rms_norm, rms_norm_backward
from medllm.models.fused.kernels.quantization import dequantize
from medllm.models.fused.kernels.rotation import rotate

__all__ = [
    "add_dropped_",
    "cross_entropy_",
    "dequantize",
    "dropout",
    "rms_norm",
    "rms_norm_backward",
    "rotate",
    "swiglu",
    "swiglu_backward",
]
