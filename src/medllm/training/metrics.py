"""Loss and accuracy as sums over supervised tokens, so that they add up over micro-batches, rows and processes.

Shapes: B rows, T tokens, K positions that predict a supervised token in at least one row, V vocabulary.
"""

import contextlib
import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from medllm.data.collate import MODEL_INPUTS
from medllm.errors import NonFiniteError


@dataclass(frozen=True)
class TokenSums:
    """Sums over supervised tokens: scalars on the model's device.

    Attributes:
        loss: Cross-entropy in nats (float32; carries the gradient in training).
        correct: Tokens whose most likely prediction is right (int64).
        count: Supervised tokens (int64).
    """

    loss: torch.Tensor
    correct: torch.Tensor
    count: torch.Tensor


def token_sums(model: Any, batch: dict[str, torch.Tensor]) -> TokenSums:
    """Runs the model on a batch and sums over its supervised tokens.

    Logits are computed only where they are needed: positions (K of T) in front of a supervised token. No cache is used,
    because position ids keep packed conversations apart only without one.
    """
    labels = batch["labels"][:, 1:]
    inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
    positions = (labels != -100).any(dim=0).nonzero().squeeze(1)
    targets = labels[:, positions]
    if accepts_logits_to_keep(model):
        logits = model(**inputs, logits_to_keep=positions, use_cache=False).logits
    else:
        logits = model(**inputs, use_cache=False).logits[:, positions]
    logits = logits.float().flatten(0, 1)  # (B K, V)
    targets = targets.flatten()
    supervised = targets != -100
    loss = F.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")
    correct = (logits.detach().argmax(dim=-1)[supervised] == targets[supervised]).sum()
    return TokenSums(loss, correct, supervised.sum())


def accepts_logits_to_keep(model: Any) -> bool:
    """Whether the base model can compute logits at chosen positions only."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else getattr(model, "module", model)
    return "logits_to_keep" in inspect.signature(type(base).forward).parameters


@dataclass(frozen=True)
class EvalMetrics:
    """Held-out metrics.

    Attributes:
        loss: Mean cross-entropy per supervised token, in nats.
        perplexity: exp(loss).
        token_accuracy: Share of supervised tokens predicted right, in [0, 1].
        num_tokens: Supervised tokens.
    """

    loss: float
    perplexity: float
    token_accuracy: float
    num_tokens: int

    def as_dict(self, prefix: str) -> dict[str, float]:
        """With names `<prefix>loss` and so on."""
        return {f"{prefix}{name}": value for name, value in vars(self).items()}


def precision(device: str, *, bf16: bool, fp16: bool) -> contextlib.AbstractContextManager[Any]:
    """The autocast context that the Trainer uses for these flags."""
    if not (bf16 or fp16):
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16 if bf16 else torch.float16)


@torch.no_grad()
def evaluate(
    model: Any,
    batches: Iterable[dict[str, torch.Tensor]],
    *,
    reduce: Callable[[torch.Tensor], torch.Tensor] = lambda sums: sums,
    on_batch: Callable[[], None] = lambda: None,
) -> EvalMetrics:
    """Metrics over all batches in constant memory; leaves the model's mode as it was.

    Args:
        model: Base or tuned.
        batches: From a data loader.
        reduce: Sums a (3,) tensor over processes.
        on_batch: Called after each batch, for progress.

    Raises:
        NonFiniteError: if the loss is NaN or infinite.
    """
    was_training = model.training
    model.eval()
    totals = torch.zeros(3, dtype=torch.float64)
    for batch in batches:
        moved = {name: value.to(model.device) for name, value in batch.items()}
        sums = token_sums(model, moved)
        totals += torch.stack([sums.loss.double(), sums.correct.double(), sums.count.double()]).cpu()
        on_batch()
    model.train(was_training)
    loss_sum, correct, count = reduce(totals).tolist()
    loss = loss_sum / count
    if not math.isfinite(loss):
        raise NonFiniteError(f"the held-out loss is {loss}; the weights hold or produce non-finite values")
    return EvalMetrics(loss, math.exp(min(loss, 700.0)), correct / count, int(count))
