"""A Modelfile says in Ollama's language what the artifact's own chat template and generation defaults say."""

import re
from pathlib import Path
from typing import Any

import pytest
from transformers.generation import GenerationConfig

from medllm.config.generation import GenerationConf
from medllm.conversation import CHATML_TEMPLATE, Renderer
from medllm.export.ollama import TOP_K, chat_shape, modelfile, quoted
from medllm.licences import UNKNOWN, base_licence
from medllm.models.tiny import build_tiny_tokenizer

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a "
    "helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + "
    "'\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set "
    "content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
TEMPLATES = {"chatml": CHATML_TEMPLATE, "smollm2": SMOLLM2, "llama 3": LLAMA3}
CONVERSATIONS = [
    [("user", "I cough.")],
    [
        ("system", "Be brief."),
        ("user", "I cough."),
        ("assistant", "Since when?"),
        ("user", "A week\n\nor so {{ .Role }}."),
    ],
    [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")],
]


def tokenizer_with(template: str) -> Any:
    """The tiny tokenizer with another chat template."""
    tokenizer = build_tiny_tokenizer()
    tokenizer.add_tokens(["<|eot_id|>"], special_tokens=True)
    tokenizer.chat_template = template
    return tokenizer


def read(text: str) -> dict[str, list[str]]:
    """What Ollama's parser (parser/parser.go) reads of a Modelfile: values by command, those of parameters by name."""
    found: dict[str, list[str]] = {}
    rest = re.sub(r"^#.*\n", "", text, flags=re.M)
    command = re.compile(r'(?:PARAMETER )?(\w+) (?:"""(.*?)"""|"(.*?)"|(\S+))\n', re.S)
    while rest:
        match = command.match(rest)
        assert match, rest
        found.setdefault(match[1], []).append(next(v for v in match.groups()[1:] if v is not None))
        rest = rest[match.end() :]
    return found


def in_go(template: str, messages: list[dict[str, str]]) -> str:
    """What Go's text/template makes of the few actions that a Modelfile here has."""
    pieces = re.split(r"\{\{ (.*?) \}\}", template)
    tree, stack = [], []
    here: list[Any] = tree
    for i, piece in enumerate(pieces):
        if i % 2 == 0:
            here.append(piece)
        elif piece.startswith(("if ", "range ")):
            stack.append(here)
            node = [(piece, [])]
            here.append(node)
            here = node[-1][1]
        elif piece.startswith("else if "):
            stack[-1][-1].append((piece.removeprefix("else "), []))
            here = stack[-1][-1][-1][1]
        elif piece == "end":
            here = stack.pop()
        else:
            assert piece == ".Content"
            here.append(None)
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")

    def run(nodes: list[Any], dot: dict[str, str]) -> str:
        return "".join(
            node if isinstance(node, str) else dot["content"] if node is None else branch(node, dot) for node in nodes
        )

    def branch(node: list[Any], dot: dict[str, str]) -> str:
        for condition, body in node:
            if condition == "range .Messages":
                return "".join(run(body, message) for message in messages)
            if condition == "if not .System" and not system:
                return run(body, dot)
            if (role := re.fullmatch(r'if eq \.Role "(\w+)"', condition)) and dot["role"] == role[1]:
                return run(body, dot)
        return ""

    assert not stack
    return run(tree, {})


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_same_text_both_ways(name: str) -> None:
    """What Go makes of the Modelfile's TEMPLATE is what Jinja makes of the artifact's, beginning of text included."""
    tokenizer = tokenizer_with(TEMPLATES[name])
    text = modelfile("a.gguf", Renderer(tokenizer), GenerationConf(system_prompt=None), 2048, UNKNOWN, "")
    (template,) = read(text)["TEMPLATE"]
    for turns in CONVERSATIONS:
        messages = [{"role": role, "content": content} for role, content in turns]
        wanted = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert in_go(template, messages) == wanted


def test_a_template_that_does_more_is_left_out() -> None:
    """One that refuses roles, looks into texts, counts turns, or writes Go's braces: no TEMPLATE, and a line that says so."""
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + CHATML_TEMPLATE
    looking = CHATML_TEMPLATE.replace("message['content']", "message['content'].split('\n\n')[0]")
    counting = CHATML_TEMPLATE.replace("'<|im_start|>' +", "'<|im_start|>' + loop.index|string +")
    braces = CHATML_TEMPLATE.replace("'<|im_start|>' +", "'<|im_start|>{' + '{' +")
    for template in (refusing, looking, counting, braces):
        assert chat_shape(tokenizer_with(template)) is None
    renderer = Renderer(tokenizer_with(looking))
    text = modelfile("a.gguf", renderer, GenerationConf(system_prompt=None), 2048, UNKNOWN, "")
    assert "TEMPLATE" not in read(text) and "# No TEMPLATE: " in text


def test_defaults_of_the_artifact() -> None:
    """Greedy or drawn, penalty over the whole conversation, length, stops, system prompt, context, licence, notice."""
    renderer = Renderer(build_tiny_tokenizer())
    conf = GenerationConf(system_prompt='Say "no"\nwhen unsure. ', max_new_tokens=99, repetition_penalty=1.2)
    licence = base_licence("meta-llama/Meta-Llama-3-8B-Instruct")
    text = modelfile("x-q8_0.gguf", renderer, conf, 131072, licence, "UNREVIEWED: no review.")
    found = read(text)
    assert found["FROM"] == ["./x-q8_0.gguf"] and found["SYSTEM"] == ['Say "no"\nwhen unsure.']
    assert (found["temperature"], found["repeat_penalty"], found["repeat_last_n"]) == (["0"], ["1.2"], ["-1"])
    assert (found["num_predict"], found["num_ctx"], found["stop"]) == (["99"], ["8192"], ["<|im_end|>"])
    assert "Built with Meta Llama 3" in found["LICENSE"][0] and text.startswith("# UNREVIEWED: no review. ")
    drawn = modelfile("a.gguf", renderer, GenerationConf(do_sample=True, system_prompt=None), 512, UNKNOWN, "")
    found = read(drawn)
    assert (found["temperature"], found["top_p"], found["top_k"]) == (["0.7"], ["0.9"], [str(TOP_K)])
    assert found["num_ctx"] == ["512"] and "SYSTEM" not in found and "LICENSE" not in found
    assert GenerationConfig()._get_default_generation_params()["top_k"] == TOP_K


def test_what_a_modelfile_cannot_hold() -> None:
    """Three quotes would end a text, and Ollama's parser drops what is not printable: such a text is left out."""
    assert quoted('a "b"\n\tc') == '"""a "b"\n\tc"""'
    for text in ('a """ b', "a\u00a0b", "a\x07", "a\rb"):
        assert quoted(text) is None
    renderer = Renderer(build_tiny_tokenizer())
    text = modelfile("a.gguf", renderer, GenerationConf(system_prompt='"""'), 512, UNKNOWN, "")
    assert "SYSTEM" not in read(text) and "# No SYSTEM: " in text


def test_beside_the_file(forms: dict[str, Any]) -> None:
    """A whole Modelfile that names the GGUF beside it, the run's system prompt, and that nobody has reviewed the model."""
    place: Path = forms["gguf_q8_0"][0]
    text = (place / "Modelfile").read_text()
    found = read(text)
    assert (place / found["FROM"][0]).is_file() and found["SYSTEM"] == ["You are a careful doctor."]
    assert "TEMPLATE" in found and text.startswith("# UNREVIEWED: ")
