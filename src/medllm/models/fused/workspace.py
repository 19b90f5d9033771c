"""What the blocks of a step share: memory that is used again, matrices at hand, dropout, and the calculus of a projection.

Shapes as in `step`.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch

from medllm.models.fused import reference
from medllm.models.fused.projection import Adapters, Projection
from medllm.models.fused.reference import Dropout, Tensor, product32

# Outputs per feature from which on a second pass over the gradient of the input costs less than one over that of the output.
WIDE = 2


class Workspace:
    """Memory and operations of one model's step.

    Args:
        layers: Projections of each layer.
        dtype: Of the step.
        device: Of the model.
        max_tokens: No micro-batch is longer.
        kept_layers: So many layers' 4-bit weights are held dequantized too; others are dequantized when they are used.

    Attributes:
        ops: Kernels, or their reference.
        adapters: What is trained, and its gradients.
        seed: Of the micro-batch's dropout (int64 scalar on the device).
    """

    def __init__(
        self,
        layers: Sequence[Sequence[Projection]],
        dtype: torch.dtype,
        device: torch.device,
        *,
        max_tokens: int,
        kept_layers: int,
    ):
        self.dtype, self.device, self.max_tokens = dtype, device, max_tokens
        self.projections = [projection for layer in layers for projection in layer]
        self.ops = operations(device)
        self.adapters = Adapters(self.projections, dtype)
        self.seed = torch.zeros((), dtype=torch.int64, device=device)
        self._buffers: dict[str, Tensor] = {}
        self._scratch: dict[str, Tensor] = {}
        self._holder: dict[str, Projection] = {}
        for index, layer in enumerate(layers):
            for projection in layer:
                if not projection.quantized or index < kept_layers:
                    projection.move_in(self._unwritten(projection), self.ops.dequantize)
                elif projection.name not in self._scratch:
                    self._scratch[projection.name] = self._unwritten(projection)

    def refresh(self) -> None:
        """Takes in what the optimizer did."""
        self.adapters.refresh()
        self._holder.clear()  # what lies in the scratch has the adapters of the step before
        for projection in self.projections:
            projection.write_adapters()

    def release(self) -> None:
        """Gives layers weights of their own again, where they had moved, and lets all memory go."""
        for projection in self.projections:
            projection.move_out()
        self._buffers.clear()
        self._scratch.clear()
        self._holder.clear()

    def buffer(self, name: str, tokens: int, width: int, most: int | None = None) -> Tensor:
        """(T, width), the same memory at every call: zero or a finite number where nothing was written.

        Args:
            name: Of the memory.
            tokens: T.
            width: The same at every call.
            most: T is never more; by default a whole micro-batch.
        """
        if name not in self._buffers:
            self._buffers[name] = torch.zeros(most or self.max_tokens, width, dtype=self.dtype, device=self.device)
        return self._buffers[name][:tokens]

    def _unwritten(self, projection: Projection) -> Tensor:
        """Memory for its matrix, of which only the border is zero yet: the rest is written before it is read."""
        matrix = torch.empty(projection.shape, dtype=self.dtype, device=self.device)
        matrix[projection.width :] = 0
        matrix[:, projection.features :] = 0
        return matrix

    # A projection

    def matrix(self, projection: Projection) -> Tensor:
        """Its bordered matrix, valid until that of another projection of this name is asked for."""
        if projection.matrix is not None:
            return projection.matrix
        matrix = self._scratch[projection.name]
        if self._holder.get(projection.name) is not projection:  # else it still lies there from the last use
            projection.write(matrix, self.ops.dequantize)
            self._holder[projection.name] = projection
        return matrix

    def product(self, projection: Projection, x: Tensor, low: Tensor, out: Tensor) -> Tensor:
        """Out = x W^T + low (s B)^T + bias.

        Args:
            projection: Whose.
            x: (T, D + R) or wider; the border is overwritten with `low`.
            low: (T, n r).
            out: (T, N), written and returned.
        """
        features, upper = projection.features, self.matrix(projection)[: projection.width].T
        x[:, features : features + projection.rank].copy_(low)
        x = x[:, : features + projection.border]
        if projection.bias is None:
            return torch.mm(x, upper, out=out)
        return torch.addmm(projection.bias, x, upper, out=out)

    def low(self, projection: Projection, x: Tensor, part: int = 0) -> Tensor:
        """What its adapters get down to, (T, n r): dropout(x) A^T. Without adapters n r is 0, and nothing is computed.

        Args:
            projection: Whose.
            x: (T, D).
            part: Of the micro-batch; parts that are computed one by one drop their own.
        """
        return self._dropped(projection, x, part) @ projection.down.T

    def low_grad(self, projection: Projection, grad: Tensor) -> Tensor:
        """The gradient of `low`'s result, (T, n r): grad s B, written into the border of grad, (T, N + R), and a view of it."""
        width, columns = projection.width, slice(projection.features, projection.features + projection.rank)
        low = grad[:, width : width + projection.rank]
        return torch.mm(grad[:, :width], self.matrix(projection)[:width, columns], out=low)

    def input_grad(
        self, projection: Projection, grad: Tensor, part: int = 0, out: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The gradients of `low`'s result and of the input, (T, D).

        Args:
            projection: Whose.
            grad: (T, N + R), of its output; the border is overwritten.
            part: As in `low`.
            out: (T, D), where the second is written, without what comes through a dropout; new memory by default.
        """
        matrix, width, features = self.matrix(projection), projection.width, projection.features
        if width > WIDE * features and out is None:
            both = grad[:, :width] @ matrix[:width]
            result, low = both[:, :features], both[:, features : features + projection.rank]
            if not projection.p:
                return low, result.addmm_(low, projection.down)
        else:
            low = self.low_grad(projection, grad)
            if not projection.p:
                return low, torch.mm(grad[:, : width + projection.border], matrix[:, :features], out=out)
            result = torch.mm(grad[:, :width], matrix[:width, :features], out=out)
            if out is not None:
                return low, result
        self.ops.add_dropped_(result, low @ projection.down, self.dropout(projection, part))
        return low, result

    def add_down_grads(self, projection: Projection, low_grad: Tensor, x: Tensor, part: int = 0) -> None:
        """Adds dA = low_grad^T dropout(x)."""
        if projection.rank:
            projection.down_grad += product32(low_grad.T, self._dropped(projection, x, part))

    def add_up_grads(self, projection: Projection, grad: Tensor, low: Tensor) -> None:
        """Adds dB = s grad^T low."""
        for adapted, up_grad in zip(projection.adapted, projection.up_grads, strict=True):
            up_grad.add_(product32(grad[:, adapted.rows].T, low[:, adapted.columns]), alpha=self.adapters.scale)

    def dropout(self, projection: Projection, part: int) -> Dropout:
        """In front of its adapters."""
        return Dropout(projection.p, self.seed, projection.site + part * len(self.projections))

    def _dropped(self, projection: Projection, x: Tensor, part: int) -> Tensor:
        if not projection.p:
            return x
        out = self.buffer(f"dropped {x.shape[1]}", *x.shape)
        self.ops.dropout(x, self.dropout(projection, part), out)
        return out

    # A norm

    def norm(self, norm: Any, x: Tensor, out: Tensor, branch: Tensor | None = None) -> Tensor:
        """Writes the norm of x, (T, D); returns (T) float32, what `norm_backward` needs. `branch` as in `reference.rms_norm`."""
        return self.ops.rms_norm(x, norm.weight, norm.variance_epsilon, out, branch)

    def norm_backward(self, norm: Any, grad: Tensor, x: Tensor, rstd: Tensor, around: Tensor, normed: Tensor) -> None:
        """Adds to `around`, the gradient that goes around the norm, that which comes through it.

        Args:
            norm: transformers'.
            grad: (T, D), of the norm's output.
            x: (T, D), its input.
            rstd: (T) float32.
            around: (T, D), changed.
            normed: (T, D), written with the norm's output once more.
        """
        self.ops.rms_norm_backward(grad, x, norm.weight, rstd, around, around, normed)


def operations(device: torch.device) -> ModuleType:
    """Kernels on a GPU, plain torch elsewhere."""
    if device.type != "cuda":
        return reference
    from medllm.models.fused import kernels

    return kernels
