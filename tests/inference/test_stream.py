"""Continuous batching: who joins when, and who leaves, changes nobody's answer."""

from typing import Any

import pytest
import torch

from medllm.config.generation import GenerationConf
from medllm.inference.generate import ask, generate
from medllm.inference.stream import CANCELLED, LENGTH, STOP, ContinuousBatch, Reply, stream
from tests.inference.test_generate import QUESTIONS, build

CONF = GenerationConf(max_new_tokens=8, system_prompt=None)


def reply(renderer: Any, question: str, conf: GenerationConf = CONF, **kwargs: Any) -> tuple[Reply, list[str]]:
    """A reply and what it said."""
    said: list[str] = []
    return Reply(renderer, ask(question), conf, said.append, **kwargs), said


def run(batch: ContinuousBatch) -> None:
    """To the end of all."""
    while batch.replies:
        batch.step()


@pytest.mark.parametrize("option", ["default", "ia3", "prefix", "adapter_layers"])
@pytest.mark.parametrize("penalty", [1.0, 1.1])
def test_replies_that_join_and_leave_at_any_time_are_those_of_each_alone(option: str, penalty: float) -> None:
    """The property that makes a server trustworthy: neighbours change nothing."""
    model, renderer = build(option)
    model.eval()
    lengths = (8, 3, 6)
    confs = [GenerationConf(max_new_tokens=n, repetition_penalty=penalty, system_prompt=None) for n in lengths]
    replies = [reply(renderer, question, conf)[0] for question, conf in zip(QUESTIONS, confs, strict=True)]
    batch = ContinuousBatch(model, tuned=True)
    batch.join(replies[:1])
    batch.step()
    batch.join(replies[1:2])  # longer than what is under way
    batch.step()
    batch.join(replies[2:])  # shorter
    run(batch)
    for question, conf, found in zip(QUESTIONS, confs, replies, strict=True):
        (alone,) = generate(model, renderer, [ask(question)], conf)
        assert found.text == alone.text
        assert (found.finish_reason == STOP) == alone.finished


@pytest.mark.parametrize("option", ["default", "prefix"])
def test_the_base_answers_where_the_adapter_is_off(option: str) -> None:
    """Prefixes too are off then."""
    model, renderer = build(option)
    model.eval()
    with model.disable_adapter():
        (expected,) = generate(model, renderer, [ask(QUESTIONS[0])], CONF)
        found = stream(model, renderer, ask(QUESTIONS[0]), CONF, lambda _: None, tuned=False)
    tuned = stream(model, renderer, ask(QUESTIONS[0]), CONF, lambda _: None)
    assert found.text == expected.text != tuned.text


def test_a_window_of_the_past_is_kept_in_every_row() -> None:
    """Models with sliding windows count what they have seen, which merging and cropping must keep true."""
    from transformers import MistralConfig, MistralForCausalLM

    _, renderer = build("default")
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(renderer.tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        sliding_window=12,
    )
    model = MistralForCausalLM(config).eval()
    conf = GenerationConf(max_new_tokens=24, repetition_penalty=1.0, system_prompt=None)
    replies = [reply(renderer, question, conf)[0] for question in QUESTIONS]
    batch = ContinuousBatch(model, tuned=True)
    for new in replies:
        batch.join([new])
        for _ in range(5):
            batch.step()
    run(batch)
    for question, found in zip(QUESTIONS, replies, strict=True):
        assert found.text == generate(model, renderer, [ask(question)], conf)[0].text


def test_a_batch_that_never_empties_does_not_grow() -> None:
    """Padding that nobody needs any more is left out: a busy server's memory stays what its answers need."""
    model, renderer = build("default")
    model.eval()
    conf = GenerationConf(max_new_tokens=6, system_prompt=None)
    batch = ContinuousBatch(model, tuned=True)
    widths = []
    for _ in range(12):
        batch.join([reply(renderer, "I cough", conf)[0]])
        for _ in range(3):
            batch.step()
        widths.append(batch._mask.shape[1])
    assert len(batch.replies) >= 1
    assert max(widths) <= len(reply(renderer, "I cough")[0].prompt) + 2 * conf.max_new_tokens
    assert batch._cache.layers[0].keys.shape[-2] == batch._mask.shape[1]


