"""Multiple choice, by letters or by cloze.

    letters   the options are shown:     "... Answer:" -> A | B | C | D       the likeliest letter counts
    cloze     they are not shown:        "... Answer:" -> Pancreas | Liver    the highest likelihood per character counts

Both are constrained: nothing is generated, and every model answers. A guess is right once in as many options as there are.
The shipped questions are easy, for small models; their right option is the longest one in less than a third of them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from medllm.config.evaluation.knowledge import KnowledgeConf, Scoring
from medllm.conversation import Conversation, Message
from medllm.evaluation.harness import LETTERS, Harness, build_task, require_harness, task_config
from medllm.evaluation.hub_tasks import load_hub_tasks, target_of
from medllm.evaluation.jsonl import item_files, load_rows, named, whole_text
from medllm.evaluation.suite import Better, Item, Metric, Outcome, Side, Subject

SUITE = "knowledge"
LETTERS_FROM_PARAMETERS = 1_000_000_000


def metric_name(part: str = "") -> str:
    """`knowledge/accuracy` of all questions, `knowledge/basics/accuracy` of a file or task."""
    return "/".join(name for name in (SUITE, part, "accuracy") if name)


class KnowledgeSuite:
    """Questions of files and of the harness's own tasks."""

    name = SUITE
    sides: tuple[Side, ...] = (Side.base, Side.tuned)

    def __init__(self, conf: KnowledgeConf):
        require_harness("evaluation.knowledge.enabled", "true")
        self.conf = conf
        paths = item_files(SUITE, conf.files, shipped=conf.shipped)
        self._parts = {path.stem: load_questions(path, conf.limit) for path in paths}
        self._tasks = load_hub_tasks(conf.tasks, taken=set(self._parts))
        self._parts |= {name: _questions_of(name, task, conf.limit) for name, task in self._tasks.items()}
        self.metrics: tuple[Metric, ...] = (
            Metric(metric_name(), "knowledge: all questions", Better.higher, proportion=True),
            *(Metric(metric_name(part), f"knowledge: {part}", Better.higher, proportion=True) for part in self._parts),
        )

    def items(self) -> list[Item]:
        """File by file, then task by task."""
        return [item for items in self._parts.values() for item in items]

    def measurable(self, items: Sequence[Item]) -> set[str]:
        """Accuracy, over all and in the parts that are asked."""
        return {metric_name(), *(metric_name(item.fields["part"]) for item in items)}

    def outcomes(self, subject: Subject, items: Sequence[Item]) -> Iterator[tuple[Item, Outcome]]:
        """By the harness, `questions_per_call` at a time."""
        harness = Harness(subject, apply_chat_template=self.conf.apply_chat_template)
        scoring = decided(self.conf.scoring, subject.model)
        size = self.conf.questions_per_call
        for part in self._parts:
            wanted = [item for item in items if item.fields["part"] == part]
            how = Scoring.letters if part in self._tasks else scoring
            for start in range(0, len(wanted), size):
                some = wanted[start : start + size]
                if part in self._tasks:
                    task, indices = self._tasks[part], [item.fields["index"] for item in some]
                else:
                    questions = [question(item, how, subject.renderer.neutralise) for item in some]
                    task, indices = build_task(task_config(part, questions, how)), list(range(len(some)))
                for item, answered in zip(some, harness.ask(task, indices, how), strict=True):
                    yield item, _outcome(item, answered, "harness" if part in self._tasks else how.value)


def _outcome(item: Item, answered: Any, scoring: str) -> Outcome:
    letters = list(item.fields["options"])
    details = {
        "scoring": scoring,
        "answer": item.fields["answer"],
        "chosen": letters[answered.chosen],
        "log_likelihoods": dict(zip(letters, answered.log_likelihoods, strict=True)),
    }
    hit = (answered.hit, 1)
    return Outcome({metric_name(): hit, metric_name(item.fields["part"]): hit}, details)


