"""Schema of `evaluation.conversation`: how like the doctor, how plain, how careful the answers are."""

from dataclasses import dataclass

from medllm.config.conf import Conf, ranged
from medllm.config.evaluation.unused import unused_faults
from medllm.errors import Fault


@dataclass
class ConversationConf(Conf):
    """Held-out conversations of the run, or those of a file.

    Attributes:
        enabled: Whether the suite runs.
        path: A file or folder of conversations instead of the run's own held-out ones; prepared as the run prepared its data.
        max_conversations: Ask at most this many, drawn by their content; null asks all.
        max_disclaimers: Sentences of an answer that point to a professional; more of them are excessive, none is missing.
    """

    enabled: bool = True
    path: str | None = None
    max_conversations: int | None = ranged(None, ge=1)
    max_disclaimers: int = ranged(2, ge=1)

    def faults(self) -> list[Fault]:
        """A file that nobody is asked about."""
        return unused_faults(self, "conversation", ("path",), enabled=self.enabled)
