"""A GGUF is the artifact: weights, tokens, template, and what it says of itself; what would be wrong is refused."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedTokenizerFast

from medllm.artifact import MANIFEST, load_artifact, sha256
from medllm.config.export import Format
from medllm.config.model import Dtype, TinyRandomModelConf
from medllm.conversation import Renderer
from medllm.errors import ExportError, ModelError
from medllm.export import gguf_file
from medllm.export.gguf_file import About, check_convertible, file_name, load_gguf, write_gguf
from medllm.export.vocabulary import PRE, as_llama_cpp, build_vocabulary
from medllm.export.write import export
from medllm.inference.generate import ask, generate
from medllm.inference.load import open_artifact
from medllm.models.base import build_tokenizer
from medllm.models.tiny import build_tiny_tokenizer
from tests.export.conftest import conf_of

FLOAT32 = TinyRandomModelConf(dtype=Dtype.float32)
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama of 3.1, untied, padded": {
        "model_type": "llama",
        "rope_parameters": LLAMA3_ROPE,
        "tie_word_embeddings": False,
        "vocab_size": 800,
    },
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
}


def whole_model(folder: Path, model_type: str, **changes: Any) -> Any:
    """A random model in float16's numbers with the tiny tokenizer; saved, and returned in float32."""
    from transformers import AutoConfig

    tokenizer = build_tiny_tokenizer()
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    }
    config = AutoConfig.for_model(model_type, **shape | changes)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # norms and biases are made of ones and zeros, which would hide that one is lost
            parameter.copy_((parameter + 0.1 * torch.randn_like(parameter)).half().float())
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")  # as older files are, with what is computed and what is tied
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"].clone())
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return model


@pytest.mark.parametrize("kind", MODELS)
def test_models_come_back_exactly(kind: str, tmp_path: Path) -> None:
    """Where weights are float16's numbers F16 has the model's logits: names, order of heads, positions, biases, padding."""
    model = whole_model(tmp_path / "whole", **MODELS[kind])
    check_convertible(model.config, build_tiny_tokenizer())
    file = tmp_path / "model.gguf"
    write_gguf(tmp_path / "whole", Renderer(build_tiny_tokenizer()), Format.gguf_f16, About("x", ""), file)
    again = load_gguf(file, tmp_path / "whole", FLOAT32, "cpu")
    ids = torch.randint(5, 700, (2, 200), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)


def test_positions_of_llama_3_1(tmp_path: Path) -> None:
    """llama.cpp divides each plain frequency by its factor; that must give transformers' scaled ones, from 1 to `factor`."""
    model = whole_model(tmp_path / "whole", **MODELS["llama of 3.1, untied, padded"])
    file = tmp_path / "model.gguf"
    write_gguf(tmp_path / "whole", Renderer(build_tiny_tokenizer()), Format.gguf_f16, About("x", ""), file)
    (factors,) = [tensor.data for tensor in gguf.GGUFReader(file).tensors if tensor.name == "rope_freqs.weight"]
    plain = 1 / 500000.0 ** (np.arange(0, 16, 2) / 16)
    np.testing.assert_allclose(plain / factors, model.model.rotary_emb.inv_freq.numpy(), rtol=1e-5)
    assert factors.dtype == np.float32 and factors[0] == 1 and np.isclose(factors[-1], 8)


@pytest.mark.parametrize("form", ["gguf_f16", "gguf_q8_0"])
def test_the_artifact_in_one_file(form: str, forms: dict[str, Any], tiny_run: Path) -> None:
    """Proven, described, and loaded again from the file alone it answers, with its own tokenizer and chat template."""
    place, proof = forms[form]
    (file,) = place.glob("*.gguf")
    assert {path.name for path in place.iterdir()} == {file.name, "Modelfile", "export.json"}
    assert proof.kl_mean < {"gguf_f16": 1e-7, "gguf_q8_0": 1e-4}[form]
    described = json.loads((place / "export.json").read_text())
    assert described["proof"]["kl_mean"] == proof.kl_mean
    assert described["from_manifest_sha256"] == sha256(tiny_run / "artifact" / MANIFEST)
    assert described["files"][file.name] == sha256(file)
    tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=file.name)
    quantization = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        place, gguf_file=file.name, quantization_config=quantization, dtype=torch.float32
    )
    conf = load_artifact(tiny_run / "artifact").conf
    renderer = Renderer(tokenizer, conf.generation.system_prompt)
    question = [ask("I have had a headache for 3 days.")]
    (answer,) = generate(model, renderer, question, conf.generation)
    opened = open_artifact(tiny_run / "artifact", use_cpu=True)
    assert renderer.render_prompt(question[0]) == opened.renderer.render_prompt(question[0])
    with opened.model(tuned=True) as tuned:
        assert answer == generate(tuned, opened.renderer, question, conf.generation)[0]


