"""One micro-batch, forward and backward, of a Llama-style model with LoRA.

Shapes: T tokens of all conversations end to end, D features, F of them in the MLP, H query heads, G key and value heads,
E features a head, N outputs of a projection and R columns of its border, K supervised tokens, V vocabulary.

What is kept between forward and backward is what no cheap operation can make again: the inputs of both blocks, queries, keys and
values, attention's output, gate and up. Norms and the MLP's activation are made again. The head runs on supervised tokens alone.
"""

from typing import Any

import torch

from medllm.models.fused.attention import Segments
from medllm.models.fused.attention_block import AttentionBlock, Conversations, Heads
from medllm.models.fused.host import HostInputs
from medllm.models.fused.layer import Keep, Layer
from medllm.models.fused.mlp_block import MlpBlock
from medllm.models.fused.projection import base_of
from medllm.models.fused.reference import Tensor
from medllm.models.fused.workspace import Workspace

# Logits of about this many bytes are made at a time.
HEAD_BYTES = 2**28
# Tokens that the MLP is computed for at a time where layers are recomputed: its inner part is the widest of all.
MLP_TOKENS = 2048


class FusedStep:
    """Computes loss and gradients of micro-batches.

    Args:
        model: peft's, of a kind that `obstacle` does not refuse.
        keep: What stays between forward and backward.
        kept_layers: Layers whose 4-bit weights are held dequantized too; others are dequantized when they are used.
        max_tokens: No micro-batch is longer.
        max_length: No conversation is longer.

    Attributes:
        work: Memory, adapters and the seed of dropout.
        adapters: What is trained, and its gradients.
    """

    def __init__(self, model: Any, *, keep: Keep, kept_layers: int, max_tokens: int, max_length: int):
        base = model.get_base_model()
        self.keep, self.max_length = keep, max_length
        self.embedding, self.norm, self.head = base.model.embed_tokens, base.model.norm, base_of(base.lm_head)
        layers = [Layer.of(block, index) for index, block in enumerate(base.model.layers)]
        weight = self.norm.weight
        self.work = Workspace(
            [layer.projections for layer in layers],
            weight.dtype,
            weight.device,
            max_tokens=max_tokens,
            kept_layers=kept_layers,
        )
        self.adapters = self.work.adapters
        self._part = min(MLP_TOKENS, max_tokens) if keep.recomputes_layers else max_tokens
        self._grad_width = layers[0].grad_width
        heads = Heads.of(base, max_length)
        self._blocks = [(AttentionBlock(la, heads, self.work), MlpBlock(la, self._part, self.work)) for la in layers]
        self._host: HostInputs | None = None
        if keep is Keep.inputs_on_host:
            self._host = HostInputs((len(layers), max_tokens, len(weight)), weight.dtype, weight.device)

    def release(self) -> None:
        """Gives the model's layers weights of their own again, where they had moved."""
        self.work.release()
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
        self.work.refresh()
        places = Conversations(position_ids, Segments(bounds, self.max_length))
        x, branch = self.embedding.weight[input_ids], None
        kept: list[Any] = []
        for index, (attention, mlp) in enumerate(self._blocks):
            # Each block's output is added to its input by the norm of the next, which reads both anyway.
            x2, saved = attention.forward(x, branch, places)
            x, branch = saved.x, torch.empty_like(x2)
            if self.keep.recomputes_layers:
                del saved
                for part, rows in enumerate(self._parts(len(x))):
                    mlp.forward(x[rows], x2[rows], branch[rows], part)
                if self._host is not None:
                    self._host.put(index, x)
                kept.append(None if self._host is not None else x)
            else:
                inner = mlp.forward(x, x2, branch)
                kept.append((saved, inner._replace(gate_up=None) if self.keep is Keep.all_but_gate_up else inner))
                del saved, inner  # or the last layer's would stay through the head
            x = x2  # by now the sum
        assert branch is not None
        return branch.add_(x), kept

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
        rstd = self.work.norm(self.norm, picked, normed)
        weight = self.head.weight
        step = max(HEAD_BYTES // (len(weight) * weight.element_size()) // 128 * 128, 128)
        loss = torch.zeros((), device=x.device)
        for start in range(0, len(positions), step):
            chunk = slice(start, start + step)
            logits = normed[chunk] @ weight.T
            loss += self.work.ops.cross_entropy_(logits, targets[chunk], scale).sum()
            torch.mm(logits, weight, out=grad[chunk])
            del logits  # before the next are made
        self.work.ops.rms_norm_backward(grad, picked, self.norm.weight, rstd, None, normed, None)
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
        places = Conversations(position_ids, Segments(bounds, self.max_length))
        for index in reversed(range(len(self._blocks))):
            (attention, mlp), kept = self._blocks[index], saved.pop()
            if self.keep.recomputes_layers:
                x = kept if self._host is None else self._host.take(index, len(grad))
                x2, of_attention = attention.forward(x, None, places)
                for part, rows in enumerate(self._parts(len(grad))):
                    mlp.backward(mlp.forward(x[rows], x2[rows], None, part), grad[rows], part)
                del x, x2
            else:
                of_attention, of_mlp = kept
                mlp.backward(of_mlp, grad)
                del of_mlp
            del kept
            attention.backward(of_attention, grad, places, is_first=index == 0)
            del of_attention

    def grad_buffer(self, tokens: int) -> Tensor:
        """(T, D + R): `head_backward` leaves there what `layers_backward` starts from."""
        return self.work.buffer("grad", tokens, self._grad_width)

    def _parts(self, tokens: int) -> list[slice]:
        """Rows that the MLP is computed for at a time."""
        return [slice(start, min(start + self._part, tokens)) for start in range(0, tokens, self._part)]
