"""Loss and accuracy as sums over supervised tokens, so that they add up over micro-batches, rows and processes.

Shapes: B rows, T tokens, K positions that predict a supervised token in at least one row, V vocabulary.
"""

import contextlib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from medllm.conversation_losses import ConversationLosses
from medllm.data.collate import MODEL_INPUTS
from medllm.data.pipeline import Side
from medllm.errors import NonFiniteError
from medllm.models.fused.obstacle import FAMILIES
from medllm.stopping import stop
from medllm.training.order import named

# Of logits that an evaluation has in memory at a time: as computed, in float32, and once more for the loss.
LOGITS_BYTES = 2**28


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
    logits, targets, _ = predictions(model, batch)
    loss = F.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")
    supervised = targets != -100
    correct = (logits.detach().argmax(dim=-1)[supervised] == targets[supervised]).sum()
    return TokenSums(loss, correct, supervised.sum())


def supervised_positions(labels: torch.Tensor) -> torch.Tensor:
    """Positions (K) in front of a supervised token of labels (B, T)."""
    return (labels[:, 1:] != -100).any(dim=0).nonzero().squeeze(1)


def predictions(
    model: Any, batch: dict[str, torch.Tensor], positions: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (B K, V) in float32, their targets (B K), and the positions (K), by default the supervised ones."""
    inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
    positions = supervised_positions(batch["labels"]) if positions is None else positions
    targets = batch["labels"][:, 1:][:, positions]
    if accepts_logits_to_keep(model):
        logits = model(**inputs, logits_to_keep=positions, use_cache=False).logits
    else:
        logits = model(**inputs, use_cache=False).logits[:, positions]
    return logits.float().flatten(0, 1), targets.flatten(), positions


def accepts_logits_to_keep(model: Any) -> bool:
    """Whether the base model can compute logits at chosen positions only."""
    model = getattr(model, "module", model)  # what torch wraps around it to train in several processes
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(type(base).forward).parameters


class TokenLosses(NamedTuple):
    """Of the positions of a batch.

    Attributes:
        loss: (B, K) float32, in nats; 0 where a row has no supervised token.
        correct: (B, K) bool: the most likely token is the right one.
        supervised: (B, K) bool.
        positions: (K) int64.
    """

    loss: torch.Tensor
    correct: torch.Tensor
    supervised: torch.Tensor
    positions: torch.Tensor


def token_losses(model: Any, batch: dict[str, torch.Tensor], positions: torch.Tensor | None = None) -> TokenLosses:
    """Losses of a batch's tokens, its logits a part at a time where the model allows it.

    Args:
        model: Base or tuned.
        batch: On its device.
        positions: (K) int64, by default the supervised ones.
    """
    positions = supervised_positions(batch["labels"]) if positions is None else positions
    targets = batch["labels"][:, 1:][:, positions]
    losses, correct, start = [], [], 0
    for logits in _logits_in_parts(model, batch, positions):
        part = targets[:, start : start + logits.shape[1]]
        losses.append(
            F.cross_entropy(logits.flatten(0, 1), part.flatten(), ignore_index=-100, reduction="none").view_as(part)
        )
        correct.append(logits.argmax(dim=-1) == part)
        start += logits.shape[1]
    return TokenLosses(torch.cat(losses, dim=1), torch.cat(correct, dim=1), targets != -100, positions)


def _logits_in_parts(model: Any, batch: dict[str, torch.Tensor], positions: torch.Tensor) -> Iterator[torch.Tensor]:
    """Logits (B, k, V) in float32 of consecutive positions; all K at once of models whose output layer is not all there is."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    # peft puts a prefix in front of the whole model, and every other adapter inside it. A sharded model, which is of a class
    # of torch's making, gathers its weights around the whole forward pass.
    has_prefix = base is not model and model.active_peft_config.is_prompt_learning
    if has_prefix or type(base).__name__ not in FAMILIES:
        logits, _, _ = predictions(model, batch, positions)
        yield logits.view(len(batch["labels"]), len(positions), -1)
        return
    inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
    hidden = base.model(**inputs, use_cache=False).last_hidden_state[:, positions]
    of_position = len(hidden) * base.config.vocab_size * (hidden.element_size() + 8)
    for part in hidden.split(max(LOGITS_BYTES // of_position, 1), dim=1):
        yield base.lm_head(part).float()


@dataclass(frozen=True)
class SampleSums:
    """Sums over the supervised tokens of each sample of a batch: S segments per row, the last of them filling.

    Attributes:
        loss: (B, S) float64, on the CPU.
        correct: Predicted right, (B, S) int64.
        count: (B, S) int64.
    """

    loss: NDArray[np.float64]
    correct: NDArray[np.int64]
    count: NDArray[np.int64]


def sample_sums(
    batch: dict[str, torch.Tensor],
    positions: torch.Tensor,
    losses: torch.Tensor,
    correct: torch.Tensor,
    supervised: torch.Tensor,
) -> SampleSums:
    """Sums over supervised tokens by the sample that they belong to.

    Args:
        batch: On one device; packed samples begin where position ids do.
        positions: (K) int64.
        losses: (B, K) float64.
        correct: (B, K) bool.
        supervised: (B, K) bool.
    """
    labels = batch["labels"]
    segments = torch.zeros_like(labels)
    if "position_ids" in batch:
        segments = (batch["position_ids"] == 0).cumsum(dim=1) - 1
    of_token = segments[:, positions]
    shape = (len(labels), int(segments.max()) + 1)

    def summed(values: torch.Tensor) -> NDArray[Any]:
        sums = torch.zeros(shape, dtype=values.dtype, device=values.device)
        found: NDArray[Any] = sums.scatter_add_(1, of_token, values).cpu().numpy()
        return found

    return SampleSums(summed(losses), summed(correct.long()), summed(supervised.long()))


def conversation_losses(side: Side, collected: Iterable[SampleSums]) -> ConversationLosses:
    """The sums of an evaluation, conversation by conversation.

    Args:
        side: What was evaluated, in its own order.
        collected: Of all its batches, in order.
    """
    rows = side.rows
    sums = [pair for batch in collected for pair in zip(batch.loss, batch.count, strict=True)]
    samples = [sample for row in rows for sample in row]
    loss = np.concatenate([loss[: len(row)] for row, (loss, _) in zip(rows, sums, strict=True)])
    count = np.concatenate([count[: len(row)] for row, (_, count) in zip(rows, sums, strict=True)])
    digests = side.conversations.column("digest")
    names = [int.from_bytes(digests[side.samples.places[i]][:8], "little", signed=True) for i in samples]
    return ConversationLosses(np.array(names, dtype=np.int64), loss, count)


def faulty_conversations(side: Side, collected: Sequence[SampleSums]) -> str:
    """The batches of an evaluation that hold a loss that is not finite, and the conversations that have one, to show.

    Args:
        side: What was evaluated, in its own order.
        collected: Of all its batches, in order.
    """
    found, rows = [], iter(side.rows)
    for number, sums in enumerate(collected, start=1):
        losses = zip(sums.loss.tolist(), rows, strict=False)  # a batch at a time
        # The last loss of a row is that of its filling.
        faulty = [i for loss, row in losses for i, of_one in zip(row, loss, strict=False) if not math.isfinite(of_one)]
        if faulty:
            ids = [side.samples.rows[i]["conversation_id"] for i in faulty]
            found.append(f"batch {number} of {len(collected)}: {named(ids)}")
    return "; ".join(found)


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
    gather: Callable[[list[SampleSums]], list[SampleSums]] = lambda sums: sums,
    on_batch: Callable[[], None] = lambda: None,
    on_rows: Callable[[SampleSums], None] = lambda sums: None,
    side: Side | None = None,
) -> EvalMetrics:
    """Metrics over all batches, in constant memory; leaves the model's mode as it was.

    Args:
        model: Base or tuned.
        batches: From a data loader.
        gather: Makes the sums of all batches of those of this rank's, such as `Share.gather`.
        on_batch: Called after each batch, for progress.
        on_rows: Takes the sums of each batch's samples, of all ranks.
        side: Whose batches these are, in its own order, so that an error can name conversations.

    Raises:
        NonFiniteError: if the loss is NaN or infinite.
    """
    was_training = model.training
    model.eval()
    collected: list[SampleSums] = []
    for batch in batches:
        stop.check()
        moved = {name: value.to(model.device) for name, value in batch.items()}
        found = token_losses(model, moved)
        correct = found.correct & found.supervised
        collected.append(sample_sums(moved, found.positions, found.loss.double(), correct, found.supervised))
        on_batch()
    model.train(was_training)
    loss_sum, right, count, of_all = 0.0, 0, 0, gather(collected)
    for sums in of_all:
        loss_sum, right, count = loss_sum + sums.loss.sum(), right + sums.correct.sum(), count + sums.count.sum()
        on_rows(sums)
    loss = float(loss_sum / count)
    if not math.isfinite(loss):
        where = f"\n    where: {faulty_conversations(side, of_all)}" if side is not None else ""
        raise NonFiniteError(f"the held-out loss is {loss}; the weights hold or produce non-finite values{where}")
    return EvalMetrics(loss, math.exp(min(loss, 700.0)), float(right / count), int(count))
