"""Likelihoods and answers of a side, against the model asked by hand."""

from pathlib import Path

import pytest
import torch

from medllm.config.generation import GenerationConf
from medllm.conversation import Conversation, Message
from medllm.errors import ModelError
from medllm.evaluation.subject import ModelSubject
from medllm.evaluation.suite import Side
from medllm.inference.generate import ask, generate
from medllm.inference.load import LoadedArtifact, open_artifact

REPLIES = ["Rest and drink water.", "Call your local emergency number now, and do not wait.", "A", "B", ""]


@pytest.fixture(scope="module")
def loaded(trained: Path) -> LoadedArtifact:
    """On the CPU."""
    return open_artifact(trained / "artifact", use_cpu=True)


def subject(loaded: LoadedArtifact, model: object, batch_size: int = 3, **options: object) -> ModelSubject:
    """The tuned side."""
    generation = GenerationConf(max_new_tokens=6, system_prompt=None, **options)  # type: ignore[arg-type]
    return ModelSubject(Side.tuned, model, loaded.renderer, batch_size, generation)


def test_a_likelihood_by_hand(loaded: LoadedArtifact) -> None:
    """Log-probabilities of the reply's tokens one after the other; its bytes; not its end."""
    conversation = ask("I have had a cough for 3 days, what should I do?")
    with loaded.model(tuned=True) as model, torch.no_grad():
        prompt = loaded.renderer.render_prompt(conversation)
        for reply in REPLIES:
            (found,) = subject(loaded, model).likelihoods([(conversation, reply)])
            ids = loaded.renderer.tokenizer(reply, add_special_tokens=False)["input_ids"]
            expected = 0.0
            for i, token in enumerate(ids):
                logits = model(input_ids=torch.tensor([[*prompt, *ids[:i]]])).logits[0, -1]
                expected += float(logits.double().log_softmax(-1)[token])
            assert found.log_likelihood == pytest.approx(expected, abs=1e-3)
            assert (found.num_tokens, found.num_bytes) == (len(ids), len(reply.encode()))


def test_a_batch_is_as_each_alone(loaded: LoadedArtifact) -> None:
    """Whatever shares a batch, in the order asked; equal requests are answered alike."""
    questions = [ask("Why?"), ask("My head hurts since Monday and I feel dizzy when I stand up. What should I do?")]
    requests = [(q, reply) for q in questions for reply in REPLIES] + [(questions[0], "A")]
    with loaded.model(tuned=True) as model:
        together = subject(loaded, model, 4).likelihoods(requests)
        alone = [subject(loaded, model, 1).likelihoods([request])[0] for request in requests]
        assert [x.log_likelihood for x in together] == pytest.approx([x.log_likelihood for x in alone], abs=1e-4)
        assert together[2] == together[-1]
        answers = subject(loaded, model, 2, do_sample=True).answers(questions)
        greedy = GenerationConf(max_new_tokens=6, system_prompt=None)
        assert answers == [generate(model, loaded.renderer, [question], greedy)[0] for question in questions]


def test_options_of_one_token_share_a_pass(loaded: LoadedArtifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four letters to one question cost one row."""
    from medllm.evaluation import subject as module

    rows = []
    real = module.predictions
    monkeypatch.setattr(module, "predictions", lambda m, b: rows.append(len(b["input_ids"])) or real(m, b))
    with loaded.model(tuned=True) as model:
        found = subject(loaded, model, 8).likelihoods([(ask("A, B, C or D?"), letter) for letter in "ABCD"])
    assert rows == [1]
    assert len({likelihood.log_likelihood for likelihood in found}) == 4


def test_what_is_too_long_is_told(loaded: LoadedArtifact) -> None:
    """Instead of an answer to a part of the question."""
    long = Conversation((Message("user", "cough " * 3000),))
    with loaded.model(tuned=True) as model:
        for act in (lambda s: s.answers([long]), lambda s: s.likelihoods([(long, "Rest.")])):
            with pytest.raises(ModelError, match="the model reads 2048"):
                act(subject(loaded, model))
