"""One micro-batch, forward and backward, of a Llama-style model with LoRA.

Shapes: T tokens of all conversations end to end, D features, F of them in the MLP, H query heads, G key and value heads,
E features a head, N outputs of a projection and R columns of its border, K supervised tokens, V vocabulary.

What is kept between forward and backward is what no cheap operation can make again: the inputs of both blocks, queries, keys and
values, attention's output, gate and up. Norms and the MLP's activation are made again. The head runs on supervised tokens alone.
"""

from dataclasses import dataclass
from enum import Enum
from types import ModuleType
from typing import Any, NamedTuple

import torch

from medllm.models.fused import reference
from medllm.models.fused.attention import Segments, attend, attend_backward
from medllm.models.fused.host import HostInputs
from medllm.models.fused.projection import Adapters, Projection, base_of, product
from medllm.models.fused.reference import Tensor

# Logits of about this many bytes are made at a time.
HEAD_BYTES = 2**28
# Tokens that the MLP is computed for at a time where layers are recomputed.
MLP_TOKENS = 2048


class Keep(Enum):
    """What stays of a layer between forward and backward; the rest is computed again."""

    everything = "nothing is recomputed"
    all_but_gate_up = "gate and up are recomputed"
    inputs = "layers are recomputed"
    inputs_on_host = "layers are recomputed from inputs in host memory"

    @property
    def recomputes_layers(self) -> bool:
        """Whether a layer's input is all that stays of it."""
        return self in (Keep.inputs, Keep.inputs_on_host)


class SavedAttention(NamedTuple):
    """Of attention's block, for its backward pass.

    Attributes:
        x: (T, D), its input.
        rstd: (T), of its norm.
        low: (T, n r), what the adapters of queries, keys and values got down to; None without adapters. So are the others.
        qkv: (T, (H + 2 G) E); queries and keys rotated, unless they are normed.
        q: (T, H, E), as attention saw it.
        k: (T, G, E), likewise.
        head_rstds: (T H) and (T G), where queries and keys are normed.
        attended: (T, H, E).
        attention: Attention's own.
        low_out: As `low`.
    """

    x: Tensor
    rstd: Tensor
    low: Tensor | None
    qkv: Tensor
    q: Tensor
    k: Tensor
    head_rstds: tuple[Tensor, Tensor] | None
    attended: Tensor
    attention: Any
    low_out: Tensor | None


class SavedMlp(NamedTuple):
    """Of the MLP's block, for its backward pass.

    Attributes:
        x: (T, D), its input.
        rstd: (T), of its norm.
        low_gate_up: (T, n r), what the adapters got down to; None without them. So is the other.
        gate_up: (T, 2 F + R), the border empty; None if it is made again.
        low_down: (T, r).
    """

    x: Tensor
    rstd: Tensor
    low_gate_up: Tensor | None
    gate_up: Tensor | None
    low_down: Tensor | None


@dataclass
class Layer:
    """A decoder layer's weights."""

    norm: Any
    norm2: Any
    qkv: Projection
    out: Projection
    gate_up: Projection
    down: Projection
    head_norms: tuple[Any, Any] | None

    @classmethod
    def of(cls, block: Any, index: int) -> "Layer":
        """Of transformers' decoder layer."""
        attention, mlp, site = block.self_attn, block.mlp, 4 * index
        return cls(
            norm=block.input_layernorm,
            norm2=block.post_attention_layernorm,
            qkv=Projection.of([attention.q_proj, attention.k_proj, attention.v_proj], site),
            out=Projection.of([attention.o_proj], site + 1),
            gate_up=Projection.of([mlp.gate_proj, mlp.up_proj], site + 2),
            down=Projection.of([mlp.down_proj], site + 3),
            head_norms=(attention.q_norm, attention.k_norm) if hasattr(attention, "q_norm") else None,
        )

    @property
    def projections(self) -> dict[str, Projection]:
        """By name."""
        return {"qkv": self.qkv, "out": self.out, "gate_up": self.gate_up, "down": self.down}


