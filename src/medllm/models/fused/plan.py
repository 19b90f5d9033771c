"""What to keep in memory between forward and backward: the fastest of what fits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from medllm.models.fused.layer import Keep, Layer
from medllm.models.fused.reference import MOST_SHARES
from medllm.models.fused.step import HEAD_BYTES, MLP_TOKENS

GIB = 2**30
# Arithmetic of a token, against a step that recomputes nothing.
ARITHMETIC = {Keep.everything: 1.0, Keep.all_but_gate_up: 1.27, Keep.inputs: 1.37, Keep.inputs_on_host: 1.4}
# How often a step dequantizes each weight, and what all of them take once, in tokens' worth of arithmetic.
READS = 2
DEQUANTIZING = 100
# Steps in which the number of layers with kept weights is planned.
KEPT_PARTS = 8
# A GPU waits for launches where micro-batches are shorter than this.
LAUNCH_BOUND = 4096
# Lengths are filled to multiples of these: one graph is recorded per length.
GRAPH_MULTIPLE, MULTIPLE = 128, 16


@dataclass(frozen=True)
class Plan:
    """How an optimizer step is computed.

    Attributes:
        keep: What stays between forward and backward.
        kept_layers: Layers whose dequantized weights stay.
        layers: All there are.
        rows: Of the data, in a micro-batch.
        micro_batches: Of an optimizer step.
        max_tokens: Of a micro-batch, filling included.
        multiple: Lengths are filled to a multiple of it.
        graphs: Whether CUDA graphs are recorded.
        peak: Bytes that training adds to the model at its peak, predicted.
        lasting: Bytes of it that stay between steps.
    """

    keep: Keep
    kept_layers: int
    layers: int
    rows: int
    micro_batches: int
    max_tokens: int
    multiple: int
    graphs: bool
    peak: int
    lasting: int

    def __str__(self) -> str:
        count = "one micro-batch" if self.micro_batches == 1 else f"{self.micro_batches} micro-batches"
        weights = (
            f", weights of {self.kept_layers} of {self.layers} layers stay dequantized" if self.kept_layers else ""
        )
        if self.kept_layers == self.layers:
            weights = ", weights stay dequantized"
        graphs = ", CUDA graphs" if self.graphs else ""
        return f"{count} of up to {self.max_tokens:,} tokens a step, {self.keep.value}{weights}{graphs}"


@dataclass(frozen=True)
class Sizes:
    """Of a model, in numbers of elements.

    Attributes:
        layers: How many.
        features: D.
        heads: H E.
        num_heads: H.
        qkv: (H + 2 G) E.
        inner: F.
        vocabulary: V.
        ranks: Of all adapters of a layer together.
        inner_ranks: Of those of gate, up and down.
        border: The widest.
        matrices: Bordered matrices of a layer, together.
        trained: Adapter weights.
        element: Bytes of a number in the step's type.
        quantized: Whether weights are in 4 bit.
        normed_heads: Whether queries and keys are normed.
        drops: Whether there is dropout in front of adapters.
    """

    layers: int
    features: int
    heads: int
    num_heads: int
    qkv: int
    inner: int
    vocabulary: int
    ranks: int
    inner_ranks: int
    border: int
    matrices: int
    trained: int
    element: int
    quantized: bool
    normed_heads: bool
    drops: bool

    @classmethod
    def of(cls, model: Any, *, quantized: bool) -> "Sizes":
        """Of peft's model, whose weights are in 4 bit or not."""
        base = model.get_base_model()
        layer = Layer.of(base.model.layers[0], 0)
        projections = layer.projections
        trained = sum(
            part.rank * (projection.features + part.rows.stop - part.rows.start)
            for projection in projections
            for part in projection.adapted
        )
        return cls(
            layers=len(base.model.layers),
            features=layer.qkv.features,
            heads=layer.out.features,
            num_heads=base.config.num_attention_heads,
            qkv=layer.qkv.width,
            inner=layer.down.features,
            vocabulary=base.config.vocab_size,
            ranks=sum(projection.rank for projection in projections),
            inner_ranks=layer.gate_up.rank + layer.down.rank,
            border=max(projection.border for projection in projections),
            matrices=sum(projection.shape[0] * projection.shape[1] for projection in projections),
            trained=trained * len(base.model.layers),
            element=base.model.norm.weight.element_size(),
            quantized=quantized,
            normed_heads=layer.head_norms is not None,
            drops=any(projection.p for projection in projections),
        )


