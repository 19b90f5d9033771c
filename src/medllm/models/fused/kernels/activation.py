"""The MLP's activation, and what its backward pass sums for the adapters around it."""

import torch
import triton
import triton.language as tl

from medllm.models.fused.kernels.dropping import growth
from medllm.models.fused.reference import MOST_SHARES, Dropout, Tensor, product32

# Tokens and columns that a program of the activation's backward pass works on at a time, for 16-bit numbers and few ranks; its
# warps; how many tiles it reads ahead. 461 us for 8,064 tokens of the 8B shape on an H100, 482 with four warps, 527 to 558 with
# two stages, 772 with 64 x 128.
TOKENS, COLUMNS, WARPS, STAGES = 32, 64, 8, 3
# Tokens that make a program of their own worth while.
SHARE = 1024
# With dropout, tokens and columns (for 16-bit numbers) that a program of the forward pass works on at a time, programs that share
# a token's columns, and the adapter's weights that one holds. 293 us for 8,064 tokens of the 8B shape on an H100.
DOWN_TOKENS, DOWN_COLUMNS, DOWN_SHARES, DOWN_WEIGHTS = 16, 128, 4, 8192
# Sums that such a program holds in registers, and ranks of three adapters with which that goes well.
SUMS, RANKS = 24576, 192
# Bytes of shared memory that the smaller cards have for a program.
SHARED = 96 * 1024


