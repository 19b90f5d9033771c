"""Dropout by counted random numbers."""

import triton
import triton.language as tl

from medllm.models.fused.reference import Dropout, Tensor


@triton.jit
def growth(key, place, p):
    """By what values grow: 1 / (1 - p) where they stay, else 0. Philox's key is the micro-batch's seed and the site, its counter
    the place."""
    return tl.where(tl.rand(key, place) >= p, 1.0 / (1.0 - p), 0.0)


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
    kept = value * growth(tl.load(seed) + site, (row * D).to(tl.int32) + columns, p)
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
