"""Proves on a run's own data, before step 1, that the right tokens are supervised and no conversation sees another.

Most failures of fine-tuning projects are here, and none of them raises by itself: a masked end of turn (the model never
stops), labels that are all masked, a doubled beginning-of-sequence token, prompts rendered differently in training and in
use, packed conversations that attend to each other.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from medllm.config.data import Batching
from medllm.conversation import Conversation, Rendered, Renderer, Turn
from medllm.data.collate import MODEL_INPUTS, PackCollator
from medllm.data.pipeline import Datasets
from medllm.errors import LabelError
from medllm.training.metrics import token_sums

# Conversations whose labels are examined one by one, and those whose loss is computed in company and alone.
EXAMINED, COMPARED = 32, 3

# Relative difference of a loss computed twice: rounding in the precision of the model's activations.
LOSS_TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 3e-2}

# How much one conversation may move another's logits, relative to its own: rounding.
LEAK_TOLERANCE = 1e-2


@dataclass(frozen=True)
class LabelProof:
    """What was proven, and on how much.

    Attributes:
        conversations: Training conversations examined one by one.
        supervised_share: Per role, the share of its tokens that are supervised; 1 for assistant, 0 for all others.
        end_of_turn_supervised: Answers whose end-of-turn token is supervised, as a share.
        samples_without_labels: Of the whole training side.
        renderings_equal: Prompts that are, id by id, what the chat template gives at generation, as a share.
        together_loss: Mean loss of a few conversations in one batch, as training lays them out.
        alone_loss: Mean loss of the same conversations one by one.
        leak: Change of a packed conversation's logits when the one in front of it is replaced, relative to the change
            of the replaced one's own; None where nothing is packed.
    """

    conversations: int
    supervised_share: dict[str, float]
    end_of_turn_supervised: float
    samples_without_labels: int
    renderings_equal: float
    together_loss: float
    alone_loss: float
    leak: float | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def prove_labels(datasets: Datasets, renderer: Renderer, model: Any) -> LabelProof:
    """Proves the labels of a run.

    Args:
        datasets: What will be trained on.
        renderer: What rendered it.
        model: The base, without adapter, on its device.

    Raises:
        LabelError: naming what is wrong and the conversation it was found in.
    """
    rows = datasets.train.samples.rows
    empty = _unsupervised(rows)
    if empty:
        raise LabelError(f"{empty} of {len(rows)} training samples have no supervised token")
    shares: dict[str, list[int]] = {}
    answers = ends = prompts = equal = examined = 0
    samples = rows.select(range(min(EXAMINED, len(rows)))).to_list()
    by_id = _find({sample["conversation_id"] for sample in samples}, datasets.train.conversations)
    for sample in samples:
        conversation = by_id[sample["conversation_id"]]
        rendered = spans(sample)
        _check_beginning(sample, renderer, conversation)
        roles = renderer.token_roles(sample["input_ids"], conversation)
        examined += roles is not None
        for role, label in zip(roles or [], sample["labels"], strict=roles is not None):
            share = shares.setdefault(role, [0, 0])
            share[0] += label != -100
            share[1] += 1
        answers += len(rendered.turns)
        ends += sum(sample["labels"][turn.end - 1] == renderer.end_of_turn_id for turn in rendered.turns)
        for i, turn in enumerate(rendered.turns):
            prompts += 1
            equal += sample["input_ids"][: turn.start] == _template_ids(renderer, conversation, i)
    share_of = {role: supervised / total for role, (supervised, total) in sorted(shares.items())}
    # The template's share counts the end-of-turn tokens, which are supervised and belong to no message's text.
    wrong = {r: s for r, s in share_of.items() if r != "template" and s != (1.0 if r == "assistant" else 0.0)}
    if wrong:
        raise LabelError(f"supervised share by role is {share_of}; assistant must be 1 and every other role 0")
    if ends != answers:
        raise LabelError(f"{answers - ends} of {answers} answers end without a supervised end of turn")
    if equal != prompts:
        raise LabelError(
            f"{prompts - equal} of {prompts} prompts differ between training and the chat template at generation\n"
            "    fix: model.chat_format=chatml"
        )
    if "assistant" not in share_of or examined < len(samples) / 2:
        raise LabelError(
            f"only {examined} of {len(samples)} samples could be read back from their tokens, so the labels cannot be proven: "
            "the tokenizer changes text when it decodes it"
        )
    compared = sorted(samples, key=lambda sample: sample["length"])[:COMPARED]  # short ones: logits of all their tokens
    _check_batch(compared, datasets)
    together, alone, leak = _compare(compared, datasets, model)
    return LabelProof(examined, share_of, ends / answers, empty, equal / prompts, together, alone, leak)


def _unsupervised(rows: Any) -> int:
    """How many samples have no label at all; read as Arrow arrays, for there may be very many."""
    count = 0
    for table in rows.with_format("arrow").iter(batch_size=1000):
        labels = table.column("labels").combine_chunks()
        supervised = np.concatenate([[0], np.cumsum(labels.flatten().to_numpy() != -100)])
        ends = np.cumsum(labels.value_lengths().to_numpy())
        count += int((np.diff(supervised[np.concatenate([[0], ends])]) == 0).sum())
    return count


def _find(ids: set[str], conversations: Iterable[Conversation]) -> dict[str, Conversation]:
    """Conversations by id, looked for no further than needed."""
    found: dict[str, Conversation] = {}
    for conversation in conversations:
        if conversation.id in ids:
            found[conversation.id] = conversation
            if len(found) == len(ids):
                break
    return found


def spans(sample: dict[str, Any]) -> Rendered:
    """A sample's supervised spans, read from its labels alone."""
    labels, turns, start = sample["labels"], [], None
    for i, label in enumerate([*labels, -100]):
        if label != -100 and start is None:
            start = i
        elif label == -100 and start is not None:
            turns.append(Turn(start, i))
            start = None
    return Rendered(list(sample["input_ids"]), turns)


