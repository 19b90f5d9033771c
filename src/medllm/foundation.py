"""What points of a sweep have in common and this process therefore makes once: the base model and what was measured on it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from medllm.config.lora import AdapterConf, LoraConf
from medllm.inference.generate import Answer
from medllm.models.adapter import changes_base, is_adapter
from medllm.training.label_proof import LabelProof
from medllm.training.metrics import EvalMetrics

Kept = TypeVar("Kept")


@dataclass(frozen=True)
class Measured:
    """What does not depend on the adapter.

    Attributes:
        proof: Of the labels.
        before: Held-out metrics of the base; None without held-out data.
        answers: Sample answers of the base.
    """

    proof: LabelProof
    before: EvalMetrics | None
    answers: list[Answer]


class Foundation:
    """Keeps the newest thing of each kind under a key of everything that it depends on."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[str, Any]] = {}
        self._modules: list[str] = []

    def get(self, kind: str, key: tuple[Any, ...], make: Callable[[], Kept]) -> Kept:
        """The thing kept under this key, or a new one, for which the old one leaves first.

        Args:
            kind: One thing is kept per kind.
            key: Its parts must have a `repr` that tells them apart.
            make: Makes it.
        """
        name = repr(key)
        if kind not in self._kept or self._kept[kind][0] != name:
            self._kept.pop(kind, None)
            self._kept[kind] = (name, make())
        value: Kept = self._kept[kind][1]
        return value

    def lend(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """The base model, untouched."""
        if "base" in self._kept and self._kept["base"][0] != repr(key):
            self.clear()
        base = self.get("base", key, make)
        self._modules = [name for name, _ in base.named_modules()]
        return base

    def take_back(self, model: Any, conf: AdapterConf) -> None:
        """Takes the adapter off a base that is as it was then; any other base is let go.

        LoRA adds modules beside frozen weights and can be taken off without a trace; full fine-tuning, PiSSA and methods
        that rewrite attention cannot.
        """
        if not isinstance(conf, LoraConf) or changes_base(conf) or not is_adapter(model):
            self.clear()
            return
        base = model.unload()
        if [name for name, _ in base.named_modules()] != self._modules:
            self.clear()

    def clear(self) -> None:
        """Lets everything go: after the last point, and after a failure, which may have left a base half dressed."""
        self._kept.clear()


foundation = Foundation()
