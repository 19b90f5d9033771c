"""Causal attention of packed segments, forward and backward.

Shapes: T tokens of all segments end to end, H query heads, G key and value heads (H a multiple of G), E features a head.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.nn import functional as F

Tensor = torch.Tensor


# Up to this length, scores of a segment are written out in its backward pass on a CPU: 6 MiB for three heads. In 16-bit numbers
# that takes half of the time of torch's kernel.
WRITTEN_TOKENS = 1024


@dataclass(frozen=True)
class Segments:
    """Which tokens belong together.

    Attributes:
        bounds: (S + 1) int32 on the device: where segments begin, and the end; the last of them may be empty.
        longest: No segment is longer.
    """

    bounds: Tensor
    longest: int


@lru_cache(maxsize=1)
def _shares_heads() -> bool:
    """Whether torch's FlashAttention takes fewer key heads than query heads, forward and backward. Tried once."""
    q = torch.zeros(8, 2, 64, device="cuda", dtype=torch.bfloat16)
    k = torch.zeros(8, 1, 64, device="cuda", dtype=torch.bfloat16)
    segments = Segments(torch.tensor([0, 8], dtype=torch.int32, device="cuda"), 8)
    try:
        out, kept = _flash(q, k, k, segments)
        return _flash_backward(out, q, k, k, out, kept, segments)[1].shape == k.shape
    except RuntimeError:
        return False


def uses_flash(q: Tensor) -> bool:
    """FlashAttention's kernels take 16-bit numbers on a GPU."""
    return q.is_cuda and q.dtype in (torch.bfloat16, torch.float16)


def attend(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> tuple[Tensor, Any]:
    """Attention within segments.

    Args:
        q: (T, H, E), rotated.
        k: (T, G, E), rotated.
        v: (T, G, E).
        segments: Of the T tokens.

    Returns:
        (T, H, E), and what `attend_backward` needs.
    """
    if uses_flash(q):
        return _flash(q, *_expanded(q, k, v), segments)
    if _writes_scores(q, segments):
        return _by_segment(q, k, v, segments), None
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    with torch.enable_grad():
        out = _by_segment(leaves[0], leaves[1], leaves[2], segments)
    return out.detach(), (leaves, out)


def attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, kept: Any, segments: Segments
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v.

    Args:
        grad: (T, H, E), of the output.
        q: As given to `attend`; so are k, v and segments.
        k: As q.
        v: As q.
        out: What `attend` returned.
        kept: What `attend` returned.
        segments: As given.
    """
    if not uses_flash(q):
        if kept is None:
            return _written_backward(grad, q, k, v, segments)
        leaves, result = kept
        return torch.autograd.grad(result, leaves, grad)
    dq, dk, dv = _flash_backward(grad, q, *_expanded(q, k, v), out, kept, segments)
    if dk.shape != k.shape:
        groups = (k.shape[1], q.shape[1] // k.shape[1])
        dk, dv = dk.unflatten(1, groups).sum(2), dv.unflatten(1, groups).sum(2)
    return dq, dk, dv


def _expanded(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    if q.shape[1] == k.shape[1] or _shares_heads():
        return k, v
    times = q.shape[1] // k.shape[1]
    return k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)


def _flash(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> tuple[Tensor, Any]:
    """Torch's own variable-length kernel. Private: `torch.nn.attention.varlen` has no backward to call by hand.

    A test compares it with `_by_segment`.
    """
    bounds, longest = segments.bounds, segments.longest
    out, *kept, _ = torch.ops.aten._flash_attention_forward(
        q, k, v, bounds, bounds, longest, longest, 0.0, True, False, scale=q.shape[-1] ** -0.5
    )
    return out, kept


def _flash_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, kept: Any, segments: Segments
) -> tuple[Tensor, Tensor, Tensor]:
    log_sum_exp, state, unused = kept
    bounds, longest = segments.bounds, segments.longest
    grads: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._flash_attention_backward(
        grad,
        q,
        k,
        v,
        out,
        log_sum_exp,
        bounds,
        bounds,
        longest,
        longest,
        0.0,
        True,
        state,
        unused,
        scale=q.shape[-1] ** -0.5,
    )
    return grads


def _by_segment(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    """One product of queries and keys for each segment."""
    sizes = segments.bounds.diff().tolist()
    shares = q.shape[1] != k.shape[1]
    outs = []
    for part in zip(q.split(sizes), k.split(sizes), v.split(sizes), strict=True):
        if len(part[0]):
            query, key, value = (x.transpose(0, 1)[None] for x in part)
            attended = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=shares)
            outs.append(attended[0].transpose(0, 1))
    return torch.cat(outs)


def _writes_scores(q: Tensor, segments: Segments) -> bool:
    return q.dtype is not torch.float32 and segments.longest <= WRITTEN_TOKENS


def _written_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, segments: Segments
) -> tuple[Tensor, Tensor, Tensor]:
    """As autograd through softmax(q k^T / sqrt(E) + mask) v, with scores in the inputs' type; a key head's queries at once."""
    scale, groups = q.shape[-1] ** -0.5, k.shape[1]
    shared = q.shape[1] // groups

    def by_group(x: Tensor) -> Tensor:  # (N, G R, E) to (G, R N, E)
        return x.unflatten(1, (groups, -1)).permute(1, 2, 0, 3).flatten(1, 2)

    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    start = 0
    for size in segments.bounds.diff().tolist():
        part = slice(start, start + size)
        start += size
        query, out_grad = by_group(q[part]), by_group(grad[part])
        key, value = by_group(k[part]), by_group(v[part])
        mask = torch.full((size, size), -torch.inf, dtype=q.dtype).triu_(1).repeat(shared, 1)
        p = torch.baddbmm(mask[None], query, key.mT, alpha=scale).softmax(-1)
        dv[part] = (p.mT @ out_grad).transpose(0, 1)
        d_scores = torch.ops.aten._softmax_backward_data(out_grad @ value.mT, p, -1, p.dtype).mul_(scale)
        d_query = (d_scores @ key).unflatten(1, (shared, size))
        dq[part] = d_query.permute(2, 0, 1, 3).flatten(1, 2)
        dk[part] = (d_scores.mT @ query).transpose(0, 1)
    return dq, dk, dv
