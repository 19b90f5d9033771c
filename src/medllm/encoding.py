"""Text to ids, word by word: a word that was tokenized once is looked up from then on.

Most tokenizers of today cut text in front of a word that follows one space before they merge anything, so that the ids of a
text are the ids of its words, one after another. Where a tokenizer does not, as the SentencePiece family, texts are
tokenized whole.
"""

import json
import re
from array import array
from typing import Any

# Splits of which no alternative reaches across a single space between two other characters: GPT-4's as Llama 3 uses it, Qwen's.
LLAMA3_PATTERN, QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
SAFE_PATTERNS = {LLAMA3_PATTERN, QWEN2_PATTERN}
SINGLE_SPACE = re.compile(r"(?<=\S) (?=\S)")
# Words kept at most, in each of two tables; some 100 MiB.
MOST_WORDS = 400_000


class Encoder:
    """Ids of a text, exactly those of `tokenizer(text, add_special_tokens=False)`.

    Attributes:
        by_word: Whether texts are cut into words; decided by the tokenizer's own description.
        folds: Whether it reads other spellings (full-width, upper case) as one of its added tokens.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer.backend_tokenizer
        description = json.loads(self._tokenizer.to_str())
        self.by_word = splits_at_spaces(description)
        self.folds = folds_spellings(description)
        self._added = {token.content: _packed([i]) for i, token in tokenizer.added_tokens_decoder.items()}
        longest_first = sorted(map(re.escape, self._added), key=len, reverse=True)
        self._cut = re.compile(f"({'|'.join(longest_first) or '(?!)'})")
        self._only = _Words(self, "")
        # White space at either end of a text has nothing beside it to be merged with, so the ends have tables of their own.
        self._first = _Words(self, "", right=True)
        self._middle = _Words(self, " ", left=True, right=True)
        self._last = _Words(self, " ", left=True)

    def __call__(self, text: str, before: str = "") -> list[int]:
        """The ids, without any the tokenizer would add, of a text that follows another one.

        It is tokenized by itself, so that it has the same ids whatever follows; but not as if it began a text, for some
        tokenizers put a space in front of that.
        """
        if not self.by_word:
            return self._after(before, text)
        # Ids travel packed, four bytes each: joining bytes is several times faster than adding lists.
        pieces = self._cut.split(text)  # added tokens are cut out before anything else is done
        return (
            memoryview(b"".join([self._added.get(piece) or self._words(piece) for piece in pieces])).cast("i").tolist()
        )

    def _after(self, before: str, text: str) -> list[int]:
        starts = [match.start() for match in self._cut.finditer(before)]
        tail = before[starts[-1] :] if starts else ""
        read = self._tokenizer.encode(tail + text, add_special_tokens=False)
        pairs = list(zip(read.ids, read.offsets, strict=True))
        if any(start < len(tail) < end for _, (start, end) in pairs):  # a token across the border
            return self.whole(text)
        return [token_id for token_id, (start, _) in pairs if start >= len(tail)]

    def _words(self, text: str) -> bytes:
        try:
            return self._look_up(text.split(" "))
        except _NotAWordError:  # a run of several spaces somewhere: the slower cut leaves it inside a word
            return self._look_up(SINGLE_SPACE.split(text))

    def _look_up(self, words: list[str]) -> bytes:
        if len(words) == 1:
            return self._only[words[0]] if words[0] else b""
        middle = b"".join(map(self._middle.__getitem__, words[1:-1]))
        return self._first[words[0]] + middle + self._last[words[-1]]

    def whole(self, text: str) -> list[int]:
        """The ids of a text or word, from the tokenizer."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


class _NotAWordError(Exception):
    """A piece of text that touches white space where it was cut."""


class _Words(dict[str, bytes]):
    """Ids by word. A word never stored, because of white space at its `left` or `right`, keeps its text out of the table."""

    def __init__(self, encoder: Encoder, before: str, *, left: bool = False, right: bool = False):
        super().__init__()
        self.encoder = encoder
        self.before = before
        self.left, self.right = left, right

    def __missing__(self, word: str) -> bytes:
        if not word or (self.left and word[0].isspace()) or (self.right and word[-1].isspace()):
            raise _NotAWordError
        if len(self) >= MOST_WORDS:
            self.clear()
        self[word] = ids = _packed(self.encoder.whole(self.before + word))
        return ids


def _packed(ids: list[int]) -> bytes:
    return array("i", ids).tobytes()


def splits_at_spaces(tokenizer: dict[str, Any]) -> bool:
    """Whether a tokenizer, described as in `tokenizer.json`, always cuts in front of a word that follows a single space."""
    if (tokenizer["normalizer"] or {"type": "NFC"})["type"] != "NFC":
        return False
    for token in tokenizer["added_tokens"]:
        reaches_out = token["lstrip"] or token["rstrip"] or token["single_word"]
        if reaches_out or (token["normalized"] and tokenizer["normalizer"]) or any(map(str.isspace, token["content"])):
            return False
    model = tokenizer["model"]
    if model["type"] != "BPE" or model["dropout"] or model["continuing_subword_prefix"] or model["end_of_word_suffix"]:
        return False
    steps = tokenizer["pre_tokenizer"] or {"type": ""}
    steps = steps.get("pretokenizers", [steps])
    if any(step["type"] not in ("ByteLevel", "Digits", "Split") or step.get("add_prefix_space") for step in steps):
        return False
    return any(_cuts(step) for step in steps)


def folds_spellings(tokenizer: dict[str, Any]) -> bool:
    """Whether a tokenizer, described as in `tokenizer.json`, may read a token's content in text that does not hold it."""
    if tokenizer["normalizer"] is None:
        return False
    plain = tokenizer["normalizer"]["type"] == "NFC" and tokenizer["model"]["type"] == "BPE"
    return not plain or any(token["normalized"] for token in tokenizer["added_tokens"])


def _cuts(step: dict[str, Any]) -> bool:
    if step["type"] == "Split":
        isolated = step["behavior"] == "Isolated" and not step["invert"]
        return isolated and step["pattern"].get("Regex") in SAFE_PATTERNS
    return step["type"] == "ByteLevel" and bool(step["use_regex"])
