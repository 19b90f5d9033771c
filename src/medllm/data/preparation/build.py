"""Builds prepared conversations.

rows -> conversations -> [cleaned, de-identified, checked: one by one, in all processes] -> disk -> copies and clusters
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from medllm.config.data import DataConf, sources_of
from medllm.config.preparation import Action, CleaningConf, Deidentification, DuplicateKey
from medllm.console import counting
from medllm.conversation import Conversation
from medllm.data.messages import Entry, build_conversations
from medllm.data.parallel import batched, map_batches
from medllm.data.preparation.contamination import Question, read_questions
from medllm.data.preparation.deduplication import Clusters, compared_text, signatures, similar_pairs
from medllm.data.preparation.report import Example, PreparationReport, Step
from medllm.data.preparation.worker import EXAMPLES, Batch, Worker, shown
from medllm.data.sources.log import ReadingLog
from medllm.data.sources.read import read_rows
from medllm.data.store import SCHEMA, Conversations
from medllm.errors import DataError

# Batches of conversations from which starting processes saves time.
WORTH_PROCESSES = 16


@dataclass
class _Total:
    """The sum of all batches; the arrays have one row per conversation on disk."""

    sum: Batch = field(default_factory=Batch)
    groups: list[str] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    question_keys: list[bytes] = field(default_factory=list)
    question: list[NDArray[np.uint32]] = field(default_factory=list)
    whole: list[NDArray[np.uint32]] = field(default_factory=list)

    def add(self, batch: Batch) -> None:
        """Adds a batch's counts and signatures, not its text."""
        self.sum.met += batch.met
        for name in ("dropped", "changed", "flagged", "identifiers", "urgency", "questions"):
            getattr(self.sum, name).update(getattr(batch, name))
        for step, examples in batch.examples.items():
            known = self.sum.examples.setdefault(step, [])
            known += examples[: EXAMPLES - len(known)]
        self.groups += batch.groups
        self.keys += batch.keys
        self.question_keys += batch.question_keys
        self.question.append(batch.question)
        self.whole.append(batch.whole)


def build(conf: DataConf, folder: Path) -> None:
    """Fills a folder with `conversations.arrow`, `rows.npy` (those to keep), `clusters.npy` (theirs) and `report.json`.

    Raises:
        DataError: if a source cannot be read, or nothing is left of it.
    """
    log, total, started = ReadingLog(), _Total(), time.monotonic()
    questions = read_questions(conf.contamination) if conf.contamination.action is not Action.keep else []
    _write(folder / "conversations.arrow", conf, questions, log, total)
    read = time.monotonic()
    texts = Conversations.open(folder / "conversations.arrow", np.arange(len(total.keys)))
    copies = _find_copies(conf, total, texts)
    clusters = _find_clusters(conf, total, texts)
    rows = np.setdiff1d(texts.rows, np.array([*copies["exact"], *copies["near"]], dtype=np.int64))
    report = PreparationReport(
        sources={
            name or str(source.path or source.dataset): log.rows[name] for name, source in sources_of(conf).items()
        },
        notes=log.notes,
        rejected=dict(log.rejected),
        rejected_rows=dict(log.places),
        steps=_steps(conf, total.sum, copies, texts),
        identifiers=dict(total.sum.identifiers.most_common()),
        urgency=dict(total.sum.urgency.most_common()),
        cluster_sizes=dict(sorted(Counter(Counter(clusters.tolist()).values()).items())),
        benchmarks=dict(Counter(questions[number].benchmark for number in total.sum.questions)),
        seconds={"reading and cleaning": read - started, "finding copies": time.monotonic() - read},
    )
    if not len(rows):
        met = sum(report.sources.values())
        raise DataError(
            f"nothing to train on in {met} rows ({report.losses})" if met else "the data source has no rows"
        )
    np.save(folder / "rows.npy", rows)
    np.save(folder / "clusters.npy", clusters[rows])
    (folder / "report.json").write_text(json.dumps(asdict(report)))


def _entries(conf: DataConf, log: ReadingLog) -> Iterator[Entry]:
    for name, source in sources_of(conf).items():
        log.source = name
        yield from build_conversations(read_rows(source, log), source.columns, log)


