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
    """What an artifact can become; the value is the name of its folder.

    `merged` is a whole model as safetensors, `adapter` the adapter alone, for those who have the base, `gguf_f16` and `gguf_q8_0`
    one file for llama.cpp and Ollama in llama.cpp's types F16 and Q8_0, `mlflow` a model folder of MLflow.
    """

    merged = "merged"
    adapter = "adapter"
    gguf_f16 = "gguf_f16"
    gguf_q8_0 = "gguf_q8_0"
    mlflow = "mlflow"


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
        q8_0_tolerance: The same for `gguf_q8_0`, whose weights are rounded to eight bits.
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
    q8_0_tolerance: float = ranged(0.015, gt=0)
    use_cpu: bool = False
    tracking: TrackingConf = MISSING

    def faults(self) -> list[Fault]:
        """Something must be asked for."""
        if not self.formats:
            allowed = ", ".join(f.value for f in Format)
            return [Fault("formats", "names none", "[]", allowed=allowed)]
        return []
