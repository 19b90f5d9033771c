"""Answers: batched as alone, and without a trace in the run around them."""

import pytest
import torch

from medllm.config.generation import GenerationConf
from medllm.conversation import Conversation, Message, Renderer
from medllm.inference.generate import ask, generate
from medllm.models.adapter import attach_adapter
from medllm.models.base import build_base_model, build_tokenizer
from tests.conf.groups import load

QUESTIONS = ["I cough", "My head hurts since Monday and I feel dizzy when I stand up, what should I do?", "Why?"]


def build(option: str):  # type: ignore[no-untyped-def]
    """A model that says something, with an adapter that changes it, and its renderer."""
    run = load("lora", option, "model=tiny_random", "quantization=none")
    tokenizer = build_tokenizer(run.model)
    torch.manual_seed(0)
    model = attach_adapter(build_base_model(run.model, run.quantization, tokenizer), run.lora)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model, Renderer(tokenizer.tokenizer)


@pytest.mark.parametrize("option", ["default", "ia3", "prefix", "adapter_layers"])
def test_a_batch_answers_as_each_question_alone(option: str) -> None:
    """Padding on the left changes no answer."""
    model, renderer = build(option)
    conf = GenerationConf(max_new_tokens=8, system_prompt=None)
    together = generate(model, renderer, [ask(question) for question in QUESTIONS], conf)
    alone = [generate(model, renderer, [ask(question)], conf)[0] for question in QUESTIONS]
    assert together == alone
    assert [answer.question for answer in together] == QUESTIONS


def test_sampling_leaves_mode_and_random_state_as_they_were() -> None:
    """A run with samples draws the same numbers as one without."""
    model, renderer = build("default")
    model.train()
    state = torch.get_rng_state()
    generate(model, renderer, [ask("I cough")], GenerationConf(max_new_tokens=4, do_sample=True, system_prompt=None))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training


def test_a_visit_of_several_turns_goes_on() -> None:
    """History is part of the prompt; no conversation, no answer."""
    model, renderer = build("default")
    visit = Conversation((Message("user", "I cough"), Message("assistant", "Since when?"), Message("user", "Monday")))
    conf = GenerationConf(max_new_tokens=4, system_prompt=None)
    assert generate(model, renderer, [visit], conf)[0].question == "Monday"
    assert generate(model, renderer, [], conf) == []
