"""RMS norms: one program per token."""

import torch
import triton
import triton.language as tl

from medllm.models.fused.reference import Tensor


@triton.jit
def _rms_norm(
    x,
    branch,
    weight,
    out,
    rstd,
    x_stride,
    branch_stride,
    out_stride,
    eps,
    D: tl.constexpr,
    HAS_BRANCH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < D
    value = tl.load(x + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_BRANCH:
        place = branch + row * branch_stride + columns
        value += tl.load(place, mask=inside, other=0.0).to(tl.float32)
        value = value.to(branch.dtype.element_ty).to(tl.float32)  # the backward pass has the rounded sum
        tl.store(place, value.to(branch.dtype.element_ty), mask=inside)
    scale = 1.0 / tl.sqrt(tl.sum(value * value, 0) / D + eps)
    tl.store(rstd + row, scale)
    w = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + columns, (value * scale * w).to(out.dtype.element_ty), mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor, branch: Tensor | None = None) -> Tensor:
    """One program per token."""
    tokens, features = x.shape
    rstd = torch.empty(tokens, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(features)
    added = x if branch is None else branch
    _rms_norm[(tokens,)](
        x,
        added,
        weight,
        out,
        rstd,
        x.stride(0),
        added.stride(0),
        out.stride(0),
        eps,
        features,
        branch is not None,
        block,
        num_warps=_warps(block),
    )
    return rstd


@triton.jit
def _rms_norm_backward(
    grad,
    x,
    weight,
    rstd,
    residual,
    out,
    normed,
    grad_stride,
    x_stride,
    residual_stride,
    out_stride,
    normed_stride,
    D: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    WRITES_NORMED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < D
    scale = tl.load(rstd + row)
    n = tl.load(x + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32) * scale
    w = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(grad + row * grad_stride + columns, mask=inside, other=0.0).to(tl.float32) * w
    dx = scale * (g - n * (tl.sum(g * n, 0) / D))
    if HAS_RESIDUAL:
        dx += tl.load(residual + row * residual_stride + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + columns, dx.to(out.dtype.element_ty), mask=inside)
    if WRITES_NORMED:
        tl.store(normed + row * normed_stride + columns, (n * w).to(normed.dtype.element_ty), mask=inside)


def rms_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, residual: Tensor | None, out: Tensor, normed: Tensor | None
) -> None:
    """One program per token."""
    tokens, features = x.shape
    block = triton.next_power_of_2(features)
    around, again = grad if residual is None else residual, out if normed is None else normed
    _rms_norm_backward[(tokens,)](
        grad,
        x,
        weight,
        rstd,
        around,
        out,
        again,
        grad.stride(0),
        x.stride(0),
        around.stride(0),
        out.stride(0),
        again.stride(0),
        features,
        residual is not None,
        normed is not None,
        block,
        num_warps=_warps(block),
    )


def _warps(block: int) -> int:
    return 8 if block >= 2048 else 4
