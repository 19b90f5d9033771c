"""The step's elementwise operations in plain torch: what runs on the CPU, and what each kernel in `kernels` must equal.

Shapes: T tokens, D features, F of them in the MLP, H heads of E features, r of an adapter (0 without one), K supervised tokens,
V vocabulary.
Inputs may be views with a row stride; arithmetic is in float32, results are in the type of what they are written to.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

Tensor = torch.Tensor


# Shares of the tokens over which the activation's backward pass sums apart, at the most: each has sums of its own.
MOST_SHARES = 8


class Dropout(NamedTuple):
    """What is dropped in front of an adapter.

    Attributes:
        p: Share.
        seed: Scalar int64, of the micro-batch.
        site: Which dropout of the model it is.
    """

    p: float
    seed: Tensor
    site: int

    @property
    def limit(self) -> int:
        """16 random bits below it drop a number: p is rounded to 1 / 65,536."""
        return round(self.p * 65536)


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor, branch: Tensor | None = None) -> Tensor:
    """Out = x rstd weight, rstd = 1 / sqrt(mean(x^2) + eps) (arXiv 1910.07467).

    Args:
        x: (T, D).
        weight: (D).
        eps: Of the norm.
        out: (T, D), written.
        branch: (T, D), added to x before; the sum is written over it.

    Returns:
        rstd, (T) float32.
    """
    if branch is not None:
        x = branch.add_(x)
    x32 = x.float()
    rstd = torch.rsqrt(x32.square().mean(dim=-1) + eps)
    out.copy_(x32.mul_(rstd[:, None]).mul_(weight) if x32 is not x else x * rstd[:, None] * weight)
    return rstd


def rms_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, residual: Tensor | None, out: Tensor, normed: Tensor | None
) -> None:
    """Out = rstd (g - n mean(g n)) + residual, with n = x rstd and g = grad weight.

    Args:
        grad: (T, D), of the norm's output.
        x: (T, D), the norm's input.
        weight: (D).
        rstd: (T) float32.
        residual: (T, D), the gradient that goes around the norm; may be `out`.
        out: (T, D), written.
        normed: (T, D), written with the norm's output once more, for those who did not keep it.
    """
    n = x.float() * rstd[:, None]
    g = grad.float() * weight
    dx = (g - n * (g * n).mean(dim=-1, keepdim=True)) * rstd[:, None]
    out.copy_(dx if residual is None else dx.add_(residual))
    if normed is not None:
        normed.copy_(n.mul_(weight))


def rotate(heads: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, out: Tensor, *, inverse: bool = False) -> None:
    """Rotary position embedding (arXiv 2104.09864) in the half-split form of transformers; `inverse` is its gradient.

    Args:
        heads: (T, H, E).
        cos: (P, E / 2) float32, by position.
        sin: As cos.
        positions: (T) int64, below P.
        out: (T, H, E), written; may be `heads`.
        inverse: Turn back.
    """
    c, s = cos[positions][:, None], sin[positions][:, None]
    if inverse:
        s = -s
    first, second = heads.float().chunk(2, dim=-1)
    out.copy_(torch.cat((first * c - second * s, second * c + first * s), dim=-1))


def swiglu(gate_up: Tensor, out: Tensor, down: Tensor, drop: Dropout) -> Tensor:
    """Out = silu(gate) up (arXiv 2002.05202).

    Args:
        gate_up: (T, 2 F): gate, then up.
        out: (T, F), written.
        down: (r, F), of the adapter behind.
        drop: In front of that adapter.

    Returns:
        (T, r) in the type of `out`, what that adapter gets down to: dropout(out) down^T.
    """
    gate, up = gate_up.chunk(2, dim=-1)
    torch.mul(F.silu(gate), up, out=out) if out.is_contiguous() else out.copy_(F.silu(gate).mul_(up))
    return _dropped(out, drop) @ down.T


def swiglu_backward(
    grad: Tensor,
    gate_up: Tensor,
    out: Tensor,
    low_grad: Tensor,
    low_gate: Tensor,
    low_up: Tensor,
    down: Tensor,
    drop: Dropout,
) -> Tensor:
    """Gradients of gate and up, and those sums over the tokens for the adapters' gradients that have a factor of F features.

    With s = sigmoid(gate): d gate = grad up s (1 + gate (1 - s)), d up = grad gate s. Each product is rounded to the rows' type,
    as autograd does for silu(gate) up.

    Args:
        grad: (T, F), of the output; without what comes through the adapter behind if something is dropped in front of that.
        gate_up: (T, 2 F).
        out: (T, 2 F), written; may be `gate_up`.
        low_grad: (T, r), the gradient of what the adapter behind got down to.
        low_gate: (T, r'), what the adapter of gate got down to.
        low_up: (T, r''), likewise.
        down: (r, F), of the adapter behind.
        drop: In front of the adapter behind.

    Returns:
        (r + r' + r'', F) float32, one below the other: low_grad^T dropout(silu(gate) up), low_gate^T d gate, low_up^T d up.
    """
    gate, up = gate_up.chunk(2, dim=-1)
    d_gate, d_up = out.chunk(2, dim=-1)
    if drop.p:
        grad = grad + _dropped(low_grad @ down, drop)
    activated = F.silu(gate)
    hidden = activated * up
    d_activated = grad * up
    torch.mul(grad, activated, out=d_up)  # over `up`, of which nothing is left to do
    torch.ops.aten.silu_backward.grad_input(d_activated, gate, grad_input=d_gate)
    return torch.cat((low_grad.T @ _dropped(hidden, drop), low_gate.T @ d_gate, low_up.T @ d_up)).float()


def cross_entropy_(logits: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    """Losses; the logits become the gradient of scale times their sum: scale (softmax - one hot).

    Args:
        logits: (K, V), overwritten.
        targets: (K) int64.
        scale: Scalar, float32.

    Returns:
        (K) float32, in nats, not scaled.
    """
    log_p = logits.float().log_softmax(dim=-1)
    losses = -log_p.gather(1, targets[:, None]).squeeze(1)
    gradient = log_p.exp_()
    gradient[torch.arange(len(targets), device=targets.device), targets] -= 1
    logits.copy_(gradient.mul_(scale))
    return losses


def _kept(shape: torch.Size, drop: Dropout) -> Tensor:
    """Which elements dropout keeps, int8. Four share a random number; NumPy draws and compares in half of torch's time."""
    count = shape.numel()
    bits = np.random.SFC64((int(drop.seed) * 1_000_003 + drop.site) % 2**63).random_raw(-(-count // 4))
    kept = bits.view(np.int16)[:count] >= drop.limit - 32768
    return torch.from_numpy(kept.view(np.int8)).view(shape)


def _dropped(x: Tensor, drop: Dropout) -> Tensor:
    if not drop.p:
        return x
    growth = 65536 / (65536 - drop.limit)
    return _kept(x.shape, drop).to(x.dtype).mul_(x).mul_(growth)


def dropout(x: Tensor, drop: Dropout, out: Tensor) -> None:
    """Out = x / (1 - p) where kept, else 0. What is kept depends on seed, site and place alone.

    Args:
        x: (T, D).
        drop: What is dropped.
        out: (T, D), written.
    """
    out.copy_(_dropped(x, drop))


def add_dropped_(x: Tensor, grad: Tensor, drop: Dropout) -> None:
    """X += grad / (1 - p) where this dropout kept: its gradient.

    Args:
        x: (T, D), changed.
        grad: (T, D), of the dropout's output.
        drop: What was dropped.
    """
    x.add_(_dropped(grad, drop))


def dequantize(weight: Any, out: Tensor, up: Tensor | None = None, up_column: int = 0) -> None:
    """Writes a 4-bit weight as numbers, and into the same rows the adapter beside it.

    Args:
        weight: bitsandbytes' `Params4bit` of an (N, D) matrix.
        out: (N, D), written; a view of longer rows if there is an adapter.
        up: (N, r), contiguous; None without an adapter.
        up_column: Where the adapter begins, counted from the first column of `out`.
    """
    from bitsandbytes.functional import dequantize_4bit

    out.copy_(dequantize_4bit(weight.data, weight.quant_state).view(out.shape))
    if up is not None:
        out.as_strided(up.shape, out.stride(), out.storage_offset() + up_column).copy_(up)


def product32(a: Tensor, b: Tensor) -> Tensor:
    """The product of (M, K) and (K, N) in float32, however the factors are rounded."""
    if a.is_cuda and a.dtype != torch.float32:
        return torch.mm(a, b, out_dtype=torch.float32)
    return torch.mm(a, b).float()
