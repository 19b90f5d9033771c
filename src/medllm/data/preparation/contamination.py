"""Finds benchmark questions in conversations, by shared runs of eight words.

A question counts as held if the share of its runs that occur in the conversation reaches a threshold. Questions of six to
eight words must occur whole; shorter ones are too common to tell anything.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from medllm.config.data import SourceConf
from medllm.config.preparation import ContaminationConf
from medllm.data.preparation.deduplication import words
from medllm.data.sources.log import ReadingLog
from medllm.data.sources.read import columns_of, read_rows
from medllm.errors import DataError

RUN = 8
SHORTEST = 6


@dataclass(frozen=True)
class Question:
    """A benchmark's question: its file and its text."""

    benchmark: str
    text: str


def read_questions(conf: ContaminationConf) -> list[Question]:
    """The questions of all benchmark files.

    Raises:
        DataError: if a file cannot be read or has no such column.
    """
    questions = []
    for path in conf.benchmarks:
        names, rows = columns_of(read_rows(SourceConf(path=path), ReadingLog()))
        if conf.column not in names:
            raise DataError(
                f"data.contamination.column={conf.column}: no such column in {path}\n    allowed: {', '.join(names)}"
            )
        found = (row.get(conf.column) for _, row in rows)
        questions += [Question(path, text) for text in found if isinstance(text, str)]
    return questions


class ContaminationCheck:
    """Looks for questions in texts.

    Attributes:
        threshold: Share of a question's runs from which it counts as held, in (0, 1].
    """

    def __init__(self, questions: Iterable[Question], threshold: float):
        self.threshold = threshold
        self._holders: dict[int, list[int]] = defaultdict(list)  # hash of a run -> questions that hold it
        self._runs: list[int] = []  # number of different runs by question
        self._lengths: set[int] = set()
        for number, question in enumerate(questions):
            found = words(question.text)
            length = min(RUN, len(found))
            runs = _runs(found, length) if length >= SHORTEST else set()
            self._runs.append(len(runs))
            self._lengths.update([length] if runs else [])
            for run in runs:
                self._holders[run].append(number)

    def held(self, text: str) -> list[int]:
        """Numbers of the questions this text holds."""
        if not self._lengths:
            return []
        found = words(text)
        shared = Counter[int]()
        for length in self._lengths:
            for run in _runs(found, length):
                shared.update(self._holders.get(run, ()))
        return sorted(n for n, count in shared.items() if count >= self.threshold * self._runs[n])


def _runs(found: list[str], length: int) -> set[int]:
    return {hash(tuple(found[i : i + length])) for i in range(len(found) - length + 1)}
