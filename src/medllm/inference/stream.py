"""Answers that come piece by piece, several at once, each of which may join and end at any token (continuous batching)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional
from transformers.generation import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from medllm.config.generation import GenerationConf
from medllm.conversation import Conversation, Renderer
from medllm.inference.generate import Answer
from medllm.models.adapter import undressed

STOP, LENGTH, CANCELLED, FAILED = "stop", "length", "cancelled", "failed"


class Reply:
    """One answer under way.

    Args:
        renderer: Of the model.
        conversation: Ends with a user message, and fits into the model with its answer.
        conf: Sampling and length.
        on_text: Takes each piece of text as soon as no later token can change it; together they are the answer.
        stopped: Asked after every token; true ends the answer there.
        stop: Texts that end it; they are no part of it.
        seed: Of what is drawn by chance; None for another answer each time.

    Attributes:
        prompt: Ids in front of it.
        ids: Ids of it, the end of its turn included.
        finish_reason: `stop`, `length`, `cancelled` or `failed`; empty as long as it goes on.
        error: Why it failed.
        text: What was handed to `on_text`.
    """

    def __init__(
        self,
        renderer: Renderer,
        conversation: Conversation,
        conf: GenerationConf,
        on_text: Callable[[str], None],
        stopped: Callable[[], bool] = lambda: False,
        stop: Sequence[str] = (),
        seed: int | None = None,
    ):
        self.prompt: list[int] = renderer.render_prompt(conversation)
        self.ids: list[int] = []
        self.finish_reason = ""
        self.error: Exception | None = None
        self.text = ""
        self._renderer, self._conf, self._on_text, self._stopped, self._stop = renderer, conf, on_text, stopped, stop
        self._processors = _processors(conf)
        self._seed = seed
        self._generator: torch.Generator | None = None

    def take(self, scores: torch.Tensor) -> None:
        """Chooses the next token, as transformers' `generate` does.

        Args:
            scores: Float of shape (vocabulary,).
        """
        read = torch.tensor([self.prompt + self.ids], device=scores.device)
        scores = self._processors(read, scores[None].float())
        if self._conf.do_sample:
            chosen = int(torch.multinomial(scores.softmax(-1), 1, generator=self._drawing_on(scores.device)))
        else:
            chosen = int(scores.argmax())
        self.ids.append(chosen)
        if chosen in self._renderer.stop_token_ids:
            self.finish_reason = STOP
        elif len(self.ids) == self._conf.max_new_tokens:
            self.finish_reason = LENGTH
        if self._stopped():
            self.finish_reason = self.finish_reason or CANCELLED
        self._say()

    def _drawing_on(self, device: torch.device) -> torch.Generator:
        if self._generator is None:
            self._generator = torch.Generator(device)
            if self._seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(self._seed)
        return self._generator

    def _say(self) -> None:
        """Hands on what is certain: not half a character, no white space at the end, nothing that may become a stop text."""
        text = self._renderer.tokenizer.decode(self.ids, skip_special_tokens=True).lstrip()
        found = [place for place in (text.find(end) for end in self._stop) if place >= 0]
        if found:
            text, self.finish_reason = text[: min(found)], STOP
        elif not self.finish_reason:
            held = max((n for end in self._stop for n in range(1, len(end)) if text.endswith(end[:n])), default=0)
            text = text[: len(text) - held].rstrip("\N{REPLACEMENT CHARACTER}")
        text = text.rstrip()
        if len(text) > len(self.text):
            new, self.text = text[len(self.text) :], text
            self._on_text(new)


def _processors(conf: GenerationConf) -> LogitsProcessorList:
    """What `generate` does to scores, in its order."""
    found = LogitsProcessorList()
    if conf.repetition_penalty != 1:
        found.append(RepetitionPenaltyLogitsProcessor(conf.repetition_penalty))
    if conf.do_sample:
        found.append(TemperatureLogitsWarper(conf.temperature))
        if conf.top_k:
            found.append(TopKLogitsWarper(conf.top_k))
        found.append(TopPLogitsWarper(conf.top_p))
    return found


class ContinuousBatch:
    """Replies that share every step of a model, though each has come at a time of its own.

    Rows are padded on the left, to the longest. A reply that has ended leaves, and the others do not notice.

    Args:
        model: Base or tuned, in evaluation mode, all the time as it is now.
        tuned: Which of them.

    Attributes:
        replies: Under way, one a row.
    """

    def __init__(self, model: Any, *, tuned: bool):
        self.replies: list[Reply] = []
        self._model, self._start = undressed(model, tuned=tuned)
        self._cache: Any = None
        self._mask = torch.zeros((0, 0), dtype=torch.long, device=self._model.device)

    @torch.inference_mode()
    def join(self, replies: Sequence[Reply]) -> None:
        """Reads the prompts of new replies and chooses the first token of each."""
        longest = max(len(reply.prompt) for reply in replies)
        rows = [[0] * (longest - len(reply.prompt)) + reply.prompt for reply in replies]
        read = [[0] * (longest - len(reply.prompt)) + [1] * len(reply.prompt) for reply in replies]
        cache = self._start(len(replies))
        before = torch.ones((len(replies), cache.get_seq_length()), dtype=torch.long)
        mask = torch.cat([before, torch.tensor(read)], dim=1).to(self._mask.device)
        scores = self._scores(torch.tensor(rows, device=self._mask.device), mask, cache)
        if self._cache is None:
            self._cache, self._mask = cache, mask
        else:
            self._mask = _merged(self._cache, self._mask, cache, mask)
        self.replies += replies
        self._choose(replies, scores)

    @torch.inference_mode()
    def step(self) -> None:
        """One more token of every reply."""
        self._mask = functional.pad(self._mask, (0, 1), value=1)
        newest = torch.tensor([[reply.ids[-1]] for reply in self.replies], device=self._mask.device)
        self._choose(self.replies, self._scores(newest, self._mask, self._cache))

    def _scores(self, input_ids: torch.Tensor, mask: torch.Tensor, cache: Any) -> torch.Tensor:
        """Of what follows, of shape (rows, vocabulary)."""
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        output = self._model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        scores: torch.Tensor = output.logits[:, -1]
        return scores

    def _choose(self, replies: Sequence[Reply], scores: torch.Tensor) -> None:
        for reply, row in zip(replies, scores, strict=True):
            try:
                reply.take(row)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # of this reply's wishes: the others share the step, and not its fault
                reply.finish_reason, reply.error = FAILED, error
        going = [i for i, reply in enumerate(self.replies) if not reply.finish_reason]
        if len(going) < len(self.replies):
            self.replies = [self.replies[i] for i in going]
            if going:
                kept = torch.tensor(going, device=self._mask.device)
                self._cache.batch_select_indices(kept)
                self._mask = _cropped(self._cache, self._mask[kept])
            else:
                self._cache = None


def _merged(cache: Any, mask: torch.Tensor, other: Any, other_mask: torch.Tensor) -> torch.Tensor:
    """Adds another cache's rows to a cache; returns the mask of all.

    Time is padded on the left. A layer that keeps a window of it has at most that, and counts what it has seen.
    """
    seen = max(mask.shape[1], other_mask.shape[1])
    for layer, new in zip(cache.layers, other.layers, strict=True):
        kept = max(layer.keys.shape[-2], new.keys.shape[-2])
        for name in ("keys", "values"):
            parts = [
                functional.pad(x, (0, 0, kept - x.shape[-2], 0)) for x in (getattr(layer, name), getattr(new, name))
            ]
            setattr(layer, name, torch.cat(parts))
        if layer.is_sliding:
            layer.cumulative_length = seen
    return torch.cat([functional.pad(m, (seen - m.shape[1], 0)) for m in (mask, other_mask)])


def _cropped(cache: Any, mask: torch.Tensor) -> torch.Tensor:
    """Leaves out what is padding in every row of a cache; returns what is left of the mask."""
    padding = int(mask.argmax(1).min())
    if not padding:
        return mask
    seen = mask.shape[1] - padding
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[..., -seen:, :], layer.values[..., -seen:, :]
        if layer.is_sliding:
            layer.cumulative_length = seen
    return mask[:, padding:]


def stream(
    model: Any,
    renderer: Renderer,
    conversation: Conversation,
    conf: GenerationConf,
    on_text: Callable[[str], None],
    stopped: Callable[[], bool] = lambda: False,
    *,
    tuned: bool = True,
) -> Answer:
    """One answer, as it comes.

    Args:
        model: In evaluation mode.
        renderer: With the system prompt of inference.
        conversation: Ends with a user message, and fits into the model with its answer.
        conf: Sampling and length.
        on_text: Takes each piece of text; together they are the answer.
        stopped: Asked after every token; true ends the answer there.
        tuned: Whether the model's adapter is on.
    """
    reply = Reply(renderer, conversation, conf, on_text, stopped)
    batch = ContinuousBatch(model, tuned=tuned)
    batch.join([reply])
    while batch.replies:
        batch.step()
    if reply.error is not None:
        raise reply.error
    return Answer(conversation.messages[-1].content, reply.text, reply.finish_reason == STOP)
