"""Linear layers that share their input, as one matrix, LoRA included.

For layers W_1 ... W_n (each N_j x D) with adapters A_j (r x D), B_j (N_j x r) and the scale s, in one bordered matrix

        [ W_1  s B_1             ]
    M = [ ...         ...        ]      (N + R) x (D + R),  N = sum N_j,  R >= n r
        [ W_n             s B_n  ]
        [ A_1 ... A_n | 0        ]

the forward product is [x | x A^T] times M's upper rows, and the gradient of x is [dy | dy s B] times M's left columns: the
low-rank part rides in the large product's sum instead of passing over its wide result once more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from medllm.models.fused.reference import Tensor
from medllm.models.quantization import WRITTEN

# Borders are filled up to this many columns, so that rows stay aligned to 128 bytes in 16 bit.
ALIGNMENT = 64
# peft's name of the adapter that is trained.
ADAPTER = "default"


def base_of(layer: Any) -> Any:
    """The linear layer below an adapter, or the layer itself."""
    return layer.base_layer if hasattr(layer, "lora_A") else layer


def rank_of(layer: Any) -> int:
    """Of its adapter; 0 without one."""
    return int(layer.r[ADAPTER]) if hasattr(layer, "lora_A") else 0


@dataclass
class Part:
    """One layer of a projection.

    Attributes:
        layer: peft's, or a plain one.
        rows: Of the projection's output that are its own.
        columns: Of the border that are its adapter's; empty without one.
    """

    layer: Any
    rows: slice
    columns: slice

    @property
    def rank(self) -> int:
        """Of the adapter; 0 without one."""
        return self.columns.stop - self.columns.start

    @property
    def base(self) -> Any:
        """Its linear layer."""
        return base_of(self.layer)


@dataclass
class Projection:
    """A group of layers with one input.

    Attributes:
        name: Equal for the projections that stand at the same place in their layers.
        parts: In the order of the output.
        width: N.
        features: D.
        rank: Of all adapters together.
        border: R.
        site: Number of its dropout.
        p: Dropout before the adapters; one mask serves all adapters of the group.
        bias: (N), or None.
        matrix: M, where it stays in memory.
        down: (n r, D), every A in the step's type.
        down_grad: (n r, D) float32.
        ups: (N_j, r) of each adapter, s B in the step's type.
        up_grads: (N_j, r) float32, of B.
    """

    name: str
    parts: list[Part]
    width: int
    features: int
    rank: int
    border: int
    site: int
    p: float
    bias: Tensor | None
    matrix: Tensor | None = None
    down: Tensor = field(init=False)
    down_grad: Tensor = field(init=False)
    ups: list[Tensor] = field(default_factory=list)
    up_grads: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, name: str, layers: list[Any], site: int) -> "Projection":
        """Of peft's layers and plain ones."""
        parts, row, column, p = [], 0, 0, 0.0
        for layer in layers:
            width, rank = base_of(layer).out_features, rank_of(layer)
            parts.append(Part(layer, slice(row, row + width), slice(column, column + rank)))
            row, column = row + width, column + rank
            if rank:
                p = float(getattr(layer.lora_dropout[ADAPTER], "p", 0.0))
        biases = [part.base.bias for part in parts]
        widths = [part.base.out_features for part in parts]
        bias = None
        if any(b is not None for b in biases):
            bias = torch.cat(
                [parts[0].base.bias.new_zeros(w) if b is None else b for b, w in zip(biases, widths, strict=True)]
            )
        border = -(-column // ALIGNMENT) * ALIGNMENT
        return cls(name, parts, row, int(parts[0].base.in_features), column, border, site, p, bias)

    @property
    def quantized(self) -> bool:
        """Whether its weights are in 4 bit."""
        return any(hasattr(part.base.weight, "quant_state") for part in self.parts)

    @property
    def adapted(self) -> list[Part]:
        """Parts with an adapter."""
        return [part for part in self.parts if part.rank]

    @property
    def shape(self) -> tuple[int, int]:
        """Of M."""
        return self.width + self.border, self.features + self.border

    def write(self, matrix: Tensor, dequantize: Callable[..., None]) -> None:
        """Writes M, all but the part of its border that is always zero."""
        ups = iter(self.ups)
        for part in self.parts:
            weight, target = part.base.weight, matrix[part.rows, : self.features]
            up = next(ups) if part.rank else None
            column = self.features + part.columns.start
            if hasattr(weight, "quant_state"):
                dequantize(weight, target, up, column)
            else:
                target.copy_(weight)
                if up is not None:
                    matrix[part.rows, column : column + part.rank].copy_(up)
        if self.rank:
            matrix[self.width : self.width + self.rank, : self.features].copy_(self.down)

    def write_adapters(self) -> None:
        """Takes new adapters into a matrix that is kept."""
        if self.matrix is None or not self.rank:
            return
        self.matrix[self.width : self.width + self.rank, : self.features].copy_(self.down)
        for part, up in zip(self.adapted, self.ups, strict=True):
            columns = slice(self.features + part.columns.start, self.features + part.columns.stop)
            self.matrix[part.rows, columns].copy_(up)

    def move_in(self, matrix: Tensor, dequantize: Callable[..., None]) -> None:
        """Keeps M; weights that are not quantized live there from now on, so that there is one of each."""
        self.write(matrix, dequantize)
        self.matrix = matrix
        for part in self.parts:
            weight = matrix[part.rows, : self.features]
            if self.quantized:
                setattr(part.base, WRITTEN, weight)
            else:
                part.base.weight.data = weight

    def move_out(self) -> None:
        """Lets M go; weights that lived there get memory of their own."""
        for part in self.parts if self.matrix is not None else []:
            if self.quantized:
                delattr(part.base, WRITTEN)
            else:
                part.base.weight.data = part.base.weight.data.contiguous()
        self.matrix = None


class Adapters:
    """All adapters as one float32 parameter: a norm, a copy or an optimizer step is one operation and not hundreds.

    peft's parameters become views of it, so that they are saved, loaded and merged as ever.

    Attributes:
        parameter: Every A, then every B; its `grad` is always there.
        scale: s.
    """

    def __init__(self, projections: Sequence[Projection], dtype: torch.dtype):
        downs = [(projection, part) for projection in projections for part in projection.adapted]
        self.scale = float(downs[0][1].layer.scaling[ADAPTER])
        weights = [part.layer.lora_A[ADAPTER].weight for _, part in downs]
        self._num_down = sum(weight.numel() for weight in weights)
        weights += [part.layer.lora_B[ADAPTER].weight for _, part in downs]
        flat = torch.cat([weight.data.flatten() for weight in weights])
        self.parameter = nn.Parameter(flat)
        self.grad = self.parameter.grad = torch.zeros_like(flat)
        self._shadow = torch.empty_like(flat, dtype=dtype)
        start = 0
        for weight in weights:
            weight.data = flat[start : start + weight.numel()].view(weight.shape)
            start += weight.numel()
        start = 0
        for projection in projections:
            projection.down, projection.down_grad = self._views(start, (projection.rank, projection.features))
            start += projection.rank * projection.features
        for projection, part in downs:
            shape = (part.rows.stop - part.rows.start, part.rank)
            up, up_grad = self._views(start, shape)
            projection.ups.append(up)
            projection.up_grads.append(up_grad)
            start += up.numel()

    def _views(self, start: int, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        stop = start + shape[0] * shape[1]
        return self._shadow[start:stop].view(shape), self.grad[start:stop].view(shape)

    def refresh(self) -> None:
        """Takes in what the optimizer did: A and s B, rounded to the step's type."""
        self._shadow[: self._num_down].copy_(self.parameter.data[: self._num_down])
        torch.mul(self.parameter.data[self._num_down :], self.scale, out=self._shadow[self._num_down :])


def is_linear(layer: Any) -> bool:
    """Whether a layer is a linear one, adapted or not."""
    return isinstance(base_of(layer), nn.Linear)
