"""Weights of bitsandbytes in 4 bit, dequantized into a bordered matrix."""

from typing import Any

import triton
import triton.language as tl

from medllm.models.fused.reference import Tensor


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
