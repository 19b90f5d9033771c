"""What can be counted in an answer without knowing medicine. Every count is a pair: how much, of how much."""

import re
from collections import Counter
from functools import cache
from typing import Any

WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")
VOWELS = re.compile(r"[aeiouy]+")

Pair = tuple[float, float]


def words(text: str) -> list[str]:
    """Lower-case words."""
    return [word.lower() for word in WORD.findall(text)]


def sentences(text: str) -> list[str]:
    """Parts that end in `.`, `!`, `?` or a line's end and hold a word; a point inside a number ends nothing."""
    guarded = re.sub(r"(?<=\d)\.(?=\d)", "\u2024", text)  # a one-dot leader, put back below
    return [part.replace("\u2024", ".").strip() for part in SENTENCE.findall(guarded) if WORD.search(part)]


def syllables(word: str) -> int:
    """Groups of vowels, less a silent e at the end; at least one."""
    word = word.lower()
    count = len(VOWELS.findall(word))
    if word.endswith("e") and not word.endswith(("le", "ee", "ye")):
        count -= 1
    return max(count, 1)


def reading_grade(text: str) -> float | None:
    """Years of school that a text asks for: Flesch-Kincaid (Kincaid et al. 1975, Naval Technical Training Command 8-75).

    None of a text without words.
    """
    found, parts = words(text), sentences(text)
    if not found or not parts:
        return None
    return 0.39 * len(found) / len(parts) + 11.8 * sum(map(syllables, found)) / len(found) - 15.59


def repeated(text: str, size: int = 4) -> Pair:
    """n-grams that have stood before in the same text, of all its n-grams."""
    found = _ngrams(words(text), size)
    return sum(found.values()) - len(found), sum(found.values())


def distinct(text: str, size: int = 2) -> Pair:
    """Different n-grams, of all (Li et al. 2016, arXiv 1510.03055)."""
    found = _ngrams(words(text), size)
    return len(found), sum(found.values())


def _ngrams(found: list[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(found[i:] for i in range(size)), strict=False))


def rouge_l(answer: str, reference: str) -> float:
    """F-measure of the longest common subsequence of words, stemmed, in [0, 1] (Lin 2004; `rouge-score`)."""
    return float(_scorer().score(reference, answer)["rougeL"].fmeasure)


@cache
def _scorer() -> Any:
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)


def chrf(answer: str, reference: str) -> float:
    """F-measure of character n-grams, in [0, 1] (Popović 2015; `sacrebleu`)."""
    from sacrebleu import sentence_chrf

    return float(sentence_chrf(answer, [reference]).score) / 100
