"""A loaded model as a suite asks it: greedy answers and likelihoods, in batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from medllm.config.generation import GenerationConf
from medllm.conversation import Conversation, Message, Renderer
from medllm.data.collate import PadCollator
from medllm.errors import ModelError
from medllm.evaluation.suite import Likelihood, Side
from medllm.inference.generate import Answer, generate
from medllm.training.metrics import predictions

Row = tuple[
    tuple[int, ...], int
]  # ids up to the last token of an answer, which is left out, and where the answer begins


@dataclass(frozen=True)
class ModelSubject:
    """One side of a loaded model, which is in evaluation mode and switched to that side.

    Attributes:
        side: Which.
        model: transformers' or peft's.
        renderer: With the system prompt of inference.
        batch_size: Of answers and likelihoods.
        generation: How it answers; sampling is left out.
    """

    side: Side
    model: Any
    renderer: Renderer
    batch_size: int
    generation: GenerationConf

    def answers(self, conversations: Sequence[Conversation]) -> list[Answer]:
        """One greedy answer per conversation; those of similar length share a batch."""
        greedy = replace(self.generation, do_sample=False)
        lengths = [len(self.renderer.render_prompt(conversation)) for conversation in conversations]
        for length in lengths:
            self._check_length(length + greedy.max_new_tokens, f"with {greedy.max_new_tokens} tokens of answer ")
        order = sorted(range(len(conversations)), key=lengths.__getitem__)
        found: dict[int, Answer] = {}
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            answers = generate(self.model, self.renderer, [conversations[i] for i in batch], greedy)
            found |= dict(zip(batch, answers, strict=True))
        return [found[i] for i in range(len(conversations))]

    def likelihoods(self, requests: Sequence[tuple[Conversation, str]]) -> list[Likelihood]:
        """Of each text as the answer to its conversation.

        Texts that differ in their last token only are read in one pass: options of one token each cost as much as one.
        """
        spans = [self._span(conversation, text) for conversation, text in requests]
        sharing: dict[Row, list[int]] = {}
        found: dict[int, Likelihood] = {}
        for i, (ids, start) in enumerate(spans):
            if start == len(ids):
                found[i] = Likelihood(0.0, 0, 0)  # no text: nothing to predict
            else:
                sharing.setdefault((tuple(ids[:-1]), start), []).append(i)
        rows = sorted(sharing, key=lambda row: len(row[0]))
        for first in range(0, len(rows), self.batch_size):
            batch = rows[first : first + self.batch_size]
            for row, scores in zip(batch, self._log_probabilities(batch), strict=True):
                for i in sharing[row]:
                    targets = torch.tensor(spans[i][0][row[1] :], dtype=torch.int64, device=scores.device)
                    value = scores.gather(1, targets[:, None]).double().sum()
                    found[i] = Likelihood(float(value), len(targets), len(requests[i][1].strip().encode()))
        return [found[i] for i in range(len(requests))]

    def _span(self, conversation: Conversation, text: str) -> tuple[list[int], int]:
        """Ids of conversation and answer up to the end of its text, and where the text begins."""
        answered = Conversation((*conversation.messages, Message("assistant", text)), conversation.id)
        rendered = self.renderer.render(answered)
        turn = rendered.turns[-1]
        self._check_length(turn.end)
        return rendered.input_ids[: turn.end - 1], turn.start

    @torch.no_grad()
    def _log_probabilities(self, rows: Sequence[Row]) -> Iterator[torch.Tensor]:
        """Of each row (tokens of the answer, V): log-probabilities of what may stand at each place of the answer."""
        samples = [{"input_ids": [*ids, 0], "labels": [*([-100] * s), *([0] * (len(ids) + 1 - s))]} for ids, s in rows]
        batch = PadCollator(0)(samples)
        batch["attention_mask"] = (
            torch.arange(batch["input_ids"].shape[1])[None] < torch.tensor([[len(ids)] for ids, _ in rows])
        ).long()
        moved = {name: value.to(self.model.device) for name, value in batch.items()}
        logits, _, positions = predictions(self.model, moved)
        logits = logits.view(len(rows), len(positions), -1)
        at = positions.tolist()
        for row, (ids, start) in zip(logits, rows, strict=True):
            mine = [i for i, position in enumerate(at) if start - 1 <= position < len(ids)]
            yield row[mine].log_softmax(-1)

    def _check_length(self, length: int, what: str = "") -> None:
        config = getattr(self.model, "config", None)
        longest = getattr(config, "max_position_embeddings", None)
        if longest is not None and length > longest:
            raise ModelError(
                f"an item {what}has {length} tokens, the model reads {longest}\n"
                "    fix: take out long items, or a smaller evaluation.max_new_tokens"
            )
