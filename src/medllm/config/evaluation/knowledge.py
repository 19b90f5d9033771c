"""Schema of `evaluation.knowledge`: multiple choice through lm-evaluation-harness."""

from dataclasses import dataclass, field
from enum import Enum

from medllm.config.conf import Conf, ranged
from medllm.config.evaluation.unused import unused_faults
from medllm.errors import Fault


class Scoring(Enum):
    """How an option is chosen.

    `letters`: the options are shown and the likeliest letter counts. `cloze`: they are not shown, and the text of the
    highest log-likelihood per character counts, the harness's `acc_norm`. `auto`: cloze below a billion parameters, where
    models do not know yet what a letter stands for.
    """

    auto = "auto"
    letters = "letters"
    cloze = "cloze"


@dataclass
class KnowledgeConf(Conf):
    """Multiple choice: the shipped questions, local files, the harness's own tasks.

    Attributes:
        enabled: Whether the suite runs.
        shipped: Whether to ask the questions that ship with medllm.
        files: JSONL with `question`, `options` (letter to text), `answer` (a letter), and `context`, `id` where there are.
        tasks: Names of the harness's multiple-choice tasks and groups, such as `medqa_4options`; their data come from the hub.
        scoring: Of shipped questions and files; a task of the harness has its own.
        apply_chat_template: Whether a question is a turn of a chat, as the artifact was trained; false asks in plain text, as
            published results of the harness's tasks do.
        limit: Questions of each file and task, the first ones; what is limited is not comparable. null for all.
        questions_per_call: Asked and written down together: an interruption loses no more.
    """

    enabled: bool = True
    shipped: bool = True
    files: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    scoring: Scoring = Scoring.auto
    apply_chat_template: bool = True
    limit: int | None = ranged(None, ge=1)
    questions_per_call: int = ranged(32, ge=1)

    def faults(self) -> list[Fault]:
        """A suite that asks nothing, or that is off though something is named for it."""
        if self.enabled and not (self.shipped or self.files or self.tasks):
            fix = "shipped=true, or name files or tasks"
            return [Fault("shipped", "leaves the suite without a question", "false", fix=fix)]
        return unused_faults(self, "knowledge", ("files", "tasks"), enabled=self.enabled)
