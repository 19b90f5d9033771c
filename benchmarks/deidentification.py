"""Precision and recall of de-identification: `python benchmarks/deidentification.py [tests/data/identifiers.jsonl]`.

The labelled sentences were written without knowledge of the rules. Half of them, `development`, may be looked at when rules
are changed; the other half, `test`, is only measured.

    found        labelled identifiers that a find overlaps: what would still be readable is what is missing here
    whole        of these, all of whose letters and digits the finds cover
    typed        of these, found under their own type
    precision    finds that overlap a labelled identifier
    touched      sentences without any identifier in which something was found
"""

import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from medllm.data.preparation.deidentification import find

SENTENCES = Path(__file__).parents[1] / "tests" / "data" / "identifiers.jsonl"


@dataclass
class Score:
    """Counts of one type in one split."""

    labelled: int = 0
    found: int = 0
    whole: int = 0
    typed: int = 0
    finds: int = 0
    right: int = 0

    @property
    def recall(self) -> float:
        """Found over labelled, in [0, 1]."""
        return self.found / self.labelled if self.labelled else 1.0

    @property
    def precision(self) -> float:
        """Right finds over all, in [0, 1]."""
        return self.right / self.finds if self.finds else 1.0

    def __add__(self, other: "Score") -> "Score":
        return Score(*(getattr(self, name) + getattr(other, name) for name in Score.__dataclass_fields__))


@dataclass
class Measured:
    """One split: scores by type, sentences without identifiers, and how many of them were touched, by kind of trap."""

    scores: dict[str, Score] = field(default_factory=dict)
    traps: int = 0
    touched: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> Score:
        """All types together."""
        return sum(self.scores.values(), Score())


def measure(sentences: list[dict], split: str) -> Measured:
    """Compares what is found with what is labelled."""
    measured = Measured()
    for sentence in sentences:
        if sentence["split"] != split:
            continue
        text, labels, cursor = sentence["text"], [], 0
        for label in sentence["identifiers"]:
            cursor = text.index(label["text"], cursor)
            labels.append((cursor, cursor + len(label["text"]), label["type"]))
            cursor += len(label["text"])
        finds = [(one.start, one.end, one.type.value) for one in find(text)]
        covered = {i for start, end, _ in finds for i in range(start, end)}
        for start, end, kind in labels:
            score = measured.scores.setdefault(kind, Score())
            over = [found for found in finds if found[0] < end and start < found[1]]
            score.labelled += 1
            score.found += bool(over)
            score.whole += bool(over) and all(i in covered for i in range(start, end) if text[i].isalnum())
            score.typed += any(found[2] == kind for found in over)
        for start, end, kind in finds:
            score = measured.scores.setdefault(kind, Score())
            score.finds += 1
            score.right += any(start < last and first < end for first, last, _ in labels)
        if not labels:
            measured.traps += 1
            measured.touched[sentence["trap"] or "plain"] += bool(finds)
    return measured


def main(path: Path) -> None:
    """Prints the table."""
    sentences = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    print(f"{len(sentences)} sentences")
    for split in ("development", "test"):
        measured = measure(sentences, split)
        print(f"\n{split:16}{'labelled':>9}{'found':>8}{'whole':>8}{'typed':>8}{'finds':>8}{'precision':>11}")
        for kind, score in [*sorted(measured.scores.items()), ("all", measured.total)]:
            shares = "".join(
                f"{100 * n / max(score.labelled, 1):7.0f}%" for n in (score.found, score.whole, score.typed)
            )
            print(f"{kind:16}{score.labelled:9}{shares}{score.finds:8}{100 * score.precision:10.0f}%")
        print(f"touched: {sum(measured.touched.values())} of {measured.traps} sentences without an identifier")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SENTENCES)