class FusedStep:
    """Computes loss and gradients of micro-batches.

    Args:
        model: peft's, of a kind that `obstacle` does not refuse.
        keep: What stays between forward and backward.
        keep_weights: Hold 4-bit weights dequantized too; otherwise they are dequantized for every use.
        max_tokens: No micro-batch is longer.
        max_length: No conversation is longer.

    Attributes:
        adapters: What is trained, and its gradients.
        seed: Of the micro-batch's dropout (int64 scalar on the device).
    """

    def __init__(self, model: Any, *, keep: Keep, keep_weights: bool, max_tokens: int, max_length: int):
        base = model.get_base_model()
        self.keep, self.max_tokens, self.max_length = keep, max_tokens, max_length
        self.embedding, self.norm, self.head = base.model.embed_tokens, base.model.norm, base_of(base.lm_head)
        self.layers = [Layer.of(block, index) for index, block in enumerate(base.model.layers)]
        self.dtype, self.device = self.norm.weight.dtype, self.norm.weight.device
        self.ops = operations(self.device)
        self.num_heads, self.num_groups = base.config.num_attention_heads, base.config.num_key_value_heads
        self.head_size = self.layers[0].out.features // self.num_heads
        positions = torch.arange(max_length, device=self.device)[None]
        cos, sin = base.model.rotary_emb(torch.zeros((), device=self.device), positions)
        half = self.head_size // 2
        self.cos, self.sin = cos[0, :, :half].float().contiguous(), sin[0, :, :half].float().contiguous()
        self.projections = [p for layer in self.layers for p in layer.projections.values()]
        self.adapters = Adapters(self.projections, self.dtype)
        self.seed = torch.zeros((), dtype=torch.int64, device=self.device)
        self._buffers: dict[str, Tensor] = {}
        self._scratch: dict[str, Tensor] = {}
        self._holder: dict[str, Projection] = {}
        self._host: HostInputs | None = None
        if keep is Keep.inputs_on_host:
            shape = (len(self.layers), max_tokens, self.layers[0].qkv.features)
            self._host = HostInputs(shape, self.dtype, self.device)
        for layer in self.layers:
            for name, projection in layer.projections.items():
                if projection.quantized and not keep_weights:
                    if name not in self._scratch:
                        self._scratch[name] = self._zeros(*projection.shape)
                else:
                    projection.move_in(self._zeros(*projection.shape), self.ops.dequantize)

    def release(self) -> None:
        """Gives the model's layers weights of their own again, where they had moved."""
        for projection in self.projections:
            projection.move_out()
        self._buffers.clear()
        self._scratch.clear()
        self._host = None

    @torch.no_grad()
    def backward(self, batch: dict[str, Tensor], scale: Tensor) -> Tensor:
        """Adds the gradients of scale times the summed loss of a micro-batch; returns that loss (scalar, float32).

        Args:
            batch: From `medllm.data.collate.FlatCollator`, on the device.
            scale: Scalar, float32.
        """
        x, saved = self.forward(batch["input_ids"], batch["position_ids"], batch["bounds"])
        loss, grad = self.head_backward(x, batch["positions"], batch["targets"], scale)
        self.layers_backward(grad, saved, batch["position_ids"], batch["bounds"])
        return loss

    def forward(self, input_ids: Tensor, position_ids: Tensor, bounds: Tensor) -> tuple[Tensor, list[Any]]:
        """(T, D), the last layer's output, and what the backward pass needs of each layer.

        Args:
            input_ids: (T) int64.
            position_ids: (T) int64, from 0 in each conversation.
            bounds: (S + 1) int32, where conversations begin, and the end.
        """
        self.adapters.refresh()
        self._holder.clear()  # what lies there has the adapters of the step before
        for projection in self.projections:
            projection.write_adapters()
        x = self.embedding.weight[input_ids]
        kept: list[Any] = []
        for index, layer in enumerate(self.layers):
            x, saved = self._layer(layer, index, x, position_ids, bounds)
            kept.append(saved)
            del saved  # or the last layer's would stay through the head
        return x, kept

    def head_backward(self, x: Tensor, positions: Tensor, targets: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """The scaled loss, and its gradient at the last layer's output in a bordered buffer.

        Args:
            x: (T, D).
            positions: (K) int64, tokens in front of a supervised one.
            targets: (K) int64, the supervised ones.
            scale: Scalar, float32.

        Returns:
            Scalar float32, and (T, D + R).
        """
        picked = x[positions]
        normed, grad = torch.empty_like(picked), torch.empty_like(picked)
        rstd = self.ops.rms_norm(picked, self.norm.weight, self.norm.variance_epsilon, normed)
        weight = self.head.weight
        step = max(HEAD_BYTES // (len(weight) * weight.element_size()) // 128 * 128, 128)
        loss = torch.zeros((), device=x.device)
        for start in range(0, len(positions), step):
            chunk = slice(start, start + step)
            logits = normed[chunk] @ weight.T
            loss += self.ops.cross_entropy_(logits, targets[chunk], scale).sum()
            torch.mm(logits, weight, out=grad[chunk])
            del logits  # before the next are made
        self.ops.rms_norm_backward(grad, picked, self.norm.weight, rstd, None, normed, None)
        result = self.grad_buffer(len(x))
        result[:, : x.shape[1]].zero_().index_copy_(0, positions, normed)
        return loss * scale, result

    def layers_backward(self, grad: Tensor, saved: list[Any], position_ids: Tensor, bounds: Tensor) -> None:
        """Adds the gradients of all adapters.

        Args:
            grad: (T, D + R), of the last layer's output; overwritten.
            saved: From `forward`; emptied.
            position_ids: As given to `forward`.
            bounds: As given to `forward`.
        """
        tokens = len(grad)
        for index in reversed(range(len(self.layers))):
            layer, kept = self.layers[index], saved.pop()
            if self.keep.recomputes_layers:
                x = kept if self._host is None else self._host.take(index, tokens)
                x2, attention = self._attention(layer, x, position_ids, bounds)
                del x
                for part, rows in enumerate(self._parts(tokens)):
                    mlp = self._mlp(layer, x2[rows], None, part)
                    self._mlp_backward(layer, mlp, grad[rows], part)
                    del mlp
                del x2
            else:
                attention, mlp = kept
                self._mlp_backward(layer, mlp, grad)
                del mlp
            del kept
            self._attention_backward(layer, attention, grad, position_ids, bounds, is_first=index == 0)
            del attention

    def _parts(self, tokens: int) -> list[slice]:
        """Rows that the MLP is computed for at a time where layers are recomputed: its inner part is the widest of all."""
        return [slice(start, min(start + MLP_TOKENS, tokens)) for start in range(0, tokens, MLP_TOKENS)]

    # One layer

    def _layer(self, layer: Layer, index: int, x: Tensor, position_ids: Tensor, bounds: Tensor) -> tuple[Tensor, Any]:
        """(T, D), the layer's output, and what stays of it."""
        x2, attention = self._attention(layer, x, position_ids, bounds)
        x3 = torch.empty_like(x2)
        if not self.keep.recomputes_layers:
            mlp = self._mlp(layer, x2, x3)
            return x3, (attention, mlp._replace(gate_up=None) if self.keep is Keep.all_but_gate_up else mlp)
        for part, rows in enumerate(self._parts(len(x))):
            self._mlp(layer, x2[rows], x3[rows], part)
        if self._host is None:
            return x3, x
        self._host.put(index, x)
        return x3, None

    def _attention(
        self, layer: Layer, x: Tensor, position_ids: Tensor, bounds: Tensor
    ) -> tuple[Tensor, SavedAttention]:
        """(T, D), the output of attention's block, and what its backward pass needs."""
        tokens, features = x.shape
        normed = self._normed(tokens)
        rstd = self._norm(layer.norm, x, normed[:, :features])
        low = self._low(layer.qkv, normed[:, :features])
        qkv = product(layer.qkv, self._matrix(layer, "qkv"), normed, low, x.new_empty(tokens, layer.qkv.width))
        q, k, head_rstds = self._queries_and_keys(layer, qkv, position_ids)
        attended, attention = attend(q, k, self._split(qkv)[2], Segments(bounds, self.max_length))

        flat = attended.reshape(tokens, -1)
        low_out = self._low(layer.out, flat)
        matrix = self._matrix(layer, "out")
        x2 = torch.addmm(x, flat, matrix[: layer.out.width, : layer.out.features].T)
        if low_out is not None:
            x2.addmm_(low_out, layer.out.ups[0].T)
        if layer.out.bias is not None:
            x2 += layer.out.bias
        return x2, SavedAttention(x, rstd, low, qkv, q, k, head_rstds, attended, attention, low_out)

    def _mlp(self, layer: Layer, x: Tensor, out: Tensor | None, part: int = 0) -> SavedMlp:
        """What the backward pass of the MLP's block needs.

        Args:
            layer: Its layer.
            x: (T, D).
            out: (T, D), written with the block's output; None if only the backward pass is wanted.
            part: Which of the parts that the tokens are computed in.
        """
        tokens, features = x.shape
        normed, hidden = self._normed(tokens), self._hidden(tokens)
        rstd = self._norm(layer.norm2, x, normed[:, :features])
        low_gate_up = self._low(layer.gate_up, normed[:, :features], part)
        gate_up = self._gate_up(layer, normed, low_gate_up)
        activated = hidden[:, : layer.down.features]
        self.ops.swiglu(gate_up[:, : layer.gate_up.width], activated)
        low_down = self._low(layer.down, activated, part)
        if out is not None:
            product(layer.down, self._matrix(layer, "down"), hidden, low_down, out, x)
        return SavedMlp(x, rstd, low_gate_up, gate_up, low_down)

    def _mlp_backward(self, layer: Layer, saved: SavedMlp, grad: Tensor, part: int = 0) -> None:
        """Turns the gradient (T, D + R) at the output of the MLP's block into that at its input."""
        x, gate_up = saved.x, saved.gate_up
        tokens, features = x.shape
        normed, hidden = self._normed(tokens), self._hidden(tokens)[:, : layer.down.features]
        if gate_up is None:
            self._norm(layer.norm2, x, normed[:, :features])
            gate_up = self._gate_up(layer, normed, saved.low_gate_up)
        low, d_hidden = self._input_grad(layer, "down", grad, part)
        values = gate_up[:, : layer.gate_up.width]
        self.ops.swiglu_backward(d_hidden, values, values, hidden)
        del d_hidden
        self._adapter_grads(layer.down, low, hidden, grad, saved.low_down, part)

        low, d_normed = self._input_grad(layer, "gate_up", gate_up, part)
        around = grad[:, :features]
        self._norm_backward(layer.norm2, d_normed, x, saved.rstd, around, normed[:, :features])
        self._adapter_grads(layer.gate_up, low, normed[:, :features], gate_up, saved.low_gate_up, part)

    def _attention_backward(
        self, layer: Layer, kept: SavedAttention, grad: Tensor, position_ids: Tensor, bounds: Tensor, *, is_first: bool
    ) -> None:
        """Turns the gradient (T, D + R) at the output of attention's block into that at its input.

        Nothing below the first layer is trained, so there it ends.
        """
        x = kept.x
        tokens, features = x.shape
        low, d_attended = self._input_grad(layer, "out", grad)
        self._adapter_grads(layer.out, low, kept.attended.reshape(tokens, -1), grad, kept.low_out)
        d_qkv = self._qkv_grad(layer, kept, d_attended, position_ids, bounds)
        normed = self._normed(tokens)[:, :features]
        if is_first:
            low = self._low_grad(layer, "qkv", d_qkv)
            self._norm(layer.norm, x, normed)
        else:
            low, d_normed = self._input_grad(layer, "qkv", d_qkv)
            self._norm_backward(layer.norm, d_normed, x, kept.rstd, grad[:, :features], normed)
        self._adapter_grads(layer.qkv, low, normed, d_qkv, kept.low)

    def _gate_up(self, layer: Layer, normed: Tensor, low: Tensor | None) -> Tensor:
        """(T, 2 F + R): the backward pass writes the gradient over it and the adapters' part into the border."""
        projection = layer.gate_up
        rows = normed.new_empty(len(normed), projection.width + projection.border)
        rows[:, projection.width :].zero_()
        product(projection, self._matrix(layer, "gate_up"), normed, low, rows[:, : projection.width])
        return rows

    def _queries_and_keys(
        self, layer: Layer, qkv: Tensor, position_ids: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """(T, H, E) and (T, G, E), normed where the family does so, and rotated; where it does not, in place."""
        q, k, _ = self._split(qkv)
        if layer.head_norms is None:
            both = qkv.view(len(qkv), -1, self.head_size)[:, : self.num_heads + self.num_groups]
            self.ops.rotate(both, self.cos, self.sin, position_ids, both)
            return q, k, None
        normed, rstds = [], []
        for raw, norm in zip((q, k), layer.head_norms, strict=True):
            out = torch.empty(raw.shape, dtype=raw.dtype, device=raw.device)
            rstds.append(self._norm(norm, raw.reshape(-1, self.head_size), out.view(-1, self.head_size)))
            self.ops.rotate(out, self.cos, self.sin, position_ids, out)
            normed.append(out)
        return normed[0], normed[1], (rstds[0], rstds[1])

    def _qkv_grad(
        self, layer: Layer, kept: SavedAttention, grad: Tensor, position_ids: Tensor, bounds: Tensor
    ) -> Tensor:
        """(T, (H + 2 G) E + R) from the gradient of attention's output, (T, H E)."""
        tokens, width = kept.qkv.shape
        result = self._buffer("grad_qkv", tokens, width + layer.qkv.border)
        q, k, v = self._split(result[:, :width])
        segments = Segments(bounds, self.max_length)
        values = self._split(kept.qkv)[2]
        shaped = grad.view(kept.attended.shape)
        dq, dk, dv = attend_backward(shaped, kept.q, kept.k, values, kept.attended, kept.attention, segments)
        v.copy_(dv)
        if kept.head_rstds is None or layer.head_norms is None:
            for source, target in ((dq, q), (dk, k)):
                self.ops.rotate(source, self.cos, self.sin, position_ids, target, inverse=True)
            return result
        raw_parts = self._split(kept.qkv)[:2]
        parts = zip((dq, dk), (q, k), raw_parts, layer.head_norms, kept.head_rstds, strict=True)
        for source, target, raw, norm, rstd in parts:
            turned = torch.empty(source.shape, dtype=source.dtype, device=source.device)
            self.ops.rotate(source, self.cos, self.sin, position_ids, turned, inverse=True)
            turned = turned.view(-1, self.head_size)
            raw = raw.reshape(-1, self.head_size)
            self.ops.rms_norm_backward(turned, raw, norm.weight, rstd, None, turned, None)
            target.copy_(turned.view(target.shape))
        return result

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views of queries (T, H, E), keys and values (T, G, E)."""
        heads = qkv.unflatten(1, (-1, self.head_size))
        q, k, v = heads.split((self.num_heads, self.num_groups, self.num_groups), dim=1)
        return q, k, v

    # One projection

    def _matrix(self, layer: Layer, name: str) -> Tensor:
        """A projection's bordered matrix, valid until the next one of this name is asked for."""
        projection = layer.projections[name]
        if projection.matrix is not None:
            return projection.matrix
        matrix = self._scratch[name]
        if self._holder.get(name) is not projection:  # else it still lies there from the last use
            projection.write(matrix, self.ops.dequantize)
            self._holder[name] = projection
        return matrix

    def _low(self, projection: Projection, x: Tensor, part: int = 0) -> Tensor | None:
        """What the adapters of a projection get down to, (T, n r): dropout(x) A^T."""
        return self._dropped(projection, x, part) @ projection.down.T if projection.rank else None

    def _site(self, projection: Projection, part: int) -> int:
        """Parts of a micro-batch that are computed one by one drop their own."""
        return projection.site + part * len(self.projections)

    def _dropped(self, projection: Projection, x: Tensor, part: int) -> Tensor:
        if not projection.p:
            return x
        out = self._buffer(f"dropped {x.shape[1]}", *x.shape)
        self.ops.dropout(x, projection.p, self.seed, self._site(projection, part), out)
        return out

    def _low_grad(self, layer: Layer, name: str, grad: Tensor) -> Tensor | None:
        """The gradient of `_low`'s result: grad s B."""
        projection = layer.projections[name]
        if not projection.rank:
            return None
        columns = slice(projection.features, projection.features + projection.rank)
        return grad[:, : projection.width] @ self._matrix(layer, name)[: projection.width, columns]

    def _input_grad(self, layer: Layer, name: str, grad: Tensor, part: int = 0) -> tuple[Tensor | None, Tensor]:
        """The gradients of `_low`'s result and of a projection's input, (T, D).

        Args:
            layer: Its layer.
            name: Of the projection.
            grad: (T, N + R), of its output; the border is overwritten.
            part: As in `_mlp`.
        """
        projection = layer.projections[name]
        matrix, width, features = self._matrix(layer, name), projection.width, projection.features
        if not projection.rank:
            return None, grad[:, :width] @ matrix[:width, :features]
        low = grad[:, width : width + projection.rank]
        torch.mm(grad[:, :width], matrix[:width, features : features + projection.rank], out=low)
        if projection.p:
            result = grad[:, :width] @ matrix[:width, :features]
            site = self._site(projection, part)
            self.ops.add_dropped_(result, low @ projection.down, projection.p, self.seed, site)
            return low, result
        return low, grad[:, : width + projection.border] @ matrix[:, :features]

    def _adapter_grads(
        self,
        projection: Projection,
        low_grad: Tensor | None,
        x: Tensor,
        grad: Tensor,
        low: Tensor | None,
        part: int = 0,
    ) -> None:
        """Adds dA = low_grad^T dropout(x) and dB = s grad^T low."""
        if low_grad is None or low is None:
            return
        projection.down_grad += _product32(low_grad.T, self._dropped(projection, x, part))
        for adapted, up_grad in zip(projection.adapted, projection.up_grads, strict=True):
            rows = grad[:, adapted.rows]
            up_grad.add_(_product32(rows.T, low[:, adapted.columns]), alpha=self.adapters.scale)

    # Norms and memory

    def _norm(self, norm: Any, x: Tensor, out: Tensor) -> Tensor:
        return self.ops.rms_norm(x, norm.weight, norm.variance_epsilon, out)

    def _norm_backward(self, norm: Any, grad: Tensor, x: Tensor, rstd: Tensor, around: Tensor, normed: Tensor) -> None:
        """Adds to `around`, the gradient that goes around the norm, that which comes through it; `normed` is its output."""
        self.ops.rms_norm_backward(grad, x, norm.weight, rstd, around, around, normed)

    def _normed(self, tokens: int) -> Tensor:
        """(T, D + R), input of the wide projections."""
        layer = self.layers[0]
        return self._buffer("normed", tokens, layer.qkv.features + max(layer.qkv.border, layer.gate_up.border))

    def _hidden(self, tokens: int) -> Tensor:
        """(T, F + R), input of the MLP's last projection."""
        down = self.layers[0].down
        return self._buffer("hidden", tokens, down.features + down.border)

    def grad_buffer(self, tokens: int) -> Tensor:
        """(T, D + R): `head_backward` leaves there what `layers_backward` starts from."""
        layer = self.layers[0]
        return self._buffer("grad", tokens, layer.down.width + max(layer.down.border, layer.out.border))

    def _buffer(self, name: str, tokens: int, width: int) -> Tensor:
        """(T, width), the same memory at every call: zero or a finite number where nothing was written."""
        if name not in self._buffers:
            most = self.max_tokens
            if name == "hidden" and self.keep.recomputes_layers:
                most = min(most, MLP_TOKENS)
            self._buffers[name] = self._zeros(most, width)
        return self._buffers[name][:tokens]

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.dtype, device=self.device)


def operations(device: torch.device) -> ModuleType:
    """Kernels on a GPU, plain torch elsewhere."""
    if device.type != "cuda":
        return reference
    from medllm.models.fused import kernels

    return kernels


def _product32(a: Tensor, b: Tensor) -> Tensor:
    """A b in float32, however the factors are rounded."""
    if a.is_cuda and a.dtype != torch.float32:
        return torch.mm(a, b, out_dtype=torch.float32)
    return torch.mm(a, b).float()
