"""Dropout by counted random numbers."""

import triton
import triton.language as tl

from medllm.models.fused.reference import Dropout, Tensor


@triton.jit
def growth(key, first, limit, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """By what the values of a tile, (ROWS, COLUMNS), grow: 1 / (1 - p) where they stay, else 0, with p = limit / 65,536.

    Philox's key is the micro-batch's seed and the site, its counter the place: eight values share its 128 bits, so that the
    numbers cost less than reading the values.

    Args:
        key: Scalar int64.
        first: (ROWS) int32, places of the first column; counted from a multiple of 8 in the row.
        limit: Scalar, a dropout's.
        ROWS: Of the tile.
        COLUMNS: Of the tile; a multiple of 8.
    """
    group = (first // 8)[:, None] + tl.arange(0, COLUMNS // 8)[None, :]
    a, b, c, d = tl.randint4x(key, group)
    words = tl.join(tl.join(a, c), tl.join(b, d)).to(tl.uint32, bitcast=True)
    halves = tl.reshape(tl.join(words & 0xFFFF, words >> 16), (ROWS, COLUMNS))
    return tl.where(halves >= limit, 65536.0 / (65536 - limit), 0.0)


@triton.jit
def _dropout(
    x,
    out,
    seed,
    x_stride,
    out_stride,
    site,
    limit,
    D: tl.constexpr,
    ADDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    rows = tl.program_id(0) + tl.arange(0, 1)
    row = rows.to(tl.int64)[:, None]
    start = tl.program_id(1) * BLOCK
    columns = start + tl.arange(0, BLOCK)[None, :]
    inside = columns < D
    value = tl.load(x + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    kept = value * growth(tl.load(seed) + site, rows * D + start, limit, 1, BLOCK)
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
    _dropout[grid](x, out, drop.seed, x.stride(0), out.stride(0), drop.site, drop.limit, features, adds, block)
