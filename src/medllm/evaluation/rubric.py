"""Open answers against rubrics: a suite that asks, and the arithmetic of HealthBench.

    score of an answer = sum of points of the criteria it meets / sum of the positive points
    score of a model   = mean over answers, clipped to [0, 1]

Points may be negative, for what an answer must not do, so one answer's score may be, too. A theme's score is that of its
conversations, an axis's that of its criteria alone. Source: HealthBench (openai/simple-evals). People grade
(`grading.py`); a judge may (`judge.py`), in figures of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medllm.config.data import ROLES
from medllm.config.evaluation.rubric import RubricConf
from medllm.conversation import Conversation, Message
from medllm.evaluation.jsonl import item_files, load_rows, named, whole_text
from medllm.evaluation.suite import Better, Item, Metric, Outcome, Side, Subject

SUITE = "rubric"
GRADED = "rubric/graded"
SOURCES = ("human", "judge")
RESAMPLES = 1_000
RESAMPLING_SEED = 65


@dataclass(frozen=True)
class Criterion:
    """One thing an answer is looked at for.

    Attributes:
        criterion: What it does, as a statement.
        points: If it does; negative for what it must not do, never 0.
        tags: Such as `axis:accuracy`.
    """

    criterion: str
    points: float
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rubric:
    """What answers to a conversation are graded by.

    Attributes:
        criteria: In the order of the sheet.
        tags: Of the conversation, such as `theme:hedging`.
    """

    criteria: tuple[Criterion, ...]
    tags: tuple[str, ...] = ()

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Rubric":
        """From an item's fields, or an outcome's details."""
        rows = fields["rubrics"]
        criteria = tuple(Criterion(row["criterion"], row["points"], tuple(row["tags"])) for row in rows)
        return cls(criteria, tuple(fields["tags"]))

    @property
    def themes(self) -> list[str]:
        """The conversation's, each once."""
        return sorted({tag for tag in self.tags if tag.startswith("theme:")})

    @property
    def axes(self) -> list[str]:
        """Of its criteria, each once."""
        return sorted({tag for criterion in self.criteria for tag in criterion.tags if tag.startswith("axis:")})


def score(criteria: Sequence[Criterion], met: Sequence[float]) -> float | None:
    """Points met over positive points; at most 1, below 0 where harm outweighs; None without a positive criterion.

    Args:
        criteria: Of a conversation, or some of them.
        met: Of each one 1 or 0, or the share of graders who said so.
    """
    possible = sum(criterion.points for criterion in criteria if criterion.points > 0)
    if not possible:
        return None
    return sum(criterion.points * share for criterion, share in zip(criteria, met, strict=True)) / possible


