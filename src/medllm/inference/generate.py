"""Generates answers with the renderer that training used."""

from dataclasses import dataclass
from typing import Any

import torch

from medllm import ranks
from medllm.config.generation import GenerationConf
from medllm.conversation import Conversation, Message, Renderer
from medllm.models.quantization import dequantized
from medllm.stopping import stop


@dataclass(frozen=True)
class Answer:
    """A generated answer.

    Attributes:
        question: The last user message.
        text: Without special tokens.
        finished: Whether the model ended its turn itself, instead of running into `max_new_tokens`.
    """

    question: str
    text: str
    finished: bool


def build_generation_config(conf: GenerationConf, renderer: Renderer) -> Any:
    """Transformers' `GenerationConfig`; it stops at the end of a turn and at eos."""
    from transformers import GenerationConfig

    sampling = {"temperature": conf.temperature, "top_k": conf.top_k, "top_p": conf.top_p} if conf.do_sample else {}
    pad_token_id = renderer.tokenizer.pad_token_id
    return GenerationConfig(
        max_new_tokens=conf.max_new_tokens,
        do_sample=conf.do_sample,
        repetition_penalty=conf.repetition_penalty,
        eos_token_id=renderer.stop_token_ids,
        pad_token_id=renderer.end_of_turn_id if pad_token_id is None else pad_token_id,
        use_cache=True,
        **sampling,
    )


def _cut_short() -> Any:
    """What ends no answer, but lets a request to stop end the work after any token."""
    from transformers import StoppingCriteria, StoppingCriteriaList

    class CutShort(StoppingCriteria):
        def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
            stop.check()
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    return StoppingCriteriaList([CutShort()])


def ask(question: str) -> Conversation:
    """A conversation of one question."""
    return Conversation((Message("user", question),))


@torch.no_grad()
def generate(model: Any, renderer: Renderer, conversations: list[Conversation], conf: GenerationConf) -> list[Answer]:
    """One answer per conversation, all in one batch.

    Leaves the model's mode and the random state as they were, so that a run with samples equals one without.

    Args:
        model: Base or tuned.
        renderer: With the system prompt of inference.
        conversations: Each ends with a user message.
        conf: Sampling and length.
    """
    if not conversations:
        return []
    prompts = [renderer.render_prompt(conversation) for conversation in conversations]
    longest = max(len(prompt) for prompt in prompts)
    config = build_generation_config(conf, renderer)
    pad = [[config.pad_token_id] * (longest - len(prompt)) for prompt in prompts]
    input_ids = torch.tensor([fill + prompt for fill, prompt in zip(pad, prompts, strict=True)], device=model.device)
    mask = torch.tensor([[0] * len(f) + [1] * len(p) for f, p in zip(pad, prompts, strict=True)], device=model.device)
    was_training = model.training
    model.eval()
    devices = [model.device] if model.device.type == "cuda" else []
    with dequantized(model), torch.random.fork_rng(devices=devices):
        output = model.generate(
            input_ids=input_ids,
            attention_mask=mask,
            generation_config=config,
            stopping_criteria=_cut_short(),
            synced_gpus=ranks.world_size() > 1,  # where weights are sharded, no rank can go on alone
        )
    model.train(was_training)
    answers = []
    for conversation, ids in zip(conversations, output[:, longest:].tolist(), strict=True):
        text = renderer.tokenizer.decode(ids, skip_special_tokens=True).strip()
        finished = any(stop in ids for stop in renderer.stop_token_ids)
        answers.append(Answer(conversation.messages[-1].content, text, finished))
    return answers