def test_a_seed_gives_the_same_words_with_any_neighbours() -> None:
    """And they are those that `generate` draws from the same seed."""
    model, renderer = build("default")
    model.eval()
    conf = GenerationConf(max_new_tokens=12, do_sample=True, temperature=0.9, system_prompt=None)
    one, two = (reply(renderer, QUESTIONS[0], conf, seed=5)[0] for _ in range(2))
    batch = ContinuousBatch(model, tuned=True)
    batch.join([one])
    run(batch)
    batch.join([reply(renderer, QUESTIONS[1], conf)[0], two])
    run(batch)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        expected = generate(model, renderer, [ask(QUESTIONS[0])], conf)[0]
    assert one.ids == two.ids
    assert one.text == expected.text
    other = reply(renderer, QUESTIONS[0], conf, seed=6)[0]
    batch.join([other])
    run(batch)
    assert other.ids != one.ids


def test_pieces_are_the_answer_and_no_stop_text_slips_out() -> None:
    """Whatever the stop text and wherever it begins, nothing of it is said."""
    model, renderer = build("default")
    model.eval()
    conf = GenerationConf(max_new_tokens=24, system_prompt=None)
    whole, said = reply(renderer, QUESTIONS[0], conf)
    batch = ContinuousBatch(model, tuned=True)
    batch.join([whole])
    run(batch)
    assert "".join(said) == whole.text
    assert len(said) > 1
    for start in range(1, len(whole.text) - 3, 5):
        end = whole.text[start : start + 3]
        cut, said = reply(renderer, QUESTIONS[0], conf, stop=("never said", end))
        batch.join([cut])
        run(batch)
        assert cut.text == "".join(said) == whole.text[: whole.text.find(end)].rstrip()
        assert cut.finish_reason == STOP


def test_it_ends_where_somebody_asked() -> None:
    """The others go on."""
    model, renderer = build("default")
    model.eval()
    conf = GenerationConf(max_new_tokens=10, system_prompt=None)
    ended = reply(renderer, QUESTIONS[0], conf, stopped=lambda: len(ended.ids) >= 2)[0]
    other = reply(renderer, QUESTIONS[1], conf)[0]
    batch = ContinuousBatch(model, tuned=True)
    batch.join([ended, other])
    run(batch)
    assert (ended.finish_reason, len(ended.ids)) == (CANCELLED, 2)
    assert (other.finish_reason, len(other.ids)) == (LENGTH, 10)


@pytest.mark.gpu
def test_on_a_gpu_too_neighbours_change_nothing() -> None:
    """Drawn by chance as well: numbers are drawn where the scores are."""
    model, renderer = build("default")
    model.eval().to("cuda")
    conf = GenerationConf(max_new_tokens=16, do_sample=True, temperature=0.9, system_prompt=None)
    alone = []
    for question in QUESTIONS:
        one = reply(renderer, question, conf, seed=3)[0]
        batch = ContinuousBatch(model, tuned=True)
        batch.join([one])
        run(batch)
        alone.append(one.ids)
    batch, together = ContinuousBatch(model, tuned=True), [reply(renderer, q, conf, seed=3)[0] for q in QUESTIONS]
    for one in together:
        batch.join([one])
        batch.step()
    run(batch)
    assert [one.ids for one in together] == alone
    greedy = GenerationConf(max_new_tokens=16, system_prompt=None)
    expected = [generate(model, renderer, [ask(question)], greedy)[0].text for question in QUESTIONS]
    replies = [reply(renderer, question, greedy)[0] for question in QUESTIONS]
    batch.join(replies)
    run(batch)
    assert [one.text for one in replies] == expected
