"""What a run stands on before anything is its own: data, the base model and what was measured on it.

Points of a sweep have most of it in common, so a process makes it once.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from medllm import ranks
from medllm.config.lora import AdapterConf, LoraConf
from medllm.config.rules import effective_batching
from medllm.config.run import RunConf
from medllm.console import say
from medllm.conversation import Renderer
from medllm.data.pipeline import Datasets, build_datasets
from medllm.data.shares import held_out_batches
from medllm.errors import ConfigError
from medllm.inference.generate import Answer
from medllm.inference.samples import sample_answers
from medllm.models.adapter import changes_base, is_adapter
from medllm.models.base import Tokenizer, build_base_model, build_tokenizer
from medllm.models.quantization import dequantized
from medllm.tracking.memory import return_freed_memory
from medllm.training.fitting import fitted, limit_name, memory_fault
from medllm.training.label_proof import LabelProof, prove_labels
from medllm.training.metrics import EvalMetrics, evaluate, precision
from medllm.training.out_of_memory import in_smaller_batches

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


@dataclass(frozen=True)
class Ground:
    """A run before its base model is loaded.

    Attributes:
        conf: As memory lets it be.
        device: "cpu" or "cuda".
        tokenizer: The base's, with the template.
        renderer: With the system prompt of the data.
        inference_renderer: With the system prompt of answers.
        datasets: To train on and held out.
    """

    conf: RunConf
    device: str
    tokenizer: Tokenizer
    renderer: Renderer
    inference_renderer: Renderer
    datasets: Datasets


def lay_ground(conf: RunConf, device: str, *, refuse: bool) -> Ground:
    """Tokenizer, data, and what fits.

    Args:
        conf: Checked.
        device: The run's.
        refuse: Whether to look if it fits at all. A sweep has looked at all of its points.

    Raises:
        ConfigError: if it cannot fit, while that costs nothing yet.
    """
    tokenizer = foundation.get("tokenizer", (conf.model,), lambda: build_tokenizer(conf.model))
    systems = (conf.data.system_prompt, conf.generation.system_prompt)
    renderer, inference_renderer = foundation.get(
        "renderers", (conf.model, *systems), lambda: tuple(Renderer(tokenizer.tokenizer, system) for system in systems)
    )
    datasets = build_datasets(conf.data, renderer, effective_batching(conf), conf.seed)
    decided = _fitted(conf, datasets, refuse)
    if device == "cpu" and decided.trainer.gradient_checkpointing:
        return_freed_memory()
    return Ground(decided, device, tokenizer, renderer, inference_renderer, datasets)


def _fitted(conf: RunConf, datasets: Datasets, refuse: bool) -> RunConf:
    """The run as memory lets it be, that of the rank that has least."""
    own, peak_gib = fitted(conf, datasets)
    found = ranks.gather((own, memory_fault(own, peak_gib, "trainer")))
    decided, faults = max(found, key=lambda rank: (bool(rank[1]), rank[0].trainer.gradient_checkpointing))
    if faults and refuse:
        raise ConfigError(faults)
    if decided.trainer.gradient_checkpointing and conf.trainer.gradient_checkpointing is None:
        say("memory", f"layers are recomputed, to fit the {limit_name(conf)}")
    return decided


def lend_base(ground: Ground) -> Any:
    """The base model, untouched."""
    conf = ground.conf

    def build() -> Any:
        gc.collect()
        gc.freeze()  # a collection then leaves out what libraries keep anyway, which takes half a second for each point
        return build_base_model(conf.model, conf.quantization, ground.tokenizer, ground.device)

    return foundation.lend((conf.model, conf.quantization, ground.device, conf.trainer.gradient_checkpointing), build)


def measure_base(base: Any, ground: Ground) -> Measured:
    """Proof of the labels, metrics and answers of the base: once for all points on the same data."""
    conf, datasets, trainer = ground.conf, ground.datasets, ground.conf.trainer
    key = (conf.model, conf.quantization, conf.data, conf.generation, datasets.batching.name, conf.seed, ground.device)
    flags = (trainer.bf16, trainer.fp16, trainer.per_device_eval_batch_size, datasets.fingerprint)

    def measure() -> Measured:
        with dequantized(base):  # there is room for it: training will need more
            return Measured(
                proof=prove_labels(datasets, ground.renderer, base),
                before=_evaluate_base(base, ground),
                answers=sample_answers(base, ground.inference_renderer, conf.generation),
            )

    return foundation.get("measured", (*key, *flags), measure)


def _evaluate_base(base: Any, ground: Ground) -> EvalMetrics | None:
    """Held-out metrics of the untouched base, on the batches that the Trainer will use."""
    datasets, trainer = ground.datasets, ground.conf.trainer
    if datasets.eval is None:
        return None

    def attempt(rows: int) -> EvalMetrics:
        batches = held_out_batches(datasets, rows)
        with precision(ground.device, bf16=trainer.bf16, fp16=trainer.fp16):
            return evaluate(base, batches, gather=batches.batch_sampler.gather, side=datasets.eval)

    return in_smaller_batches(trainer.per_device_eval_batch_size, attempt)