def test_types_as_llama_cpp_has_them(forms: dict[str, Any]) -> None:
    """Matrices, embeddings too, in the type that the name says; norms in float32."""
    for form, matrix in (("gguf_f16", "F16"), ("gguf_q8_0", "Q8_0")):
        (file,) = forms[form][0].glob("*.gguf")
        types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}
        assert set(types.values()) == {matrix, "F32"}
        assert {name for name, kind in types.items() if kind == "F32"} == {n for n in types if "norm" in n}
        assert types["token_embd.weight"] == matrix and "output.weight" not in types


def test_what_the_file_says(forms: dict[str, Any], tiny_run: Path) -> None:
    """Tokens by id with their types, merges, how text is cut, special tokens, the template; nothing is added to a prompt."""
    (file,) = forms["gguf_f16"][0].glob("*.gguf")
    fields = {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}
    tokenizer = build_tokenizer(load_artifact(tiny_run / "artifact").conf.model).tokenizer
    assert fields["tokenizer.ggml.tokens"] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    control = [i for i, kind in enumerate(fields["tokenizer.ggml.token_type"]) if kind == gguf.TokenType.CONTROL]
    assert control == tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    assert fields["tokenizer.ggml.merges"] == [" ".join(merge) for merge in merges]
    assert fields["tokenizer.ggml.pre"] == "gpt-2" and fields["tokenizer.chat_template"] == tokenizer.chat_template
    assert fields["tokenizer.ggml.eos_token_id"] == fields["tokenizer.ggml.eot_token_id"] == tokenizer.eos_token_id
    assert fields["tokenizer.ggml.add_bos_token"] is fields["tokenizer.ggml.add_eos_token"] is False
    assert fields["llama.context_length"] == 2048 and fields["general.type"] == "model"


def test_padding_is_no_token() -> None:
    """Rows beyond the tokenizer are unused tokens; a token beyond the rows is refused."""
    tokenizer = build_tiny_tokenizer()
    vocabulary = build_vocabulary(tokenizer, len(tokenizer) + 2)
    assert vocabulary.tokens[-1] == f"[PAD{len(tokenizer) + 1}]"
    assert vocabulary.types[-3:] == [gguf.TokenType.NORMAL, gguf.TokenType.UNUSED, gguf.TokenType.UNUSED]
    with pytest.raises(ModelError, match="beyond the model's 700 embeddings"):
        build_vocabulary(tokenizer, 700)


@pytest.mark.parametrize("pre", PRE)
def test_names_of_cuts(pre: str) -> None:
    """A tokenizer that cuts as llama.cpp does under a name gets that name, and the cut is taken up again from it."""
    tokenizer = as_llama_cpp(build_tiny_tokenizer(), pre)
    assert build_vocabulary(tokenizer, 768).pre == pre
    words = [word for word, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  123'S 4444")]
    assert (
        words
        == {
            "gpt-2": ["a", "Ġ", "Ġ123", "'", "S", "Ġ4444"],
            "smollm": ["a", "ĠĠ", "1", "2", "3", "'", "S", "Ġ", "4", "4", "4", "4"],
            "llama-bpe": ["a", "Ġ", "Ġ", "123", "'S", "Ġ", "444", "4"],
            "qwen2": ["a", "Ġ", "Ġ", "1", "2", "3", "'S", "Ġ", "4", "4", "4", "4"],
        }[pre]
    )


def changed(description: dict[str, Any]) -> Any:
    """The tiny tokenizer with other parts."""
    whole = json.loads(build_tiny_tokenizer().backend_tokenizer.to_str()) | description
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(whole)), eos_token="<|im_end|>")


