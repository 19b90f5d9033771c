"""Schema of `scripts/evaluate.py`: which suites ask an artifact what, and what decides over it."""

from dataclasses import dataclass, field, fields, is_dataclass

from omegaconf import MISSING

from medllm.config.conf import Conf, ranged
from medllm.config.evaluation.conversation import ConversationConf
from medllm.config.evaluation.gate import GateConf
from medllm.config.evaluation.knowledge import KnowledgeConf
from medllm.config.evaluation.lexicon import LexiconConf
from medllm.config.evaluation.rubric import RubricConf
from medllm.config.evaluation.safety import SafetyConf
from medllm.config.guard import GuardConf
from medllm.config.tracking import TrackingConf
from medllm.errors import Fault


@dataclass
class EvaluationConf(Conf):
    """The `evaluation` group: suites, their budget, and the gate.

    Attributes:
        name: Of its folder below the run's `evaluation/`, and of its metrics in the run record.
        limit: Ask at most this many items of each suite, drawn by their ids; results are then stamped as limited. Null asks all.
        max_new_tokens: Longest answer.
        batch_size: Answers and likelihoods computed at once; no part of what is measured.
        use_cpu: Stay on the CPU even where there is a GPU.
        conversation: Held-out conversations: loss, likeness, tone.
        safety: Urgency, harmful requests, invented doses, orders hidden in questions.
        knowledge: Multiple choice.
        rubric: Answers that are graded against rubrics.
        gate: What must not get worse.
    """

    name: str = MISSING
    limit: int | None = ranged(None, ge=1)
    max_new_tokens: int = ranged(128, ge=1)
    batch_size: int = ranged(8, ge=1)
    use_cpu: bool = False
    conversation: ConversationConf = field(default_factory=ConversationConf)
    safety: SafetyConf = field(default_factory=SafetyConf)
    knowledge: KnowledgeConf = field(default_factory=KnowledgeConf)
    rubric: RubricConf = field(default_factory=RubricConf)
    gate: GateConf = field(default_factory=GateConf)

    def limits(self) -> list[str]:
        """Settings that leave out items which a suite has, as they are typed."""
        found = {"limit": self.limit}
        for name, suite in (("knowledge", self.knowledge), ("rubric", self.rubric)):
            if suite.enabled:
                found[f"{name}.limit"] = suite.limit
        return [f"{name}={limit}" for name, limit in found.items() if limit is not None]

    def faults(self) -> list[Fault]:
        """A name is a folder's."""
        if not self.name.replace("-", "").replace("_", "").isalnum():
            return [Fault("name", "is no plain name", self.name, allowed="letters, digits, - and _")]
        return []


def suite_names() -> list[str]:
    """The suites there are, whether they run or not."""
    return [f.name for f in fields(EvaluationConf) if f.name != "gate" and is_dataclass(f.type)]


@dataclass
class EvaluateConf(Conf):
    """What a command line of `scripts/evaluate.py` composes.

    Attributes:
        artifact: A run's folder, its `artifact/` folder, the id of its run record, or models:/name@alias.
        evaluation: What is asked.
        guard: What the third side stands behind.
        lexicon: What is looked for in answers, by name.
        tracking: Where the id of a run record is looked up. Results go to the record of the artifact's own run; `none` keeps
            them out of it, and `log_texts` decides whether items and page go there.
    """

    artifact: str = MISSING
    evaluation: EvaluationConf = MISSING
    guard: GuardConf = MISSING
    lexicon: dict[str, LexiconConf] = field(default_factory=dict)
    tracking: TrackingConf = MISSING
