"""One answer, piece by piece, which may be stopped."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextStreamer

from medllm.config.generation import GenerationConf
from medllm.conversation import Conversation, Renderer
from medllm.inference.generate import Answer, build_generation_config


class _Pieces(TextStreamer):
    """Hands on text as soon as no later token can change it."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called by transformers with each new piece."""
        if text:
            self._on_text(text)


class _Asked(StoppingCriteria):
    """Stops where somebody asked."""

    def __init__(self, stopped: Callable[[], bool]):
        self._stopped = stopped

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self._stopped(), dtype=torch.bool, device=input_ids.device)


@torch.no_grad()
def stream(
    model: Any,
    renderer: Renderer,
    conversation: Conversation,
    conf: GenerationConf,
    on_text: Callable[[str], None],
    stopped: Callable[[], bool] = lambda: False,
) -> Answer:
    """One answer, as it comes.

    Args:
        model: Base or tuned, in evaluation mode.
        renderer: With the system prompt of inference.
        conversation: Ends with a user message, and fits into the model with its answer.
        conf: Sampling and length.
        on_text: Takes each piece of text; together they are the answer but for white space around it.
        stopped: Asked after every token; true ends the answer there.
    """
    prompt = renderer.render_prompt(conversation)
    input_ids = torch.tensor([prompt], device=model.device)
    output = model.generate(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        generation_config=build_generation_config(conf, renderer),
        streamer=_Pieces(renderer.tokenizer, on_text),
        stopping_criteria=StoppingCriteriaList([_Asked(stopped)]),
    )
    ids = output[0, len(prompt) :].tolist()
    text = renderer.tokenizer.decode(ids, skip_special_tokens=True).strip()
    return Answer(conversation.messages[-1].content, text, any(stop in ids for stop in renderer.stop_token_ids))
