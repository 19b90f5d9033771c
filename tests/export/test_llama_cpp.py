"""llama.cpp itself reads a GGUF as the artifact; where it is not installed these are skipped (`pip install llama-cpp-python`)."""

from typing import Any

import numpy as np
import pytest
import torch

from medllm.conversation import Conversation, Message
from medllm.inference.load import open_artifact
from tests.export.test_gguf import MODELS, whole_model

llama_cpp = pytest.importorskip("llama_cpp", reason="llama.cpp is not installed")
pytestmark = pytest.mark.slow

TURNS = ("I have had  a cough for 12 days… été 😷", "Since when?", "Since 3.5 weeks.\n\n\n1. fever?")


def opened(file: Any) -> Any:
    """llama.cpp's model, one thread."""
    return llama_cpp.Llama(str(file), n_ctx=512, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False)


@pytest.mark.parametrize("form", ["gguf_f16", "gguf_q8_0"])
def test_it_reads_and_answers_as_the_artifact(form: str, forms: dict[str, Any]) -> None:
    """Ids of a conversation by the template and tokenizer in the file, expectations, and greedy words."""
    (file,) = forms[form][0].glob("*.gguf")
    llama, merged = opened(file), open_artifact(forms["merged"][0], use_cpu=True)
    roles = ("user", "assistant", "user")
    conversation = Conversation(tuple(Message(r, t) for r, t in zip(roles, TURNS, strict=True)))
    ids = merged.renderer.render_prompt(conversation)
    messages = merged.renderer.template_messages(conversation)
    text = merged.renderer.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert llama.tokenize(text.encode(), add_bos=True, special=True) == ids
    llama.eval(ids)
    found = torch.from_numpy(np.array(llama.scores[: len(ids)])).log_softmax(-1)
    with torch.no_grad(), merged.model(tuned=True) as model:
        wanted = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        said = model.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False, repetition_penalty=1.0)
    assert (wanted.exp() * (wanted - found)).sum(-1).max() < {"gguf_f16": 1e-5, "gguf_q8_0": 1e-3}[form]
    chat = llama.create_chat_completion(messages, temperature=0.0, repeat_penalty=1.0, max_tokens=6)
    assert chat["usage"]["prompt_tokens"] == len(ids)
    words = merged.renderer.tokenizer.decode(said[0, len(ids) :], skip_special_tokens=True)
    assert chat["choices"][0]["message"]["content"].strip() == words.strip()


@pytest.mark.parametrize("kind", MODELS)
def test_it_computes_every_kind(kind: str, tmp_path: Any) -> None:
    """Logits of each architecture, positions of Llama 3.1 and padded vocabularies included."""
    from medllm.config.export import Format
    from medllm.conversation import Renderer
    from medllm.export.gguf_file import About, write_gguf
    from medllm.models.tiny import build_tiny_tokenizer

    model = whole_model(tmp_path / "whole", **MODELS[kind])
    write_gguf(
        tmp_path / "whole", Renderer(build_tiny_tokenizer()), Format.gguf_f16, About("x", ""), tmp_path / "x.gguf"
    )
    llama = opened(tmp_path / "x.gguf")
    ids = torch.randint(5, 700, (200,), generator=torch.Generator().manual_seed(1)).tolist()
    llama.eval(ids)
    found = torch.from_numpy(np.array(llama.scores[: len(ids)]))
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits[0]
    assert (wanted - found).abs().max() < 0.01 * wanted.abs().max()
