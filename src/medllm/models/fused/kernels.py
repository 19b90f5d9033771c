"""Triton kernels of the step. Formulas and shapes are those of `reference`, function by function."""

from typing import Any

import torch
import triton
import triton.language as tl

from medllm.models.fused.reference import MOST_SHARES, Dropout, Tensor, product32

# Tokens and columns that a program of the activation's backward pass works on at a time, for 16-bit numbers and few ranks; its
# warps; how many tiles it reads ahead. 461 us for 8,064 tokens of the 8B shape on an H100, 482 with four warps, 527 to 558 with
# two stages, 772 with 64 x 128.
TOKENS, COLUMNS, WARPS, STAGES = 32, 64, 8, 3
# Tokens that make a program of their own worth while.
SHARE = 1024
# Sums that such a program holds in registers, and ranks of three adapters with which that goes well.
SUMS, RANKS = 24576, 192
# Bytes of shared memory that the smaller cards have for a program.
SHARED = 96 * 1024


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
def _dropped(value, key, place, p):
    # Philox's key is the micro-batch's seed and the site, its counter the place.
    return tl.where(tl.rand(key, place) >= p, value / (1.0 - p), 0.0)


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
def _plus_product(total, low, stride, rows, tokens, value, RANK: tl.constexpr, WIDTH: tl.constexpr):
    # total + low^T value, (WIDTH, COLUMNS), for some rows.
    rank = tl.arange(0, WIDTH)[:, None]
    place = low + rows.to(tl.int64)[None, :] * stride + rank
    factor = tl.load(place, mask=(rows < tokens)[None, :] & (rank < RANK), other=0.0)
    return tl.dot(factor, value, total, input_precision="ieee")


@triton.jit
def _store_sums(sums, total, columns, F: tl.constexpr, RANK: tl.constexpr, WIDTH: tl.constexpr):
    rank = tl.arange(0, WIDTH)[:, None]
    tl.store(sums + rank * F + columns[None, :], total, mask=(rank < RANK) & (columns < F)[None, :])


