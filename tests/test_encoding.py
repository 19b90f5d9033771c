"""Word by word gives the ids of the whole."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from medllm.encoding import SAFE_PATTERNS, Encoder, folds_spellings, splits_at_spaces

TEXT = [
    "the doctor said the pain is the cause of the pain in the chest",
    "don't take 120 mg, or 1200 mg; it's 37.5 °C\n\n",
]
LLAMA, QWEN = sorted(SAFE_PATTERNS, key=lambda pattern: "{1,3}" not in pattern)


def trained(pre_tokenizer: Any, normalizer: Any = None, end: Any = "<|end|>") -> PreTrainedTokenizerFast:
    """A small byte-level BPE whose merges matter."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXT * 9, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    tokenizer.add_special_tokens([end])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def split(pattern: str) -> Any:
    """As Llama 3 and Qwen cut text."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])


FAMILIES = {
    "gpt2": trained(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "llama3": trained(split(LLAMA)),
    "qwen": trained(split(QWEN), normalizers.NFC()),
    "digits": trained(
        pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    ),
}
PIECES = [
    "the",
    "pain",
    " ",
    "  ",
    "\n",
    " \n",
    "\t",
    "1",
    "120",
    "'s",
    "e\u0301",
    "\u0301",
    "\xa0",
    "\u200b",
    "<|end|>",
    "<|end",
]
PIECES += ["\x1c", "\x85", "…", " ?", "_", ".", "中", "😷", "I'LL"]
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map("".join)


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=300, deadline=None)
@given(text=texts)
def test_word_by_word_equals_the_whole(name: str, text: str) -> None:
    """On arbitrary text: spaces of all kinds, digits, marks that combine, special tokens whole and in part."""
    encoder = Encoder(FAMILIES[name])
    assert encoder.by_word
    assert encoder(text) == FAMILIES[name](text, add_special_tokens=False)["input_ids"] == encoder(text)


def described(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """As `tokenizer.json` has it."""
    return json.loads(tokenizer.backend_tokenizer.to_str())


@pytest.mark.parametrize(
    "tokenizer",
    [
        trained(pre_tokenizers.Metaspace()),
        trained(pre_tokenizers.ByteLevel(add_prefix_space=True)),
        trained(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.Lowercase()),
        trained(split(r"[^ ]+ ?")),
        trained(pre_tokenizers.ByteLevel(add_prefix_space=False), end=AddedToken("<|end|>", rstrip=True, special=True)),
    ],
    ids=["metaspace", "prefix space", "lower case", "unknown pattern", "token that takes the space behind it"],
)
def test_other_tokenizers_get_whole_texts(tokenizer: PreTrainedTokenizerFast) -> None:
    """Where words depend on their neighbours, or nobody has shown that they don't."""
    encoder = Encoder(tokenizer)
    assert not encoder.by_word
    text = "The pain <|end|> is here"
    assert encoder(text) == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_text_after_another_is_not_a_beginning() -> None:
    """Metaspace puts a space in front of a text, not in front of what follows one."""
    tokenizer = trained(pre_tokenizers.Metaspace(prepend_scheme="first"))
    encoder = Encoder(tokenizer)
    whole = tokenizer("<|end|>the pain", add_special_tokens=False)["input_ids"]
    assert encoder("<|end|>") + encoder("the pain", "<|end|>") == whole


def test_who_reads_other_spellings() -> None:
    """Nobody without a normalizer, nor one that only composes letters; who lowers letters does."""
    assert not folds_spellings(described(FAMILIES["llama3"]))
    assert not folds_spellings(described(FAMILIES["qwen"]))
    assert folds_spellings(described(trained(pre_tokenizers.ByteLevel(), normalizers.Lowercase())))
    assert splits_at_spaces(described(FAMILIES["qwen"]))