def longest(lengths: Sequence[int], rows: int, multiple: int) -> int:
    """Tokens of the longest micro-batch of so many of these rows, filled."""
    return -(-sum(sorted(lengths)[-rows:]) // multiple) * multiple


def buffer_bytes(sizes: Sizes, keep: Keep, tokens: int) -> int:
    """Of memory that the longest micro-batch needs and that every further one uses again."""
    part = min(tokens, MLP_TOKENS) if keep.recomputes_layers else tokens
    widths = (2 + 2 * sizes.drops) * sizes.features + sizes.qkv + 4 * sizes.border
    return (tokens * widths + part * sizes.inner) * sizes.element


def activation_bytes(sizes: Sizes, keep: Keep, tokens: int) -> int:
    """Of a micro-batch at its peak, beside the buffers."""
    e = sizes.element
    inputs = sizes.features * e
    attention = (2 * sizes.features + sizes.qkv * (1 + sizes.normed_heads) + sizes.heads + sizes.ranks) * e
    attention += 4 * (2 + sizes.num_heads)
    gate_up = (2 * sizes.inner + sizes.border) * e
    kept = {
        Keep.everything: attention + gate_up,
        Keep.all_but_gate_up: attention,
        Keep.inputs: inputs,
        Keep.inputs_on_host: 0,
    }[keep]
    # Of one layer: what is made again, the gradient of the MLP's input, sums for its adapters, and the gradients of attention,
    # whose kernel repeats keys and values for every head and sums queries' in float32.
    part = min(tokens, MLP_TOKENS) if keep.recomputes_layers else tokens
    again = 0 if keep is Keep.everything else part * gate_up
    mlp = again + part * inputs + 4 * sizes.inner_ranks * sizes.inner * (MOST_SHARES + 2)
    if sizes.drops:
        mlp += part * inputs  # the part of the gradient that comes through the adapters, before it is dropped
    block = tokens * (attention + inputs * (1 + 2 * (keep is Keep.inputs_on_host))) if keep.recomputes_layers else 0
    layer = block + max(mlp, tokens * 6 * sizes.heads * e)
    head = tokens * 3 * inputs + min(HEAD_BYTES, tokens * sizes.vocabulary * e)
    return tokens * sizes.layers * kept + max(layer, head)


def evaluation_bytes(sizes: Sizes, tokens: int) -> int:
    """Of an evaluation of so many tokens in a batch, up to the logits: transformers' forward pass of one layer.

    In its MLP an activation, and of a projection the output, the adapter's part and their sum, at the size of F each; the
    residual stream and its norms; a dequantized weight.
    """
    weight = sizes.inner * sizes.features if sizes.quantized else 0
    return (tokens * 4 * (sizes.inner + sizes.features) + weight) * sizes.element


def lasting_bytes(sizes: Sizes, kept_layers: int, state_bytes: float) -> int:
    """Bytes that training adds to the model whatever a micro-batch is like: matrices, gradients and optimizer states.

    Args:
        sizes: The model's.
        kept_layers: Layers whose dequantized weights stay.
        state_bytes: What the optimizer keeps of each adapter weight.
    """
    # Other layers share one's memory; weights that are not quantized are moved, one projection after the other.
    layers = kept_layers + (kept_layers < sizes.layers)
    return int(layers * sizes.matrices * sizes.element + sizes.trained * (4 + sizes.element + state_bytes))


def plans(
    sizes: Sizes, lengths: Sequence[int], *, rows: int, least_rows: int, state_bytes: float, on_gpu: bool
) -> list[Plan]:
    """Every way to compute an optimizer step, fastest first.

    Args:
        sizes: The model's.
        lengths: Tokens of each row of the training data.
        rows: Of an optimizer step.
        least_rows: Of a micro-batch; it divides `rows`.
        state_bytes: What the optimizer keeps of each adapter weight.
        on_gpu: Whether launches cost more than small products.
    """
    mean = sum(lengths) / len(lengths)
    ranked = []
    kept_counts = (
        {round(sizes.layers * part / KEPT_PARTS) for part in range(KEPT_PARTS + 1)} if sizes.quantized else {0}
    )
    for size, keep, kept_layers in product(_row_counts(rows, least_rows), Keep, kept_counts):
        if keep is Keep.inputs_on_host and not on_gpu:
            continue
        short = longest(lengths, size, GRAPH_MULTIPLE) <= LAUNCH_BOUND
        graphs = on_gpu and short and keep is not Keep.inputs_on_host
        multiple = GRAPH_MULTIPLE if graphs else MULTIPLE
        tokens = longest(lengths, size, multiple)
        count = rows // size
        reads = READS * count * (1 - kept_layers / sizes.layers) if sizes.quantized else 0
        cost = ARITHMETIC[keep] * mean * rows + DEQUANTIZING * reads + count  # the last decides between equals
        lasting = lasting_bytes(sizes, kept_layers, state_bytes) + buffer_bytes(sizes, keep, tokens)
        peak = lasting + activation_bytes(sizes, keep, tokens)
        ranked.append(
            (cost, Plan(keep, kept_layers, sizes.layers, size, count, tokens, multiple, graphs, peak, lasting))
        )
    return [plan for _, plan in sorted(ranked, key=lambda entry: entry[0])]


def _row_counts(rows: int, least: int) -> Iterator[int]:
    """Divisors of `rows` that are multiples of `least`, largest first."""
    return (size for size in range(rows, 0, -least) if rows % size == 0)
