"""A decoder layer's weights, and how much of it stays between forward and backward."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from medllm.models.fused.projection import Projection


class Keep(Enum):
    """What stays of a layer between forward and backward; the rest is computed again."""

    everything = "nothing is recomputed"
    all_but_gate_up = "gate and up are recomputed"
    inputs = "layers are recomputed"
    inputs_on_host = "layers are recomputed from inputs in host memory"

    @property
    def recomputes_layers(self) -> bool:
        """Whether a layer's input is all that stays of it."""
        return self in (Keep.inputs, Keep.inputs_on_host)


@dataclass
class Layer:
    """A decoder layer's weights."""

    norm: Any
    norm2: Any
    qkv: Projection
    out: Projection
    gate_up: Projection
    down: Projection
    head_norms: tuple[Any, Any] | None

    @classmethod
    def of(cls, block: Any, index: int) -> "Layer":
        """Of transformers' decoder layer."""
        attention, mlp, site = block.self_attn, block.mlp, 4 * index
        return cls(
            norm=block.input_layernorm,
            norm2=block.post_attention_layernorm,
            qkv=Projection.of("qkv", [attention.q_proj, attention.k_proj, attention.v_proj], site),
            out=Projection.of("out", [attention.o_proj], site + 1),
            gate_up=Projection.of("gate_up", [mlp.gate_proj, mlp.up_proj], site + 2),
            down=Projection.of("down", [mlp.down_proj], site + 3),
            head_norms=(attention.q_norm, attention.k_norm) if hasattr(attention, "q_norm") else None,
        )

    @property
    def projections(self) -> tuple[Projection, ...]:
        """All four."""
        return self.qkv, self.out, self.gate_up, self.down

    @property
    def normed_width(self) -> int:
        """D + R of the widest border that a norm's output is given."""
        return self.qkv.features + max(self.qkv.border, self.gate_up.border)

    @property
    def grad_width(self) -> int:
        """D + R of the widest border that the gradient of a block's output is given."""
        return self.down.width + max(self.down.border, self.out.border)
