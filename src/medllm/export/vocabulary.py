"""A tokenizer as llama.cpp describes it: tokens with their types, merges, and the name of how text is cut into words.

llama.cpp knows ways of cutting by name (`tokenizer.ggml.pre`) and has their expressions in its code. Its own converter finds the
name by the ids that a tokenizer gives to one text; here it is the tokenizer's description that must be the one behind the name
(llama.cpp, src/llama-vocab.cpp), so that a tokenizer that was changed is not taken for the one it comes from.
"""

import json
from dataclasses import dataclass
from typing import Any

from gguf import TokenType

from medllm.encoding import LLAMA3_PATTERN, QWEN2_PATTERN
from medllm.errors import ModelError


@dataclass(frozen=True)
class Pre:
    """What llama.cpp does under one name.

    Attributes:
        steps: Of the pre-tokenizer, as `tokenizer.json` describes them.
        ignore_merges: Whether a word that is a token is taken whole, whatever the merges say.
    """

    steps: tuple[dict[str, Any], ...]
    ignore_merges: bool = False


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF holds of a byte-level BPE tokenizer.

    Attributes:
        pre: llama.cpp's name of how text is cut into words.
        tokens: By id, in the byte alphabet of GPT-2; special ones as they are written.
        types: Of each.
        merges: Both parts of each with a space between, the first merged first.
    """

    pre: str
    tokens: list[str]
    types: list[TokenType]
    merges: list[str]


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


PRE = {
    "gpt-2": Pre((_byte_level(True),)),
    "smollm": Pre(({"type": "Digits", "individual_digits": True}, _byte_level(True))),
    "llama-bpe": Pre((_split(LLAMA3_PATTERN), _byte_level(False)), ignore_merges=True),
    "qwen2": Pre((_split(QWEN2_PATTERN), _byte_level(False))),
}
OTHER_WAY = "    fix: formats=[merged], and llama.cpp's convert_hf_to_gguf.py on its folder"


def build_vocabulary(tokenizer: Any, size: int) -> Vocabulary:
    """A tokenizer's vocabulary.

    Args:
        tokenizer: A fast one.
        size: Rows of the embeddings; what is beyond the tokenizer's last token is padding.

    Raises:
        ModelError: if llama.cpp would not read text as this tokenizer does, or that is not known here.
    """
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    pre = _name(description)
    added = tokenizer.added_tokens_decoder
    reaching = [token.content for token in added.values() if token.lstrip or token.rstrip or token.single_word]
    if reaching:
        raise ModelError(
            f"GGUF cannot say that {reaching[0]!r} takes the spaces around it, or whole words only\n{OTHER_WAY}"
        )
    texts = {token_id: text for text, token_id in tokenizer.get_vocab().items()}
    if max(texts) >= size:
        raise ModelError(f"the tokenizer's token {max(texts)} is beyond the model's {size} embeddings")
    types = [
        TokenType.UNUSED
        if token_id not in texts
        else TokenType.NORMAL
        if token_id not in added
        else TokenType.CONTROL
        if added[token_id].special
        else TokenType.USER_DEFINED
        for token_id in range(size)
    ]
    tokens = [texts.get(token_id, f"[PAD{token_id}]") for token_id in range(size)]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in description["model"]["merges"]]
    return Vocabulary(pre, tokens, types, merges)


def as_llama_cpp(tokenizer: Any, pre: str) -> Any:
    """Lets a tokenizer that transformers read from a GGUF cut text as llama.cpp does, for transformers knows fewer names."""
    from tokenizers import Tokenizer

    backend = tokenizer.backend_tokenizer
    description = json.loads(backend.to_str())
    description["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": list(PRE[pre].steps)}
    described = Tokenizer.from_str(json.dumps(description))
    backend.pre_tokenizer = described.pre_tokenizer
    backend.model.ignore_merges = PRE[pre].ignore_merges
    return tokenizer


def _name(description: dict[str, Any]) -> str:
    """llama.cpp's name of what `tokenizer.json` describes. It never normalizes, as its converter knows for NFC too."""
    model, normalizer = description["model"], description["normalizer"]
    if model["type"] != "BPE" or model.get("byte_fallback") or model.get("dropout"):
        raise ModelError(
            f"the tokenizer is no byte-level BPE but {model['type']}, which is not written as GGUF here\n{OTHER_WAY}"
        )
    steps = description["pre_tokenizer"] or {"type": "none"}
    found = Pre(tuple(steps.get("pretokenizers", [steps])), bool(model.get("ignore_merges")))
    affixes = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    name = next((name for name, pre in PRE.items() if _plain(pre) == _plain(found)), None)
    if name is None or affixes or (normalizer or {"type": "NFC"})["type"] != "NFC":
        raise ModelError(
            "llama.cpp's name for how the tokenizer cuts text into words is not known here\n"
            f"    allowed: what {', '.join(PRE)} stand for\n{OTHER_WAY}"
        )
    return name


def _plain(pre: Pre) -> Pre:
    """Without what changes no ids."""
    steps = tuple({key: value for key, value in step.items() if key != "trim_offsets"} for step in pre.steps)
    return Pre(steps, pre.ignore_merges)
