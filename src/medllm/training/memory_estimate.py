"""What a run will need at its peak: one training step on tensors that have shapes and no contents, storages counted.

Two short stacks of the model's layers are run instead of all of it; what one layer more adds, every further layer adds.
"""

import weakref
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medllm.config.lora import InitLoraWeights, LoraConf
from medllm.config.run import RunConf
from medllm.config.trainer import Optimizer, TrainerConf
from medllm.data.collate import Batch
from medllm.data.pipeline import Datasets, Side
from medllm.models.adapter import attach_adapter
from medllm.models.base import build_tokenizer
from medllm.models.fused.plan import GIB
from medllm.models.shapes import build_base_shape, layer_lists, move_shapes
from medllm.tracking.memory import device_memory_gib
from medllm.training.engine import engine_obstacle, step_plans
from medllm.training.metrics import precision, predictions, supervised_positions, token_losses

# Layers of the longer of the two stacks.
STACK = 3

# What cuBLAS takes of torch's allocator on the newest GPUs, older ones a quarter: 32 MiB for the thread of the forward pass
# and as much for that of the backward pass (https://docs.pytorch.org/docs/stable/notes/cuda.html#cublas-workspaces).
CUBLAS_BYTES = 2 * 32 * 2**20

# Models whose shapes depend on values, and kernels that torch cannot run without contents.
UNKNOWN = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)


class LiveBytes(TorchDispatchMode):
    """Counts the storages that are alive, each once, and remembers the most there were.

    Attributes:
        now: Bytes alive.
        peak: Most bytes alive at one time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size

    def count(self, tensor: torch.Tensor) -> None:
        """Counts a tensor's storage until it dies."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        size = storage.nbytes()
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.count(leaf)
        return result


@dataclass(frozen=True)
class MemoryEstimate:
    """In bytes, on the device of the run.

    Attributes:
        weights: Base and adapter, with what the optimizer keeps of the adapter.
        activations: Most that a training step or an evaluation adds.
    """

    weights: int
    activations: int

    @property
    def gib(self) -> float:
        """All of it."""
        return (self.weights + self.activations) / GIB


def largest_batch(side: Side, datasets: Datasets, size: int) -> Batch:
    """The batch of the longest rows, what memory has to hold at the worst, with its supervised `positions`."""
    lengths = side.row_sums(side.samples.lengths)
    longest = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)[:size]
    batch = datasets.collate([side.dataset[i] for i in longest])
    return {**batch, "positions": supervised_positions(batch["labels"])}


def _optimizer_bytes(trained: list[nn.Parameter], conf: TrainerConf, device: str) -> tuple[int, int]:
    """What an optimizer keeps for trained parameters, and what it needs besides during its step."""
    sizes = [parameter.numel() * parameter.element_size() for parameter in trained]
    elements = sum(parameter.numel() for parameter in trained)
    if conf.optim in (Optimizer.paged_adamw_32bit, Optimizer.paged_adamw_8bit):
        return 0, 0  # in pages that torch's allocator knows nothing of, and that may leave the GPU
    if conf.optim is Optimizer.adamw_8bit:
        return 2 * elements, 0
    if conf.optim is Optimizer.adamw_torch_fused:
        return 2 * sum(sizes), 0
    if conf.optim is Optimizer.adamw_torch:  # all parameters together on a GPU, one after another elsewhere
        return 2 * sum(sizes), sum(sizes) if device != "cpu" else 2 * max(sizes)
    return 0, 4 * max(parameter.numel() for parameter in trained)  # sgd; adafactor keeps rows and columns


def estimate_memory(conf: RunConf, datasets: Datasets, device: str) -> MemoryEstimate | None:
    """Estimates a run's peak on its device without loading a weight.

    None for models that do not run on shapes alone, and for weights sharded over processes, which come and go.

    Args:
        conf: Checked.
        datasets: The run's.
        device: Of the run.
    """
    trainer, lora = conf.trainer, conf.lora
    if trainer.fsdp:
        return None
    new_token_ids = build_tokenizer(conf.model).new_token_ids
    if isinstance(lora, LoraConf):  # the first values, which some methods compute from the weights, change no shape
        lora = replace(lora, init_lora_weights=InitLoraWeights.kaiming)
    model = attach_adapter(build_base_shape(conf.model, conf.quantization, new_token_ids), lora, new_token_ids)
    if trainer.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = sum(parameter.numel() * parameter.element_size() for parameter in trained)
    states, during_step = _optimizer_bytes(trained, trainer, device)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in [*model.parameters(), *model.buffers()])
    extra = 0 if device == "cpu" else CUBLAS_BYTES
    if not engine_obstacle(conf, model, device):
        room = device_memory_gib(device) * GIB - weights
        if trainer.max_memory_gib is not None:
            room = min(room, trainer.max_memory_gib * GIB - weights)
        needs = [needed + extra for _, needed in step_plans(conf, model, datasets, device)]
        return MemoryEstimate(weights, next((needed for needed in needs if needed <= room), min(needs)))
    try:
        activations = _activations(model, conf, datasets, device)
    except UNKNOWN:
        return None
    if trainer.gradient_accumulation_steps > 1:
        activations += gradients
    return MemoryEstimate(weights + states, max(activations, gradients + during_step) + extra)


def _activations(model: Any, conf: RunConf, datasets: Datasets, device: str) -> int:
    """Most bytes that a micro-batch adds to the weights. Shortens the model."""
    count = int(model.config.num_hidden_layers)
    train = largest_batch(datasets.train, datasets, conf.trainer.per_device_train_batch_size)
    held_out = None
    if datasets.eval is not None:
        held_out = largest_batch(datasets.eval, datasets, conf.trainer.per_device_eval_batch_size)
    stacks = layer_lists(model) if count > STACK else []
    for stack in stacks:
        del stack[STACK:]
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:  # peft keeps the numbers of a prefix beside the model
        move_shapes(model, device)
        peaks = _peaks(model, conf, train, held_out, fake, device)
        if not stacks:
            return max(peaks)
        for stack in stacks:
            del stack[-1]
        fewer = _peaks(model, conf, train, held_out, fake, device)
    return max(peak + (count - STACK) * (peak - less) for peak, less in zip(peaks, fewer, strict=True))


def _peaks(
    model: Any, conf: RunConf, train: Batch, held_out: Batch | None, fake: FakeTensorMode, device: str
) -> tuple[int, int]:
    """Bytes that a training micro-batch and an evaluation batch add to the weights at their peaks."""

    def run(batch: Batch, *, training: bool) -> int:
        model.train(training)
        with LiveBytes() as live:
            for tensor in [*model.parameters(), *model.buffers()]:
                live.count(tensor)
            before = live.peak = live.now
            with (
                torch.set_grad_enabled(training),
                precision(device, bf16=conf.trainer.bf16, fp16=conf.trainer.fp16),
            ):
                shapes = {name: fake.from_tensor(value).to(device) for name, value in batch.items()}
                if training:
                    logits, targets, _ = predictions(model, shapes, shapes["positions"])
                    loss = F.cross_entropy(logits, targets, reduction="sum")
                    del logits, targets
                else:
                    loss, *_ = token_losses(model, shapes, shapes["positions"])
            if training:
                loss.backward()
            model.zero_grad(set_to_none=True)
            del loss
        return live.peak - before

    return run(train, training=True), run(held_out, training=False) if held_out is not None else 0
