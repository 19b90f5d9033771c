"""Rotary positions."""

import triton
import triton.language as tl

from medllm.models.fused.reference import Tensor


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
