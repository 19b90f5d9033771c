"""Copies and near copies: found as brute force finds them, and never on both sides of the split."""

import random
from collections import defaultdict
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medllm.config.data import DataConf
from medllm.config.preparation import DeduplicationConf, DuplicateKey
from medllm.conversation import Conversation, Message
from medllm.data.pipeline import load_conversations
from medllm.data.preparation.deduplication import (
    Clusters,
    compared_text,
    exact_key,
    jaccard,
    rows_per_band,
    shingles,
    signatures,
    similar_pairs,
)
from medllm.data.preparation.prepare import prepare
from medllm.data.splitting import split
from tests.data.files import SHARED, needs_shared, plain, write_csv


def runs(text: str) -> set[tuple[str, ...]]:
    """Three-word runs, written down once more, so that nothing below rests on the code it tests."""
    found = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return set(zip(found, found[1:], found[2:], strict=False)) or {tuple(found)}


def similarity(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    """Jaccard's."""
    return len(a & b) / len(a | b)


def near_copies(count: int, seed: int) -> list[str]:
    """Families of texts of 12 to 120 words, each made from its first by changing, adding and removing words."""
    rng = random.Random(seed)
    vocabulary = [f"w{i}" for i in range(300)]
    texts: list[str] = []
    while len(texts) < count:
        first = rng.choices(vocabulary, k=rng.randint(12, 120))
        texts.append(" ".join(first))
        for _ in range(rng.randint(0, 4)):
            copy, rate = list(first), rng.choice((0.005, 0.02, 0.05, 0.1, 0.2))
            for i in range(len(copy)):
                if rng.random() < rate:
                    copy[i] = rng.choice([rng.choice(vocabulary), "", f"{copy[i]} x"])
            texts.append(" ".join(copy))
    rng.shuffle(texts)
    return texts


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """1,000 texts with near copies of every degree."""
    return near_copies(1000, 65)


@pytest.fixture(scope="module")
def brute_force(texts: list[str]) -> dict[tuple[int, int], float]:
    """The similarity of every pair that shares anything."""
    holders, shared = defaultdict(list), defaultdict(int)
    sets = [runs(text) for text in texts]
    for i, found in enumerate(sets):
        for run in found:
            holders[run].append(i)
    for rows in holders.values():
        for pair in combinations(rows, 2):
            shared[pair] += 1
    return {(a, b): similarity(sets[a], sets[b]) for a, b in shared}


@pytest.mark.parametrize("threshold", [0.3, 0.45, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_all_that_is_similar_is_connected(
    threshold: float, texts: list[str], brute_force: dict[tuple[int, int], float]
) -> None:
    """At least 98 % of the pairs of brute force end in one cluster; every pair given is similar indeed."""
    clusters = Clusters(len(texts))
    for a, b, value in similar_pairs(signatures(texts), texts.__getitem__, threshold):
        assert a < b
        assert value == pytest.approx(brute_force[a, b])
        assert value >= threshold
        clusters.join(a, b)
    wanted = [pair for pair, value in brute_force.items() if value >= threshold]
    connected = sum(clusters.first(a) == clusters.first(b) for a, b in wanted)
    assert len(wanted) >= 30
    assert connected >= 0.98 * len(wanted)


def test_many_copies_cost_few_comparisons() -> None:
    """A text that occurs 2,000 times is compared with its first occurrence, not with all others."""
    texts = ["the same question about the same pain " * 3] * 2000
    asked = []
    found = list(similar_pairs(signatures(texts), lambda i: asked.append(i) or texts[i], 0.8))
    assert len(found) == len(asked) - 1 == 1999


def test_nothing_and_one_text_have_no_pairs() -> None:
    """The smallest inputs are inputs."""
    for few in ([], ["a b c d"]):
        assert list(similar_pairs(signatures(few), few.__getitem__, 0.5)) == []


@given(st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40))
def test_clusters_are_connected_components(joins: list[tuple[int, int]]) -> None:
    """Whatever the order of joins; a cluster is named after its first row."""
    clusters = Clusters(30)
    reached = [{i} for i in range(30)]
    for a, b in joins:
        clusters.join(a, b)
        whole = reached[a] | reached[b]
        for i in whole:
            reached[i] = whole
    assert clusters.labels().tolist() == [min(component) for component in reached]


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("I have pain.", "i  HAVE\npain!", True),
        ("head-ache", "headache", True),
        ("Fieber seit gestern, _Ärztin_", "fieber SEIT gestern ärztin", True),
        ("2 days", "3 days", False),
        ("pain in chest", "chest in pain", False),
        ("痛い", "熱い", False),
    ],
)
def test_exact_keys(a: str, b: str, equal: bool) -> None:
    """Equal for equal letters and digits in a row, spaces and punctuation apart."""
    assert (exact_key(a) == exact_key(b)) is equal