@triton.jit
def _swiglu_backward(
    grad,
    gate_up,
    out,
    low_grad,
    low_gate,
    low_up,
    sums,
    seed,
    grad_stride,
    gate_up_stride,
    out_stride,
    low_grad_stride,
    low_gate_stride,
    low_up_stride,
    tokens,
    share,
    site,
    p,
    F: tl.constexpr,
    RANK: tl.constexpr,
    RANK_GATE: tl.constexpr,
    RANK_UP: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_GATE: tl.constexpr,
    WIDTH_UP: tl.constexpr,
    DROPS: tl.constexpr,
    TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    column = columns[None, :]
    of_hidden = tl.zeros((WIDTH, COLUMNS), tl.float32)
    of_gate = tl.zeros((WIDTH_GATE, COLUMNS), tl.float32)
    of_up = tl.zeros((WIDTH_UP, COLUMNS), tl.float32)
    element = out.dtype.element_ty
    first = tl.program_id(1) * share
    for start in range(first, min(first + share, tokens), TOKENS):
        rows = start + tl.arange(0, TOKENS)
        row = rows.to(tl.int64)[:, None]
        inside = (rows < tokens)[:, None] & (column < F)
        gate = tl.load(gate_up + row * gate_up_stride + column, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(gate_up + row * gate_up_stride + F + column, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(grad + row * grad_stride + column, mask=inside, other=0.0).to(tl.float32)
        s = tl.sigmoid(gate)
        activated = gate * s
        d_gate = (g * up * (s + activated * (1.0 - s))).to(element)
        d_up = (g * activated).to(element)
        tl.store(out + row * out_stride + column, d_gate, mask=inside)
        tl.store(out + row * out_stride + F + column, d_up, mask=inside)
        if RANK:
            hidden = (activated * up).to(element)
            if DROPS:
                place = (row * F).to(tl.int32) + column
                hidden = _dropped(hidden.to(tl.float32), tl.load(seed) + site, place, p).to(element)
            of_hidden = _plus_product(of_hidden, low_grad, low_grad_stride, rows, tokens, hidden, RANK, WIDTH)
        if RANK_GATE:
            of_gate = _plus_product(of_gate, low_gate, low_gate_stride, rows, tokens, d_gate, RANK_GATE, WIDTH_GATE)
        if RANK_UP:
            of_up = _plus_product(of_up, low_up, low_up_stride, rows, tokens, d_up, RANK_UP, WIDTH_UP)
    sums += tl.program_id(1).to(tl.int64) * (RANK + RANK_GATE + RANK_UP) * F
    if RANK:
        _store_sums(sums, of_hidden, columns, F, RANK, WIDTH)
    if RANK_GATE:
        _store_sums(sums + RANK * F, of_gate, columns, F, RANK_GATE, WIDTH_GATE)
    if RANK_UP:
        _store_sums(sums + (RANK + RANK_GATE) * F, of_up, columns, F, RANK_UP, WIDTH_UP)


def swiglu_backward(
    grad: Tensor, gate_up: Tensor, out: Tensor, low_grad: Tensor, low_gate: Tensor, low_up: Tensor, drop: Dropout
) -> Tensor:
    """One program per block of columns and share of the tokens, whose sums are added in the order of the tokens.

    Each program reads a place before it writes it.
    """
    tokens, features = grad.shape
    lows = (low_grad, low_gate, low_up)
    if sum(low.shape[1] for low in lows) > RANKS:  # the sums of gate and up are products of their own
        none = low_grad[:, :0]
        of_hidden = swiglu_backward(grad, gate_up, out, low_grad, none, none, drop)
        halves = zip((low_gate, low_up), out.chunk(2, dim=-1), strict=True)
        return torch.cat((of_hidden, *(product32(low.T, half) for low, half in halves)))
    ranks = [low.shape[1] for low in lows]
    widths = [_padded(rank) for rank in ranks]
    held = sum(width for width, rank in zip(widths, ranks, strict=True) if rank)
    size = grad.element_size()
    # Powers of two: half as wide for float32, narrower yet for small models and high ranks.
    columns = max(
        min(2 * COLUMNS // size, triton.next_power_of_2(features), 1 << (SUMS // max(held, 1)).bit_length() - 1), 16
    )
    blocks, shares = triton.cdiv(features, columns), min(triton.cdiv(tokens, SHARE), MOST_SHARES)
    share = triton.cdiv(triton.cdiv(tokens, shares), TOKENS) * TOKENS
    sums = torch.empty((triton.cdiv(tokens, share), sum(ranks), features), dtype=torch.float32, device=grad.device)
    _swiglu_backward[(blocks, len(sums))](
        grad,
        gate_up,
        out,
        *lows,
        sums,
        drop.seed,
        grad.stride(0),
        gate_up.stride(0),
        out.stride(0),
        *(low.stride(0) for low in lows),
        tokens,
        share,
        drop.site,
        drop.p,
        features,
        *ranks,
        *widths,
        drop.p > 0,
        TOKENS,
        columns,
        num_warps=WARPS,
        num_stages=max(min(STAGES, SHARED // (TOKENS * (3 * columns + held) * size)), 1),
    )
    return sums.sum(0)


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
    value = tl.load(x + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    kept = _dropped(value, tl.load(seed) + site, (row * D).to(tl.int32) + columns, p)
    if ADDS:
        kept += tl.load(out + row * out_stride + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + columns, kept.to(out.dtype.element_ty), mask=inside)


def dropout(x: Tensor, drop: Dropout, out: Tensor) -> None:
    """Random numbers are counted, not drawn: the backward pass has them again without a mask being kept."""
    _launch_dropout(x, drop, out, adds=False)


def add_dropped_(x: Tensor, grad: Tensor, drop: Dropout) -> None:
    """See `dropout`."""
    _launch_dropout(grad, drop, x, adds=True)


def _launch_dropout(x: Tensor, drop: Dropout, out: Tensor, *, adds: bool) -> None:
    tokens, features = x.shape
    block = min(2048, triton.next_power_of_2(features))
    grid = (tokens, triton.cdiv(features, block))
    _dropout[grid](x, out, drop.seed, x.stride(0), out.stride(0), drop.site, drop.p, features, adds, block)


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


def _padded(rank: int) -> int:
    """What matrix units take: a power of two, 16 or more."""
    return max(int(triton.next_power_of_2(rank)), 16)


def _warps(block: int) -> int:
    return 8 if block >= 2048 else 4
