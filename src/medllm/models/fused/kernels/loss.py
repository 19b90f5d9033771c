"""Cross-entropy over the vocabulary, in the logits' place."""

import torch
import triton
import triton.language as tl

from medllm.models.fused.reference import Tensor


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
