"""Schema of `scripts/export.py`: which artifact becomes what, and how alike it must stay."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from medllm.config.conf import Conf, ranged
from medllm.config.tracking import TrackingConf
from medllm.errors import Fault


class Onto(Enum):
    """Which base an adapter is merged into: the one that it was trained on, or the one before that was quantized."""

    trained = "trained"
    original = "original"


class Format(Enum):
    """What an artifact can become: a whole model as safetensors, or the adapter alone, for those who have the base."""

    merged = "merged"
    adapter = "adapter"


@dataclass
class ExportConf(Conf):
    """What a command line of `scripts/export.py` composes.

    Attributes:
        artifact: A run's folder, its `artifact/` folder, the id of its run record, or models:/name@alias.
        formats: What it becomes, each in a folder of its own.
        output: Folder above these; null is `export/` in the run's folder.
        onto: What an adapter that was trained on a quantized base is merged into.
        proof_prompts: Held-out conversations by which the artifact and what it became are compared.
        proof_tokens: Longest greedy answer to each.
        tolerance: Largest mean Kullback-Leibler divergence, in nats; beyond it nothing is exported.
        use_cpu: Stay on the CPU even where there is a GPU.
        tracking: Where names of artifacts are looked up.
    """

    artifact: str = MISSING
    formats: list[Format] = field(default_factory=lambda: [Format.merged])
    output: str | None = None
    onto: Onto = Onto.trained
    proof_prompts: int = ranged(8, ge=1)
    proof_tokens: int = ranged(32, ge=1)
    tolerance: float = ranged(0.01, gt=0)
    use_cpu: bool = False
    tracking: TrackingConf = MISSING

    def faults(self) -> list[Fault]:
        """Something must be asked for."""
        if not self.formats:
            allowed = ", ".join(f.value for f in Format)
            return [Fault("formats", "names none", "[]", allowed=allowed)]
        return []