def _check_batch(samples: list[dict[str, Any]], datasets: Datasets) -> None:
    """The batch that the collator makes supervises what the samples supervise, and no padding."""
    batch = datasets.collate([samples] if datasets.batching is Batching.packed else samples)
    wanted = [label for sample in samples for label in sample["labels"] if label != -100]
    if batch["labels"][batch["labels"] != -100].tolist() != wanted:
        raise LabelError("a batch does not supervise the tokens that its samples supervise")
    supervised = batch["labels"] != -100
    if (batch["input_ids"][supervised] != batch["labels"][supervised]).any():
        raise LabelError("a batch's labels are not its tokens")
    if int(batch["num_tokens"]) != sum(len(sample["input_ids"]) for sample in samples):
        raise LabelError("a batch counts padding as tokens")


def _check_beginning(sample: dict[str, Any], renderer: Renderer, conversation: Conversation) -> None:
    bos = renderer.tokenizer.bos_token_id
    if bos is not None and sample["input_ids"][:2] == [bos, bos]:
        raise LabelError(f"{conversation.id} begins with the beginning-of-sequence token twice")


def _template_ids(renderer: Renderer, conversation: Conversation, answer: int) -> list[int]:
    """The prompt of an answer as any other program would make it: by the chat template, in one piece."""
    messages = renderer.template_messages(conversation)
    position = [i for i, message in enumerate(messages) if message["role"] == "assistant"][answer]
    ids = renderer.tokenizer.apply_chat_template(
        messages[:position], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return list(ids)


@torch.no_grad()
def _compare(samples: list[dict[str, Any]], datasets: Datasets, model: Any) -> tuple[float, float, float | None]:
    packed = datasets.batching is Batching.packed
    model.eval()
    batch = datasets.collate([samples] if packed else samples)
    together_sums = token_sums(model, _to(batch, model))
    count = int(together_sums.count)
    together = float(together_sums.loss) / count
    alone = sum(float(token_sums(model, _to(PackCollator()([[sample]]), model)).loss) for sample in samples) / count
    tolerance = LOSS_TOLERANCE[model.dtype]
    if not abs(together - alone) <= tolerance * abs(alone):
        raise LabelError(
            f"the loss of {len(samples)} conversations is {together:.6f} in one batch and {alone:.6f} one by one; they "
            f"influence each other under model.attn_implementation={model.config._attn_implementation}\n"
            "    fix: data.batching=length_grouped"
        )
    leak = _leak(samples, batch, model) if packed and len(samples) > 1 else None
    if leak is not None and not leak <= LEAK_TOLERANCE:
        raise LabelError(
            f"a packed conversation changes the next one's logits ({leak:.3g} of its own change) under "
            f"model.attn_implementation={model.config._attn_implementation}\n    fix: data.batching=length_grouped"
        )
    return together, alone, leak


def _leak(samples: list[dict[str, Any]], batch: dict[str, torch.Tensor], model: Any) -> float:
    """Replaces the first conversation by other tokens and looks at what that does to the logits of the rest.

    8-bit layers pick outlier features from all rows of a product together, so that any token moves any other by the error of
    quantization; it is left out here, where the attention is asked.
    """
    first = len(samples[0]["input_ids"])
    inputs = _to({name: batch[name] for name in MODEL_INPUTS if name in batch}, model)
    changed = dict(inputs)
    replaced = torch.roll(inputs["input_ids"][:, :first], first // 2, dims=1)
    changed["input_ids"] = torch.cat([replaced, inputs["input_ids"][:, first:]], dim=1)
    with _no_outliers(model):
        before, after = (model(**given, use_cache=False).logits.float() for given in (inputs, changed))
    change = (after - before).abs().amax(dim=-1)[0]
    own, others = float(change[:first].max()), float(change[first:].max())
    return others / own if own else float("nan")


@contextlib.contextmanager
def _no_outliers(model: Any) -> Iterator[None]:
    """Bitsandbytes' 8-bit layers quantize each row by itself meanwhile."""
    states = [module.state for module in model.modules() if type(module).__name__ == "Linear8bitLt"]
    thresholds = [state.threshold for state in states]
    for state in states:
        state.threshold = 0.0
    try:
        yield
    finally:
        for state, threshold in zip(states, thresholds, strict=True):
            state.threshold = threshold


def _to(batch: dict[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    return {name: value.to(model.device) for name, value in batch.items()}
