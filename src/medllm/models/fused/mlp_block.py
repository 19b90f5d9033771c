"""The MLP's block of a layer, forward and backward. Shapes as in `step`."""

from typing import NamedTuple

from medllm.models.fused.layer import Layer
from medllm.models.fused.reference import Tensor
from medllm.models.fused.workspace import Workspace


class SavedMlp(NamedTuple):
    """Of the MLP's block, for its backward pass.

    Attributes:
        x: (T, D), its input, the branch before it included.
        rstd: (T), of its norm.
        low_gate_up: (T, n r), what the adapters got down to.
        gate_up: (T, 2 F + R), the border empty; None if it is made again.
        low_down: (T, r).
    """

    x: Tensor
    rstd: Tensor
    low_gate_up: Tensor
    gate_up: Tensor | None
    low_down: Tensor


class MlpBlock:
    """down(silu(gate) up), gate and up of norm(x).

    Args:
        layer: Its weights.
        most: Tokens that are computed at a time.
        work: Shared memory.
    """

    def __init__(self, layer: Layer, most: int, work: Workspace):
        self.layer, self.most, self.work = layer, most, work

    def forward(self, x: Tensor, branch: Tensor, out: Tensor | None, part: int = 0) -> SavedMlp:
        """What the backward pass needs.

        Args:
            x: (T, D).
            branch: (T, D), of attention's block; x is added to it.
            out: (T, D), written with what this block adds to that; None if only the backward pass is wanted.
            part: Which of the parts that the tokens are computed in.
        """
        layer, work, (tokens, features) = self.layer, self.work, x.shape
        normed, hidden, down = self._normed(tokens), self._hidden(tokens), layer.down
        rstd = work.norm(layer.norm2, x, normed[:, :features], branch)
        low_gate_up = work.low(layer.gate_up, normed[:, :features], part)
        gate_up = self._gate_up(normed, low_gate_up)
        activated = hidden[:, : down.features]
        low_down = work.ops.swiglu(gate_up[:, : layer.gate_up.width], activated, down.down, work.dropout(down, part))
        if out is not None:
            work.product(down, hidden, low_down, out)
        return SavedMlp(branch, rstd, low_gate_up, gate_up, low_down)

    def backward(self, saved: SavedMlp, grad: Tensor, part: int = 0) -> None:
        """Turns the gradient (T, D + R) at the block's output into that at its input."""
        layer, work, x, gate_up = self.layer, self.work, saved.x, saved.gate_up
        tokens, features = x.shape
        normed = self._normed(tokens)
        if gate_up is None:
            work.norm(layer.norm2, x, normed[:, :features])
            gate_up = self._gate_up(normed, saved.low_gate_up)
        # The activation's output is not needed again: the gradient lies in its place.
        low, d_hidden = work.input_grad(layer.down, grad, part, self._hidden(tokens)[:, : layer.down.features])
        work.add_up_grads(layer.down, grad, saved.low_down)
        self._activation_backward(d_hidden, gate_up[:, : layer.gate_up.width], low, saved.low_gate_up, part)

        low, d_normed = work.input_grad(layer.gate_up, gate_up, part)
        work.norm_backward(layer.norm2, d_normed, x, saved.rstd, grad[:, :features], normed[:, :features])
        work.add_down_grads(layer.gate_up, low, normed[:, :features], part)

    def _activation_backward(self, grad: Tensor, gate_up: Tensor, low_grad: Tensor, low: Tensor, part: int) -> None:
        """Turns gate and up, (T, 2 F), into their gradients; adds those of the adapters that are products with F features.

        They are dA of the projection behind and dB of gate and up; the numbers are at hand but once.
        """
        projection, down, work = self.layer.gate_up, self.layer.down, self.work
        low_gate, low_up = (low[:, part_of.columns] for part_of in projection.parts)
        sums = work.ops.swiglu_backward(
            grad, gate_up, gate_up, low_grad, low_gate, low_up, down.down, work.dropout(down, part)
        )
        of_down, of_gate_up = sums.split((down.rank, projection.rank))
        down.down_grad += of_down
        for adapted, up_grad in zip(projection.adapted, projection.up_grads, strict=True):
            up_grad.add_(of_gate_up[adapted.columns].T, alpha=work.adapters.scale)

    def _gate_up(self, normed: Tensor, low: Tensor) -> Tensor:
        """(T, 2 F + R): the backward pass writes the gradient over it and the adapters' part into the border."""
        projection = self.layer.gate_up
        rows = normed.new_empty(len(normed), projection.width + projection.border)
        rows[:, projection.width :].zero_()
        self.work.product(projection, normed, low, rows[:, : projection.width])
        return rows

    def _normed(self, tokens: int) -> Tensor:
        """(T, D + R), input of the wide projections of both blocks."""
        return self.work.buffer("normed", tokens, self.layer.normed_width)

    def _hidden(self, tokens: int) -> Tensor:
        """(T, F + R), input of the last projection; in the backward pass the gradient of that."""
        down = self.layer.down
        return self.work.buffer("hidden", tokens, down.features + down.border, self.most)
