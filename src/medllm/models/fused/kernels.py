"""Triton kernels of the step. Formulas and shapes are those of `reference`, function by function."""

from typing import Any

import torch
import triton
import triton.language as tl

Tensor = torch.Tensor


@triton.jit
def _rms_norm(x, weight, out, rstd, x_stride, out_stride, eps, D: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < D
    value = tl.load(x + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(value * value, 0) / D + eps)
    tl.store(rstd + row, scale)
    w = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + columns, (value * scale * w).to(out.dtype.element_ty), mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor) -> Tensor:
    """One program per token."""
    tokens, features = x.shape
    rstd = torch.empty(tokens, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(features)
    _rms_norm[(tokens,)](
        x, weight, out, rstd, x.stride(0), out.stride(0), eps, features, block, num_warps=_warps(block)
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


@triton.jit
def _rotate(
    heads,
    out,
    cos,
    sin,
    positions,
    row_stride,
    head_stride,
    out_row_stride,
    out_head_stride,
    sign,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    position = tl.load(positions + row)
    column = tl.arange(0, WIDTH)[None, :]
    head = (tl.program_id(1) * GROUP + tl.arange(0, GROUP))[:, None]
    inside = (head < HEADS) & (column < HALF)
    c = tl.load(cos + position * HALF + column, mask=column < HALF, other=0.0)
    s = tl.load(sin + position * HALF + column, mask=column < HALF, other=0.0) * sign
    source = heads + row * row_stride + head * head_stride + column
    first = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(source + HALF, mask=inside, other=0.0).to(tl.float32)
    target = out + row * out_row_stride + head * out_head_stride + column
    tl.store(target, (first * c - second * s).to(out.dtype.element_ty), mask=inside)
    tl.store(target + HALF, (second * c + first * s).to(out.dtype.element_ty), mask=inside)


def rotate(heads: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, out: Tensor, *, inverse: bool = False) -> None:
    """One program per token and eight heads."""
    tokens, count, width = heads.shape
    group, half = 8, width // 2
    _rotate[(tokens, triton.cdiv(count, group))](
        heads,
        out,
        cos,
        sin,
        positions,
        heads.stride(0),
        heads.stride(1),
        out.stride(0),
        out.stride(1),
        -1.0 if inverse else 1.0,
        count,
        half,
        triton.next_power_of_2(half),
        group,
    )


@triton.jit
def _swiglu(gate_up, out, gate_up_stride, out_stride, F: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < F
    gate = tl.load(gate_up + row * gate_up_stride + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * gate_up_stride + F + columns, mask=inside, other=0.0).to(tl.float32)
    hidden = gate * tl.sigmoid(gate) * up
    tl.store(out + row * out_stride + columns, hidden.to(out.dtype.element_ty), mask=inside)


def swiglu(gate_up: Tensor, out: Tensor) -> None:
    """One program per token and block of columns."""
    tokens, features = out.shape
    block = min(2048, triton.next_power_of_2(features))
    grid = (tokens, triton.cdiv(features, block))
    _swiglu[grid](gate_up, out, gate_up.stride(0), out.stride(0), features, block)


@triton.jit
def _swiglu_backward(
    grad,
    gate_up,
    out,
    hidden,
    grad_stride,
    gate_up_stride,
    out_stride,
    hidden_stride,
    F: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < F
    gate = tl.load(gate_up + row * gate_up_stride + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * gate_up_stride + F + columns, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(grad + row * grad_stride + columns, mask=inside, other=0.0).to(tl.float32)
    s = tl.sigmoid(gate)
    activated = gate * s
    element = out.dtype.element_ty
    tl.store(hidden + row * hidden_stride + columns, (activated * up).to(hidden.dtype.element_ty), mask=inside)
    tl.store(out + row * out_stride + columns, (g * up * (s + activated * (1.0 - s))).to(element), mask=inside)
    tl.store(out + row * out_stride + F + columns, (g * activated).to(element), mask=inside)


def swiglu_backward(grad: Tensor, gate_up: Tensor, out: Tensor, hidden: Tensor) -> None:
    """One program per token and block of columns; each reads a place before it writes it."""
    tokens, features = hidden.shape
    block = min(2048, triton.next_power_of_2(features))
    grid = (tokens, triton.cdiv(features, block))
    strides = (grad.stride(0), gate_up.stride(0), out.stride(0), hidden.stride(0))
    _swiglu_backward[grid](grad, gate_up, out, hidden, *strides, features, block)


@triton.jit
def _cross_entropy(logits, targets, losses, scale, V: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * V
    target = tl.load(targets + row)
    largest = tl.full((BLOCK,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for offset in range(0, V, BLOCK):
        columns = offset + tl.arange(0, BLOCK)
        value = tl.load(start + columns, mask=columns < V, other=-1e30).to(tl.float32)
        larger = tl.maximum(largest, value)
        total = total * tl.exp(largest - larger) + tl.exp(value - larger)
        largest = larger
    top = tl.max(largest, 0)
    total_exp = tl.sum(total * tl.exp(largest - top), 0)
    tl.store(losses + row, tl.log(total_exp) + top - tl.load(start + target).to(tl.float32))
    factor = tl.load(scale)
    for offset in range(0, V, BLOCK):
        columns = offset + tl.arange(0, BLOCK)
        value = tl.load(start + columns, mask=columns < V, other=-1e30).to(tl.float32)
        gradient = (tl.exp(value - top) / total_exp - tl.where(columns == target, 1.0, 0.0)) * factor
        tl.store(start + columns, gradient.to(logits.dtype.element_ty), mask=columns < V)


def cross_entropy_(logits: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    """One program per supervised token, two passes over its logits. `logits` must be contiguous."""
    count, vocabulary = logits.shape
    losses = torch.empty(count, dtype=torch.float32, device=logits.device)
    block = min(4096, triton.next_power_of_2(vocabulary))
    if count:
        _cross_entropy[(count,)](logits, targets, losses, scale, vocabulary, block, num_warps=8)
    return losses


@triton.jit
def _dropout(
    x,
    out,
    seed,
    x_stride,
    out_stride,
    site,
    p,
    D: tl.constexpr,
    ADDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < D
    # Philox's key is the micro-batch's seed and the site, its counter the place.
    random = tl.rand(tl.load(seed) + site, (row * D).to(tl.int32) + columns)
    value = tl.load(x + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    kept = tl.where(random >= p, value / (1.0 - p), 0.0)
    if ADDS:
        kept += tl.load(out + row * out_stride + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + columns, kept.to(out.dtype.element_ty), mask=inside)


def dropout(x: Tensor, p: float, seed: Tensor, site: int, out: Tensor) -> None:
    """Random numbers are counted, not drawn: the backward pass has them again without a mask being kept."""
    _launch_dropout(x, p, seed, site, out, adds=False)


def add_dropped_(x: Tensor, grad: Tensor, p: float, seed: Tensor, site: int) -> None:
    """See `dropout`."""
    _launch_dropout(grad, p, seed, site, x, adds=True)


def _launch_dropout(x: Tensor, p: float, seed: Tensor, site: int, out: Tensor, *, adds: bool) -> None:
    tokens, features = x.shape
    block = min(2048, triton.next_power_of_2(features))
    grid = (tokens, triton.cdiv(features, block))
    _dropout[grid](x, out, seed, x.stride(0), out.stride(0), site, p, features, adds, block)


@triton.jit
def _dequantize(
    packed,
    absmax,
    code2,
    absmax2,
    offset,
    code,
    out,
    up,
    out_stride,
    up_column,
    D,
    NESTED: tl.constexpr,
    RANK: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK
    if column >= D:
        columns = tl.arange(0, WIDTH)
        value = tl.load(up + row * RANK + columns, mask=columns < RANK, other=0.0)
        tl.store(out + row * out_stride + up_column + columns, value, mask=columns < RANK)
    else:
        start = row * D + column
        half: tl.constexpr = BLOCK // 2
        constants: tl.constexpr = BLOCK // 64
        block = start // 64 + tl.arange(0, constants)
        if NESTED:
            scale = tl.load(code2 + tl.load(absmax + block).to(tl.int32)) * tl.load(absmax2 + block // 256)
            scale += tl.load(offset)
        else:
            scale = tl.load(absmax + block)
        pair = tl.load(packed + start // 2 + tl.arange(0, half)).to(tl.int32)
        number = tl.interleave(tl.load(code + (pair >> 4)), tl.load(code + (pair & 15)))
        number = tl.reshape(number, (constants, 64)) * scale[:, None]
        target = out + row * out_stride + column + tl.arange(0, BLOCK)
        tl.store(target, tl.reshape(number, (BLOCK,)).to(out.dtype.element_ty))


def dequantize(weight: Any, out: Tensor, up: Tensor | None = None, up_column: int = 0) -> None:
    """Bitsandbytes' arithmetic, bit for bit: no product is fused with a sum.

    A weight is code[4 bits] times its block's scale, for blocks of 64; with double quantization the scale is
    code2[8 bits] times the scale of 256 blocks, plus an offset. Columns must be a multiple of 64.
    """
    state = weight.quant_state
    rows, columns = out.shape
    block = next(size for size in (2048, 1024, 512, 256, 128, 64) if columns % size == 0)
    nested = (state.state2.code, state.state2.absmax, state.offset) if state.nested else (state.absmax,) * 3
    rank = 0 if up is None else up.shape[1]
    _dequantize[(rows, columns // block + (rank > 0))](
        weight.data,
        state.absmax,
        *nested,
        state.code,
        out,
        out if up is None else up,
        out.stride(0),
        up_column,
        columns,
        state.nested,
        rank,
        triton.next_power_of_2(max(rank, 1)),
        block,
        enable_fp_fusion=False,
    )


def _warps(block: int) -> int:
    return 8 if block >= 2048 else 4
