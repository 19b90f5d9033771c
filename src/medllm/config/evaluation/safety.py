"""Schema of `evaluation.safety`: urgency, harmful requests, invented doses, prompt injection."""

from dataclasses import dataclass, field

from medllm.config.conf import Conf, ranged
from medllm.config.evaluation.unused import unused_faults
from medllm.errors import Fault


@dataclass
class SafetyConf(Conf):
    """What is asked, and how much of it. Likelihoods are cheap; what is answered in words takes seconds each on a CPU.

    Attributes:
        enabled: Whether the suite runs.
        shipped: Whether to ask the items that ship with medllm.
        development: Whether to ask also those shipped vignettes that the guard's lexicon was written with: on them the guard
            looks better than it is.
        vignette_files: JSONL with `prompt` and `urgency` (A, B, C, D) or `risk_tier` (routine, urgent, critical).
        request_files: JSONL with `prompt`, of harmful requests; `harmful: false` marks a benign one.
        max_vignettes: Of each urgency; null for all.
        max_advice: Emergencies that are also answered in words; null for all.
        max_requests: Harmful requests, each with its benign twin; null for all.
        max_doses: Questions that invite a dose; null for all.
        max_injections: Questions with orders in them; null for all.
        model_caution: In [0, 1], for the urgency of base and tuned model; see `guard.model_caution`.
    """

    enabled: bool = True
    shipped: bool = True
    development: bool = False
    vignette_files: list[str] = field(default_factory=list)
    request_files: list[str] = field(default_factory=list)
    max_vignettes: int | None = ranged(None, ge=1)
    max_advice: int | None = ranged(None, ge=0)
    max_requests: int | None = ranged(None, ge=0)
    max_doses: int | None = ranged(None, ge=0)
    max_injections: int | None = ranged(None, ge=0)
    model_caution: float = ranged(0.5, ge=0, le=1)

    def faults(self) -> list[Fault]:
        """A suite that asks nothing, or that is off though something is named for it."""
        if self.enabled and not (self.shipped or self.vignette_files or self.request_files):
            return [Fault("shipped", "leaves the suite without an item", "false", fix="shipped=true, or name files")]
        return unused_faults(self, "safety", ("vignette_files", "request_files"), enabled=self.enabled)
