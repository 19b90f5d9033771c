"""Schemas of the `lora` group: the adapter that is trained; field names are those of the peft configs."""

from dataclasses import dataclass, field
from enum import Enum

from medllm.config.conf import Conf, ranged
from medllm.errors import Fault

LLAMA_PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Bias(Enum):
    """Which bias terms are trained."""

    none = "none"
    all = "all"
    lora_only = "lora_only"


class InitLoraWeights(Enum):
    """How A and B start; `kaiming` is what peft spells `True` (B = 0), the others are spelled as peft spells them."""

    kaiming = "kaiming"
    gaussian = "gaussian"
    pissa = "pissa"
    pissa_niter_16 = "pissa_niter_16"
    olora = "olora"

    @property
    def changes_base(self) -> bool:
        """Whether the method moves part of the base weights into the adapter."""
        return self in (InitLoraWeights.pissa, InitLoraWeights.pissa_niter_16, InitLoraWeights.olora)


@dataclass
class AdapterConf(Conf):
    """Base of the group."""


@dataclass
class TargetedAdapterConf(AdapterConf):
    """An adapter that sits on named modules; a name matches every module whose path ends in it."""

    target_modules: list[str] = field(default_factory=lambda: list(LLAMA_PROJECTIONS))

    def faults(self) -> list[Fault]:
        """An adapter on nothing trains nothing."""
        if not self.target_modules:
            return [Fault("target_modules", "is empty", "[]", allowed="at least one module name, such as q_proj")]
        return []


@dataclass
class LoraConf(TargetedAdapterConf):
    """LoRA (arXiv 2106.09685) and its variants DoRA, rsLoRA, PiSSA and OLoRA.

    Attributes:
        r: Rank of the update.
        lora_alpha: The update is scaled by `lora_alpha / r`, or by `lora_alpha / sqrt(r)` with `use_rslora`.
    """

    r: int = ranged(16, ge=1, le=4096)
    lora_alpha: int = ranged(32, ge=1)
    lora_dropout: float = ranged(0.05, ge=0, lt=1)
    bias: Bias = Bias.none
    use_dora: bool = False
    use_rslora: bool = False
    init_lora_weights: InitLoraWeights = InitLoraWeights.kaiming


@dataclass
class Ia3Conf(TargetedAdapterConf):
    """IA3 (arXiv 2205.05638): a learned scale per key, value and feed-forward feature.

    Attributes:
        feedforward_modules: The members of `target_modules` whose input, not output, is scaled.
    """

    target_modules: list[str] = field(default_factory=lambda: ["k_proj", "v_proj", "down_proj"])
    feedforward_modules: list[str] = field(default_factory=lambda: ["down_proj"])

    def faults(self) -> list[Fault]:
        """Peft requires the feed-forward modules to be targets."""
        extra = [name for name in self.feedforward_modules if name not in self.target_modules]
        if extra:
            allowed = f"members of target_modules {self.target_modules}"
            return [*super().faults(), Fault("feedforward_modules", "are no targets", str(extra), allowed=allowed)]
        return super().faults()


@dataclass
class PrefixTuningConf(AdapterConf):
    """Prefix tuning (arXiv 2101.00190): trained keys and values in front of every layer's own.

    Attributes:
        prefix_projection: Trains the prefix through a small network, which is dropped afterwards.
    """

    num_virtual_tokens: int = ranged(20, ge=1, le=1024)
    prefix_projection: bool = False


@dataclass
class AdapterLayersConf(AdapterConf):
    """Adapter layers after LLaMA-Adapter (arXiv 2303.16199): gated trained tokens in the upper attention layers.

    Attributes:
        adapter_len: Trained tokens per layer.
        adapter_layers: How many layers get them, counted from the top; null is all of them.
    """

    adapter_len: int = ranged(10, ge=1, le=1024)
    adapter_layers: int | None = ranged(None, ge=1)


@dataclass
class NoAdapterConf(AdapterConf):
    """Full fine-tuning: every weight of the base is trained."""
