"""Attention's block of a layer, forward and backward. Shapes as in `step`."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from medllm.models.fused.attention import Segments, attend, attend_backward
from medllm.models.fused.layer import Layer
from medllm.models.fused.reference import Tensor
from medllm.models.fused.workspace import Workspace


@dataclass(frozen=True)
class Heads:
    """Of all layers.

    Attributes:
        queries: H.
        groups: G.
        size: E.
        cos: (P, E / 2) float32, by position.
        sin: As cos.
    """

    queries: int
    groups: int
    size: int
    cos: Tensor
    sin: Tensor

    @classmethod
    def of(cls, base: Any, max_length: int) -> "Heads":
        """Of transformers' model, for conversations up to a length."""
        config, device = base.config, base.model.norm.weight.device
        positions = torch.arange(max_length, device=device)[None]
        angles = base.model.rotary_emb(torch.zeros((), device=device), positions)
        half = angles[0].shape[-1] // 2
        cos, sin = (angle[0, :, :half].float().contiguous() for angle in angles)
        return cls(config.num_attention_heads, config.num_key_value_heads, 2 * half, cos, sin)

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views of queries (T, H, E), keys and values (T, G, E)."""
        parts = qkv.unflatten(1, (-1, self.size)).split((self.queries, self.groups, self.groups), dim=1)
        return parts[0], parts[1], parts[2]


class Conversations(NamedTuple):
    """Where tokens stand.

    Attributes:
        position_ids: (T) int64, from 0 in each conversation.
        segments: Which tokens belong together.
    """

    position_ids: Tensor
    segments: Segments


class SavedAttention(NamedTuple):
    """Of attention's block, for its backward pass.

    Attributes:
        x: (T, D), its input, the branch before it included.
        rstd: (T), of its norm.
        low: (T, n r), what the adapters of queries, keys and values got down to.
        qkv: (T, (H + 2 G) E); queries and keys rotated, unless they are normed.
        q: (T, H, E), as attention saw it.
        k: (T, G, E), likewise.
        head_rstds: (T H) and (T G), where queries and keys are normed.
        attended: (T, H, E).
        attention: Attention's own.
        low_out: (T, r), as `low`.
    """

    x: Tensor
    rstd: Tensor
    low: Tensor
    qkv: Tensor
    q: Tensor
    k: Tensor
    head_rstds: tuple[Tensor, Tensor] | None
    attended: Tensor
    attention: Any
    low_out: Tensor


class AttentionBlock:
    """out(attention(qkv(norm(x))))."""

    def __init__(self, layer: Layer, heads: Heads, work: Workspace):
        self.layer, self.heads, self.work = layer, heads, work

    def forward(self, x: Tensor, branch: Tensor | None, places: Conversations) -> tuple[Tensor, SavedAttention]:
        """What this block adds to its input, (T, D), and what the backward pass needs.

        Args:
            x: (T, D).
            branch: (T, D), of the MLP's block before; x is added to it. None at the first layer.
            places: Where tokens stand.
        """
        layer, work, (tokens, features) = self.layer, self.work, x.shape
        normed = self._normed(tokens)
        rstd = work.norm(layer.norm, x, normed[:, :features], branch)
        x = x if branch is None else branch
        low = work.low(layer.qkv, normed[:, :features])
        qkv = work.product(layer.qkv, normed, low, x.new_empty(tokens, layer.qkv.width))
        q, k, head_rstds = self._queries_and_keys(qkv, places.position_ids)
        attended, attention = attend(q, k, self.heads.split(qkv)[2], places.segments)

        flat = attended.reshape(tokens, -1)
        low_out = work.low(layer.out, flat)
        # Attention's output has no border, so the adapter's part is added by itself.
        result = flat @ work.matrix(layer.out)[: layer.out.width, : layer.out.features].T
        if layer.out.rank:
            result.addmm_(low_out, layer.out.ups[0].T)
        if layer.out.bias is not None:
            result += layer.out.bias
        return result, SavedAttention(x, rstd, low, qkv, q, k, head_rstds, attended, attention, low_out)

    def backward(self, saved: SavedAttention, grad: Tensor, places: Conversations, *, is_first: bool) -> None:
        """Turns the gradient (T, D + R) at the block's output into that at its input.

        Nothing below the first layer is trained, so there it ends.
        """
        layer, work, x = self.layer, self.work, saved.x
        tokens, features = x.shape
        low, d_attended = work.input_grad(layer.out, grad)
        work.add_down_grads(layer.out, low, saved.attended.reshape(tokens, -1))
        work.add_up_grads(layer.out, grad, saved.low_out)
        d_qkv = self._qkv_grad(saved, d_attended, places)
        normed = self._normed(tokens)[:, :features]
        if is_first:
            low = work.low_grad(layer.qkv, d_qkv)
            work.norm(layer.norm, x, normed)
        else:
            low, d_normed = work.input_grad(layer.qkv, d_qkv)
            work.norm_backward(layer.norm, d_normed, x, saved.rstd, grad[:, :features], normed)
        work.add_down_grads(layer.qkv, low, normed)
        work.add_up_grads(layer.qkv, d_qkv, saved.low)

    def _normed(self, tokens: int) -> Tensor:
        """(T, D + R), input of the wide projections of both blocks."""
        return self.work.buffer("normed", tokens, self.layer.normed_width)

    def _queries_and_keys(
        self, qkv: Tensor, position_ids: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """(T, H, E) and (T, G, E), normed where the family does so, and rotated; where it does not, in place."""
        heads, work = self.heads, self.work
        q, k, _ = heads.split(qkv)
        if self.layer.head_norms is None:
            both = qkv.unflatten(1, (-1, heads.size))[:, : heads.queries + heads.groups]
            work.ops.rotate(both, heads.cos, heads.sin, position_ids, both)
            return q, k, None
        normed, rstds = [], []
        for raw, norm in zip((q, k), self.layer.head_norms, strict=True):
            out = torch.empty(raw.shape, dtype=raw.dtype, device=raw.device)
            rstds.append(work.norm(norm, raw.reshape(-1, heads.size), out.view(-1, heads.size)))
            work.ops.rotate(out, heads.cos, heads.sin, position_ids, out)
            normed.append(out)
        return normed[0], normed[1], (rstds[0], rstds[1])

    def _qkv_grad(self, saved: SavedAttention, grad: Tensor, places: Conversations) -> Tensor:
        """(T, (H + 2 G) E + R) from the gradient of attention's output, (T, H E)."""
        heads, work, (tokens, width) = self.heads, self.work, saved.qkv.shape
        result = work.buffer("grad_qkv", tokens, width + self.layer.qkv.border)
        q, k, v = heads.split(result[:, :width])
        raw_q, raw_k, values = heads.split(saved.qkv)
        shaped = grad.view(saved.attended.shape)
        dq, dk, dv = attend_backward(shaped, saved.q, saved.k, values, saved.attended, saved.attention, places.segments)
        v.copy_(dv)
        if saved.head_rstds is None or self.layer.head_norms is None:
            for source, target in ((dq, q), (dk, k)):
                work.ops.rotate(source, heads.cos, heads.sin, places.position_ids, target, inverse=True)
            return result
        parts = zip((dq, dk), (q, k), (raw_q, raw_k), self.layer.head_norms, saved.head_rstds, strict=True)
        for source, target, raw, norm, rstd in parts:
            turned = torch.empty(source.shape, dtype=source.dtype, device=source.device)
            work.ops.rotate(source, heads.cos, heads.sin, places.position_ids, turned, inverse=True)
            turned = turned.view(-1, heads.size)
            work.ops.rms_norm_backward(turned, raw.reshape(-1, heads.size), norm.weight, rstd, None, turned, None)
            target.copy_(turned.view(target.shape))
        return result