def _write(path: Path, conf: DataConf, questions: list[Question], log: ReadingLog, total: _Total) -> None:
    with counting("preparing conversations") as advance, pa.ipc.new_stream(str(path), SCHEMA) as writer:
        for batch in map_batches(partial(Worker, conf, questions), batched(_entries(conf, log)), WORTH_PROCESSES):
            total.add(batch)
            writer.write_batch(batch.kept)
            advance(batch.met)


def _find_copies(conf: DataConf, total: _Total, texts: Conversations) -> dict[str, dict[int, int]]:
    """Rows to leave out, `exact` and `near`, each with the row that stays instead."""
    by = conf.deduplication.by
    first: dict[bytes, int] = {}
    original = [first.setdefault(key, row) for row, key in enumerate(total.keys)]
    exact = {row: kept for row, kept in enumerate(original) if row != kept} if conf.deduplication.exact else {}
    near: dict[int, int] = {}
    if conf.deduplication.near:
        different = sorted(first.values())
        signature = _stack(total.question if by is DuplicateKey.question else total.whole)[different]
        clusters = Clusters(len(different))
        for a, b, _ in similar_pairs(
            signature, lambda i: compared_text(texts[different[i]], by), conf.deduplication.threshold
        ):
            clusters.join(a, b)
        near = {different[i]: different[kept] for i, kept in enumerate(clusters.labels().tolist()) if i != kept}
    # A copy whose original is itself a near copy leaves with it.
    if near and not conf.deduplication.exact:
        near |= {row: near[kept] for row, kept in enumerate(original) if row != kept and kept in near}
    return {"exact": exact, "near": near}


def _stack(signature: list[NDArray[np.uint32]]) -> NDArray[np.uint32]:
    return np.concatenate([*signature, signatures([])])


def _find_clusters(conf: DataConf, total: _Total, texts: Conversations) -> NDArray[np.int64]:
    """What must stay on one side of a split: equal questions, similar questions, one group."""
    clusters = Clusters(len(texts))
    first: dict[bytes, int] = {}
    groups: dict[str, int] = {}
    for row, (key, group) in enumerate(zip(total.question_keys, total.groups, strict=True)):
        clusters.join(row, first.setdefault(key, row))
        if group:
            clusters.join(row, groups.setdefault(group, row))
    if conf.deduplication.split_threshold is None:
        return clusters.labels()
    different = sorted(first.values())
    signature = _stack(total.question)[different]
    for a, b, _ in similar_pairs(
        signature,
        lambda i: compared_text(texts[different[i]], DuplicateKey.question),
        conf.deduplication.split_threshold,
    ):
        clusters.join(different[a], different[b])
    return clusters.labels()


def _steps(conf: DataConf, batch: Batch, copies: dict[str, dict[int, int]], texts: Conversations) -> list[Step]:
    names = [f"cleaning.{f.name}" for f in fields(CleaningConf) if f.name not in ("min_words", "max_characters")]
    off = {f"cleaning.{name}" for name, value in vars(conf.cleaning).items() if value in (False, Action.keep, [])}
    if conf.deidentification.mode is not Deidentification.off:
        names.append("deidentification")
    if conf.contamination.benchmarks and conf.contamination.action is not Action.keep:
        names.append("contamination")
    steps, left = [], batch.met
    for name in names:
        if name in off:
            continue
        step = Step(name, left, batch.dropped[name], batch.changed[name], batch.flagged[name])
        step.examples += batch.examples.get(name, [])
        steps.append(step)
        left = step.rows_out
    for name, left_out in copies.items():
        if getattr(conf.deduplication, name):
            examples = [_copy_example(texts[row], texts[kept]) for row, kept in islice(left_out.items(), EXAMPLES)]
            steps.append(Step(f"deduplication.{name}", left, len(left_out), examples=examples))
            left -= len(left_out)
    return steps


def _copy_example(copy: Conversation, kept: Conversation) -> Example:
    texts = (shown(" | ".join(message.content for message in c.messages)) for c in (copy, kept))
    return Example(f"{copy.id}, a copy of {kept.id}", *texts)