@triton.jit
def _swiglu(gate_up, out, gate_up_stride, out_stride, F: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < F
    gate = tl.load(gate_up + row * gate_up_stride + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * gate_up_stride + F + columns, mask=inside, other=0.0).to(tl.float32)
    hidden = gate * tl.sigmoid(gate) * up
    tl.store(out + row * out_stride + columns, hidden.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu_down(
    gate_up,
    out,
    down,
    low,
    seed,
    gate_up_stride,
    out_stride,
    tokens,
    share,
    site,
    limit,
    F: tl.constexpr,
    RANK: tl.constexpr,
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    rows = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    row = rows.to(tl.int64)[:, None]
    rank = tl.arange(0, WIDTH)[None, :]
    total = tl.zeros((TOKENS, WIDTH), tl.float32)
    element = out.dtype.element_ty
    key = tl.load(seed) + site
    first = tl.program_id(1) * share
    for start in range(first, min(first + share, F), COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        column = columns[None, :]
        inside = (rows < tokens)[:, None] & (column < F)
        gate = tl.load(gate_up + row * gate_up_stride + column, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(gate_up + row * gate_up_stride + F + column, mask=inside, other=0.0).to(tl.float32)
        hidden = (gate * tl.sigmoid(gate) * up).to(element)
        tl.store(out + row * out_stride + column, hidden, mask=inside)
        grown = hidden.to(tl.float32) * growth(key, rows * F + start, limit, TOKENS, COLUMNS)
        weight = tl.load(down + rank * F + columns[:, None], mask=(rank < RANK) & (columns < F)[:, None], other=0.0)
        total = tl.dot(grown.to(element), weight, total, input_precision="ieee")
    place = low + (tl.program_id(1).to(tl.int64) * tokens + row) * RANK + rank
    tl.store(place, total, mask=(rows < tokens)[:, None] & (rank < RANK))


def swiglu(gate_up: Tensor, out: Tensor, down: Tensor, drop: Dropout) -> Tensor:
    """One program per token and block of columns.

    With dropout, one per block of tokens and share of the columns, whose sums are added in the order of the columns: what is
    dropped is never written. Without it the product by itself is faster.
    """
    tokens, features = out.shape
    rank = len(down)
    if not (rank and drop.p):
        block = min(2048, triton.next_power_of_2(features))
        grid = (tokens, triton.cdiv(features, block))
        _swiglu[grid](gate_up, out, gate_up.stride(0), out.stride(0), features, block)
        return out @ down.T
    width = _padded(rank)
    columns = max(min(2 * DOWN_COLUMNS // out.element_size(), DOWN_WEIGHTS // width), 16)
    share = triton.cdiv(triton.cdiv(features, DOWN_SHARES), columns) * columns
    low = torch.empty((triton.cdiv(features, share), tokens, rank), dtype=torch.float32, device=out.device)
    _swiglu_down[(triton.cdiv(tokens, DOWN_TOKENS), len(low))](
        gate_up,
        out,
        down,
        low,
        drop.seed,
        gate_up.stride(0),
        out.stride(0),
        tokens,
        share,
        drop.site,
        drop.limit,
        features,
        rank,
        width,
        DOWN_TOKENS,
        columns,
        num_warps=4,
    )
    return low.sum(0).to(out.dtype)


@triton.jit
def _plus_product(total, low, stride, rows, tokens, value, RANK: tl.constexpr, WIDTH: tl.constexpr):
    # total + low^T value, (WIDTH, COLUMNS), for some rows.
    rank = tl.arange(0, WIDTH)[:, None]
    place = low + rows.to(tl.int64)[None, :] * stride + rank
    factor = tl.load(place, mask=(rows < tokens)[None, :] & (rank < RANK), other=0.0)
    return tl.dot(factor, value, total, input_precision="ieee")


@triton.jit
def _product(low, stride, rows, tokens, down, columns, F: tl.constexpr, RANK: tl.constexpr, WIDTH: tl.constexpr):
    # low down, (TOKENS, COLUMNS).
    rank = tl.arange(0, WIDTH)
    inside = (rows < tokens)[:, None] & (rank < RANK)[None, :]
    left = tl.load(low + rows.to(tl.int64)[:, None] * stride + rank[None, :], mask=inside, other=0.0)
    inside = (rank < RANK)[:, None] & (columns < F)[None, :]
    right = tl.load(down + rank[:, None] * F + columns[None, :], mask=inside, other=0.0)
    return tl.dot(left, right, input_precision="ieee")


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
    down,
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
    limit,
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
        if DROPS:
            factor = growth(tl.load(seed) + site, rows * F + tl.program_id(0) * COLUMNS, limit, TOKENS, COLUMNS)
            if RANK:
                g += factor * _product(low_grad, low_grad_stride, rows, tokens, down, columns, F, RANK, WIDTH)
        s = tl.sigmoid(gate)
        activated = gate * s
        d_gate = (g * up * (s + activated * (1.0 - s))).to(element)
        d_up = (g * activated).to(element)
        tl.store(out + row * out_stride + column, d_gate, mask=inside)
        tl.store(out + row * out_stride + F + column, d_up, mask=inside)
        if RANK:
            hidden = (activated * up).to(element)
            if DROPS:
                hidden = (hidden.to(tl.float32) * factor).to(element)
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
    grad: Tensor,
    gate_up: Tensor,
    out: Tensor,
    low_grad: Tensor,
    low_gate: Tensor,
    low_up: Tensor,
    down: Tensor,
    drop: Dropout,
) -> Tensor:
    """One program per block of columns and share of the tokens, whose sums are added in the order of the tokens.

    Each program reads a place before it writes it.
    """
    tokens, features = grad.shape
    lows = (low_grad, low_gate, low_up)
    if sum(low.shape[1] for low in lows) > RANKS:  # the sums of gate and up are products of their own
        none = low_grad[:, :0]
        of_hidden = swiglu_backward(grad, gate_up, out, low_grad, none, none, down, drop)
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
        down,
        sums,
        drop.seed,
        grad.stride(0),
        gate_up.stride(0),
        out.stride(0),
        *(low.stride(0) for low in lows),
        tokens,
        share,
        drop.site,
        drop.limit,
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


def _padded(rank: int) -> int:
    """What matrix units take: a power of two, 16 or more."""
    return max(int(triton.next_power_of_2(rank)), 16)