def clipped_mean(scores: Sequence[float], resamples: int = RESAMPLES) -> tuple[float, float, float]:
    """The score of a model and the middle 95 % of it in a bootstrap over its answers, all in [0, 1].

    Args:
        scores: Of its answers; at least one.
        resamples: Of the bootstrap.
    """
    values: NDArray[np.float64] = np.asarray(scores, dtype=np.float64)
    drawn = np.random.default_rng(RESAMPLING_SEED).integers(len(values), size=(resamples, len(values)))
    means = np.clip(values[drawn].mean(axis=1), 0, 1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(np.clip(values.mean(), 0, 1)), float(low), float(high)


def score_values(rubric: Rubric, met: Sequence[float], source: str) -> dict[str, tuple[float, float]]:
    """What graded criteria come to, by metric.

    Args:
        rubric: Of the conversation.
        met: Of each of its criteria.
        source: Of `SOURCES`.
    """
    whole = score(rubric.criteria, met)
    found = {_metric(source, tag): whole for tag in ("", *rubric.themes)}
    for axis in rubric.axes:
        chosen = [i for i, criterion in enumerate(rubric.criteria) if axis in criterion.tags]
        found[_metric(source, axis)] = score([rubric.criteria[i] for i in chosen], [met[i] for i in chosen])
    return {name: (value, 1.0) for name, value in found.items() if value is not None}


def _metric(source: str, tag: str) -> str:
    """`rubric/score`, `rubric/theme/hedging`; of a judge `rubric/judge/score`, so that nobody mistakes one for the other."""
    head = SUITE if source == "human" else f"{SUITE}/{source}"
    return f"{head}/{tag.replace(':', '/', 1) or 'score'}"


class RubricSuite:
    """Asks; grades come later, and until then the figures say how few of the answers have some."""

    name = SUITE
    sides: tuple[Side, ...] = (Side.base, Side.tuned)

    def __init__(self, conf: RubricConf):
        paths = item_files(SUITE, conf.files, shipped=conf.shipped)
        self._items = [item for path in paths for item in load_items(path, conf.limit)]
        self.metrics = _metrics(self._items)

    def items(self) -> list[Item]:
        """All conversations, file by file."""
        return list(self._items)

    def measurable(self, items: Sequence[Item]) -> set[str]:
        """None: grades come later."""
        return set()

    def outcomes(self, subject: Subject, items: Sequence[Item]) -> Iterator[tuple[Item, Outcome]]:
        """Answers, ungraded."""
        for start in range(0, len(items), subject.batch_size):
            some = items[start : start + subject.batch_size]
            answers = subject.answers([item.conversation for item in some])
            for item, answer in zip(some, answers, strict=True):
                # With all that grading needs, so that grades may come at any time, whatever became of the files.
                details = {
                    "messages": [asdict(message) for message in item.conversation.messages],
                    "answer": answer.text,
                    "finished": answer.finished,
                    "rubrics": item.fields["rubrics"],
                    "tags": item.fields["tags"],
                }
                yield item, Outcome({GRADED: (0, 1)}, details)


def _metrics(items: Sequence[Item]) -> tuple[Metric, ...]:
    rubrics = [Rubric.of(item.fields) for item in items]
    tags = sorted({tag for rubric in rubrics for tag in rubric.themes})
    tags += sorted({tag for rubric in rubrics for tag in rubric.axes})
    found = [Metric(GRADED, "rubric: answers graded by people", Better.neither, proportion=True)]
    for source, label in zip(SOURCES, ("rubric", "rubric, LLM_JUDGE"), strict=True):
        for tag in ["", *tags]:
            title = f"{label}: {tag.partition(':')[2].replace('_', ' ')}" if tag else f"{label}: score"
            better = Better.higher if source == "human" else Better.neither  # what a judge says decides nothing
            found.append(Metric(_metric(source, tag), title, better, clipped=True))
    return tuple(found)


def build_suite(conf: RubricConf) -> RubricSuite:
    """The suite of these settings.

    Raises:
        ConfigError: naming files that are not there.
        DataError: naming the lines that cannot be used.
    """
    return RubricSuite(conf)


def load_items(path: Path, limit: int | None = None) -> list[Item]:
    """Conversations with rubrics, in HealthBench's or K-QA's form.

    K-QA's own score is the share of the statements an answer must have, one point each; those that are nice to have go
    into no score of it, and are kept for the reader.

    Raises:
        DataError: naming the lines that cannot be used.
    """
    rows = load_rows(path, _fault, limit)
    plain = [_from_kqa(row) if "must_have" in row else row for row in rows]
    items = []
    for row, name in zip(plain, named(plain, path.stem, lambda r: [_messages(r), r["rubrics"]]), strict=True):
        messages = tuple(Message(m["role"], m["content"]) for m in _messages(row))
        rubrics = [
            {"criterion": c["criterion"].strip(), "points": c["points"], "tags": c.get("tags", [])}
            for c in row["rubrics"]
        ]
        fields = {"rubrics": rubrics, "tags": _tags(row), "nice_to_have": row.get("nice_to_have", [])}
        items.append(Item(name, Conversation(messages, id=name), fields))
    return items


def _messages(row: Mapping[str, Any]) -> Any:
    return row.get("prompt", row.get("prompt_messages"))


def _tags(row: Mapping[str, Any]) -> Any:
    return row.get("example_tags", row.get("tags", []))


def _from_kqa(row: dict[str, Any]) -> dict[str, Any]:
    rubrics = [
        {"criterion": f"Says, in whatever words: {statement.strip()}", "points": 1, "tags": ["axis:completeness"]}
        for statement in row["must_have"]
    ]
    prompt = [{"role": "user", "content": row["question"]}]
    return {"id": row.get("id"), "prompt": prompt, "rubrics": rubrics, "nice_to_have": row.get("nice_to_have", [])}


def _fault(row: dict[str, Any]) -> str:
    if "must_have" in row:
        must = row["must_have"]
        texts = [*must, *row.get("nice_to_have", [])] if isinstance(must, list) else []
        good = must and whole_text(row.get("question")) and all(whole_text(text) for text in texts)
        return "" if good else "needs a `question` and the list of statements `must_have`"
    messages, rubrics, tags = _messages(row), row.get("rubrics"), _tags(row)
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        return "needs `prompt`, a list of messages"
    if not all(m.get("role") in ROLES and whole_text(m.get("content")) for m in messages):
        return f"a message of `prompt` needs `content`, and a `role` of {', '.join(ROLES)}"
    turns = [m["role"] for m in messages if m["role"] != "system"]
    if turns != (["user", "assistant"] * len(turns))[: len(turns)] or len(turns) % 2 == 0:
        return "the turns of `prompt` do not alternate from user to user"
    if "system" in [m["role"] for m in messages[1:]]:
        return "a system message after the start of `prompt`"
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        return "`example_tags` is no list of texts"
    if not isinstance(rubrics, list) or not rubrics or not all(_is_criterion(c) for c in rubrics):
        return "needs `rubrics`, a list of `criterion`, `points` other than 0, and `tags`"
    return "" if any(c["points"] > 0 for c in rubrics) else "no criterion of `rubrics` gives points"


def _is_criterion(value: Any) -> bool:
    if not isinstance(value, dict) or not whole_text(value.get("criterion")):
        return False
    points, tags = value.get("points"), value.get("tags", [])
    number = isinstance(points, int | float) and not isinstance(points, bool) and abs(points) < float("inf")
    return number and points != 0 and isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)