def decided(scoring: Scoring, model: Any) -> Scoring:
    """`scoring` with `auto` decided by the model's size."""
    if scoring is not Scoring.auto:
        return scoring
    return Scoring.letters if model.num_parameters() >= LETTERS_FROM_PARAMETERS else Scoring.cloze


def question(item: Item, scoring: Scoring, neutralise: Any) -> dict[str, Any]:
    """A question of a file as the harness asks it.

    Args:
        item: With the fields of `load_questions`.
        scoring: `letters` or `cloze`.
        neutralise: Breaks special tokens in a text: a question must not end its own turn.
    """
    options = {letter: neutralise(text) for letter, text in item.fields["options"].items()}
    parts = [neutralise(text) for text in (item.fields["context"], item.fields["question"]) if text]
    if scoring is Scoring.letters:
        parts += [f"{letter}. {text}" for letter, text in options.items()]
        parts.append(f"Answer with one letter, {', '.join(options)}.\nAnswer:")
    else:
        parts.append("Answer:")
    choices = list(options) if scoring is Scoring.letters else list(options.values())
    return {"prompt": "\n".join(parts), "choices": choices, "target": list(options).index(item.fields["answer"])}


def load_questions(path: Path, limit: int | None = None) -> list[Item]:
    """Multiple-choice questions of a JSONL file: `question`, `options` (letter to text), `answer`, maybe `context` and `id`.

    Raises:
        DataError: naming the lines that cannot be used.
    """
    rows = load_rows(path, _fault, limit)
    names = named(rows, path.stem, lambda row: [row.get("context"), row["question"], row["options"], row["answer"]])
    items = []
    for row, name in zip(rows, names, strict=True):
        options = {letter: text.strip() for letter, text in row["options"].items()}
        fields = {
            "part": path.stem,
            "question": row["question"].strip(),
            "context": (row.get("context") or "").strip(),
            "options": options,
            "answer": row["answer"],
            "topic": row.get("topic"),
        }
        shown = [fields["context"], fields["question"], *(f"{letter}. {text}" for letter, text in options.items())]
        asked = Message("user", "\n".join(text for text in shown if text))
        items.append(Item(name, Conversation((asked,), id=name), fields))
    return items


def _fault(row: dict[str, Any]) -> str:
    options, answer, context = row.get("options"), row.get("answer"), row.get("context")
    if not whole_text(row.get("question")):
        return "needs `question`, a text"
    if context is not None and context != "" and not whole_text(context):
        return "`context` is no text"
    if not isinstance(options, dict) or not 2 <= len(options) <= len(LETTERS):
        return 'needs `options`, from letters to texts: {"A": "...", "B": "..."}'
    if not all(len(letter) == 1 and letter in LETTERS for letter in options):
        return f"options are named by one letter each, A to Z, not {', '.join(map(str, options))}"
    if not all(whole_text(text) for text in options.values()):
        return "an option is no text"
    if not isinstance(answer, str) or answer not in options:
        return f"`answer` is none of its options {', '.join(options)}"
    return ""


def _questions_of(name: str, task: Any, limit: int | None) -> list[Item]:
    """Documents of one of the harness's tasks."""
    items = []
    for index, document in enumerate(task.task_docs):
        if index == limit:
            break
        text = task.doc_to_text(document)
        choices = task.doc_to_choice(document)
        options = dict(zip(LETTERS, choices, strict=False))
        fields = {
            "part": name,
            "index": index,
            "question": text,
            "context": "",
            "options": options,
            "answer": LETTERS[target_of(task, document)],
            "topic": None,
        }
        item_id = f"{name}/{index}"
        items.append(Item(item_id, Conversation((Message("user", text),), id=item_id), fields))
    return items


def build_suite(conf: KnowledgeConf) -> KnowledgeSuite:
    """The suite of these settings; questions are read here, and those of the hub fetched.

    Raises:
        ConfigError: naming files and tasks that are not there, or that the harness is not installed.
        DataError: naming lines that cannot be used, or a data set that cannot be had.
    """
    return KnowledgeSuite(conf)