def test_tokenizers_that_llama_cpp_would_read_otherwise() -> None:
    """Another cut, another normalizer, tokens that take the spaces around them, another kind of model: each is refused."""
    spaced = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    unknown = "llama.cpp's name for how the tokenizer cuts text"
    for description in ({"pre_tokenizer": spaced}, {"pre_tokenizer": None}, {"normalizer": {"type": "Lowercase"}}):
        with pytest.raises(ModelError, match=unknown):
            build_vocabulary(changed(description), 768)
    taking = build_tiny_tokenizer()
    taking.add_tokens([AddedToken("<br>", lstrip=True)])
    with pytest.raises(ModelError, match="takes the spaces around it"):
        build_vocabulary(taking, 769)
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?")))
    with pytest.raises(ModelError, match="no byte-level BPE but WordLevel"):
        build_vocabulary(words, 2)


def test_models_that_are_not_written() -> None:
    """Refused by their config, before anything is loaded, with the other way named."""
    tokenizer = build_tiny_tokenizer()
    rope = {"rope_type": "default", "rope_theta": 1e4}
    llama = {"model_type": "llama", "rope_parameters": rope, "hidden_act": "silu", "vocab_size": 768}
    check_convertible(SimpleNamespace(**llama), tokenizer)
    for change, told in (
        (
            {"model_type": "gemma3_text"},
            "type gemma3_text .*\n    allowed: llama, qwen2, qwen3\n    fix: formats=.merged",
        ),
        ({"rope_parameters": rope | {"rope_type": "yarn"}}, "llama model with rope_type=yarn"),
        ({"attention_bias": True, "hidden_act": "gelu"}, "with attention_bias, hidden_act=gelu"),
    ):
        with pytest.raises(ModelError, match=told):
            check_convertible(SimpleNamespace(**llama | change), tokenizer)


def test_nothing_is_left_of_a_wrong_file(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads in the wrong order are noticed by the proof, a weight beyond float16 by its number, other tokens by their ids."""
    conf = conf_of(tiny_run, "formats=[gguf_f16]", "tolerance=1e-6")
    with monkeypatch.context() as patch:
        patch.setattr(gguf_file, "_permuted", lambda name, weight, config: weight)
        with pytest.raises(ExportError, match=r"gguf_f16 is not the artifact: .* at most tolerance=1e-06"):
            export(conf, tiny_run / "artifact", tmp_path / "out")
    honest = gguf_file._permuted
    with monkeypatch.context() as patch:
        patch.setattr(gguf_file, "_permuted", lambda *of: honest(*of) * (1e6 if "down_proj" in of[0] else 1))
        with pytest.raises(ExportError, match=r"down_proj\.weight holds numbers beyond 65504"):
            export(conf, tiny_run / "artifact", tmp_path / "out")
    with monkeypatch.context() as patch:
        whole = build_vocabulary(build_tiny_tokenizer(), 768)
        patch.setattr(gguf_file, "build_vocabulary", lambda *of: replace(whole, merges=whole.merges[9:]))
        with pytest.raises(ExportError, match=r"gives .* other tokens"):
            export(conf, tiny_run / "artifact", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_names_of_files() -> None:
    """Plain, whatever the run is called."""
    assert file_name("Llama 3 my run/ü", Format.gguf_q8_0) == "Llama-3-my-run-q8_0.gguf"
    assert file_name("...", Format.gguf_f16) == "model-f16.gguf"


def test_a_whole_artifact_has_these_forms(forms: dict[str, Any], tmp_path: Path) -> None:
    """A merged model is an artifact itself and becomes the same file, but for its name in the record."""
    merged = forms["merged"][0]
    place, proof = export(conf_of(merged, "formats=[gguf_f16]"), merged, tmp_path / "out")["gguf_f16"]
    (file,), (first,) = place.glob("*.gguf"), forms["gguf_f16"][0].glob("*.gguf")
    assert file.read_bytes() == first.read_bytes() and proof is not None
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"gguf_f16"}