@settings(max_examples=200)
@given(st.text("ab c.A"), st.text("ab c.A"))
def test_jaccard_is_the_textbooks(a: str, b: str) -> None:
    """Symmetric, 1 for equal words, and the share of common runs."""
    one, other = shingles(a), shingles(b)
    assert jaccard(one, other) == jaccard(other, one) == pytest.approx(similarity(runs(a), runs(b)))
    assert jaccard(one, one) == 1


def test_signatures_estimate_similarity(texts: list[str], brute_force: dict[tuple[int, int], float]) -> None:
    """Agreeing entries, on average the similarity itself (Broder 1997); the same in every run."""
    signature = signatures(texts)
    assert (signature.shape, signature.dtype) == ((1000, 128), np.uint32)
    errors = [(signature[a] == signature[b]).mean() - value for (a, b), value in brute_force.items() if value > 0.2]
    assert abs(np.mean(errors)) < 0.01
    assert np.std(errors) < 0.06
    assert (signatures([texts[7]])[0] == signature[7]).all()


def test_bands_are_cut_by_the_threshold() -> None:
    """Never finer than what finds nearly all pairs at the threshold: probability 1 - (1 - s^r)^b (MMDS, chapter 3)."""
    assert [rows_per_band(t) for t in (1.0, 0.95, 0.94, 0.8, 0.6, 0.57, 0.56, 0.1)] == [8, 8, 4, 4, 4, 4, 2, 2]
    for threshold in np.linspace(0.3, 1, 71):
        rows = rows_per_band(threshold)
        assert 1 - (1 - threshold**rows) ** (128 // rows) > 0.96
    cuts = [rows_per_band(t) for t in np.linspace(0.01, 1, 100)]
    assert all(a <= b for a, b in pairwise(cuts))


def test_what_is_compared() -> None:
    """The patient's words, or everybody's; never the system prompt."""
    turns = (("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    conversation = Conversation(tuple(Message(*turn) for turn in turns))
    assert compared_text(conversation, DuplicateKey.question) == "a c"
    assert compared_text(conversation, DuplicateKey.conversation) == "a b c d"


@needs_shared
def test_the_reference_data_loses_its_copies_and_leaks_nothing() -> None:
    """330 of 867 rows are exact copies; after the split no held-out question resembles one of training."""
    path = SHARED / "dialogues_ruslanmv_first1000.parquet"
    only_exact = prepare(plain(path, deduplication=DeduplicationConf(near=False)))
    assert (only_exact.report.steps[-1].rows_in, len(only_exact.conversations)) == (867, 537)
    for conf in (plain(path), plain(path, deduplication=DeduplicationConf(exact=False, near=False))):
        assert leaks(conf, 0.6) == 0


@needs_shared
@pytest.mark.parametrize("name", ["dialogues_questiondoctor", "dialogues_counselchat"])
def test_several_answers_to_one_question_stay_together(name: str) -> None:
    """Where only whole conversations are compared, thousands of questions remain several times."""
    conf = plain(SHARED / f"{name}.parquet", num_conversations=1500)
    conf.deduplication = DeduplicationConf(by=DuplicateKey.conversation)
    assert leaks(conf, 0.6) == 0


def leaks(conf: DataConf, threshold: float) -> int:
    """Held-out questions with a similar one in training, by comparing each with each."""
    drawn = load_conversations(conf)
    questions = [runs(c.messages[0].content) for c in drawn.conversations]
    train, held_out = split(drawn.clusters.tolist(), 0.1, 65)
    assert len(held_out) >= 0.09 * len(questions)
    holders = defaultdict(set)
    for i in train:
        for run in questions[i]:
            holders[run].add(i)
    return sum(
        any(
            similarity(questions[i], questions[j]) >= threshold
            for j in set().union(*(holders[r] for r in questions[i]))
        )
        for i in held_out
    )


def test_rows_of_one_group_stay_together(tmp_path: Path) -> None:
    """Whatever they say; and whoever shares a question with one of them."""
    topics = [f"{letter} hurts" for letter in "abcdefghijklmnopqrstuvwx"]
    rows = [(topics[i], "answer", f"visit {i // 4}" if i < 12 else "") for i in range(24)] + [
        (topics[0], "b", "visit 9")
    ]
    path = write_csv(tmp_path / "a.csv", rows, ("Patient", "Doctor", "visit"))
    conf = plain(path, deduplication=DeduplicationConf(exact=False, near=False))
    conf.columns.group = "visit"
    assert prepare(conf).clusters.tolist() == [0] * 4 + [4] * 4 + [8] * 4 + list(range(12, 24)) + [0]
