"""Whether two models are the same: by what they expect next, and by what they say.

Shapes: P positions compared, V tokens of the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from medllm.config.generation import GenerationConf
from medllm.conversation import Conversation, Renderer
from medllm.inference.generate import generate

# Newest tokens of each prompt whose expectation is compared.
POSITIONS = 32


@dataclass(frozen=True)
class Behaviour:
    """What a model does with some prompts.

    Attributes:
        log_probabilities: (P, V) float32, of the token after each of the last positions of each prompt.
        answers: Greedy, one per prompt.
    """

    log_probabilities: torch.Tensor
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Proof:
    """How far one model is from another.

    Attributes:
        prompts: Held-out conversations, up to the doctor's last answer.
        positions: Compared.
        kl_mean: Kullback-Leibler divergence of the other from the one, in nats, in the mean.
        kl_max: At the worst position.
        log_probability_max: Largest difference of a log-probability among tokens that the one gives at least 1 %.
        same_next: Positions at which both expect the same token most.
        same_answers: Prompts that both answer word for word alike.
    """

    prompts: int
    positions: int
    kl_mean: float
    kl_max: float
    log_probability_max: float
    same_next: int
    same_answers: int


@torch.no_grad()
def behaviour(
    model: Any, renderer: Renderer, conversations: Sequence[Conversation], conf: GenerationConf, max_new_tokens: int
) -> Behaviour:
    """What a model does with these conversations.

    Args:
        model: In evaluation mode.
        renderer: Of inference.
        conversations: Each ends with a user message.
        conf: Of the artifact; sampling is left out.
        max_new_tokens: Of each answer.
    """
    rows, answers = [], []
    greedy = GenerationConf(max_new_tokens=max_new_tokens, repetition_penalty=conf.repetition_penalty)
    for conversation in conversations:  # one by one, so that padding rounds nothing
        ids = torch.tensor([renderer.render_prompt(conversation)], device=model.device)
        logits = model(input_ids=ids, logits_to_keep=min(POSITIONS, ids.shape[1])).logits[0]
        rows.append(logits.float().log_softmax(-1).cpu())
        answers.append(generate(model, renderer, [conversation], greedy)[0].text)
    return Behaviour(torch.cat(rows), tuple(answers))


def compared(one: Behaviour, other: Behaviour) -> Proof:
    """The proof; `one` is what was, `other` what became of it."""
    p, q = one.log_probabilities, other.log_probabilities
    kl = (p.exp() * (p - q)).sum(-1).clamp_min(0)
    likely = p > torch.log(torch.tensor(0.01))
    return Proof(
        prompts=len(one.answers),
        positions=len(p),
        kl_mean=float(kl.mean()),
        kl_max=float(kl.max()),
        log_probability_max=float((p - q).abs()[likely].max()) if likely.any() else 0.0,
        same_next=int((p.argmax(-1) == q.argmax(-1)).sum()),
        same_answers=sum(a == b for a, b in zip(one.answers, other.answers, strict=True)),
    )
