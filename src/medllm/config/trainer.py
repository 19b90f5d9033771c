"""Schema of the `trainer` group: a subset of `transformers.TrainingArguments`, name by name."""

from dataclasses import dataclass, field
from enum import Enum

from medllm.config.conf import Conf, ranged
from medllm.errors import Fault


class Strategy(Enum):
    """When something happens during training."""

    no = "no"
    steps = "steps"
    epoch = "epoch"


class Scheduler(Enum):
    """Learning-rate schedules that need no further argument."""

    linear = "linear"
    cosine = "cosine"
    constant = "constant"
    constant_with_warmup = "constant_with_warmup"
    inverse_sqrt = "inverse_sqrt"


class Optimizer(Enum):
    """Optimizers that need no further package."""

    adamw_torch = "adamw_torch"
    adamw_torch_fused = "adamw_torch_fused"
    adamw_8bit = "adamw_8bit"
    paged_adamw_32bit = "paged_adamw_32bit"
    paged_adamw_8bit = "paged_adamw_8bit"
    adafactor = "adafactor"
    sgd = "sgd"


class Direction(Enum):
    """Which way an objective improves."""

    lower = "lower"
    higher = "higher"


# What a sweep ranks by unless told otherwise.
LOSS = "eval/loss"


class Engine(Enum):
    """What computes a training step."""

    auto = "auto"
    fused = "fused"
    plain = "plain"


@dataclass
class TrainerConf(Conf):
    """How the model is trained.

    Attributes:
        max_steps: Optimizer steps; -1 leaves the length to `num_train_epochs`.
        per_device_train_batch_size: Rows per micro-batch: packed rows, or conversations where they are padded.
        warmup_steps: Optimizer steps of warm-up, or, below 1, their share of all steps.
        eval_steps: Optimizer steps between evaluations, or, below 1, their share of all steps.
        save_steps: The same for checkpoints.
        eval_suites: Suites of `scripts/evaluate.py` to run at each evaluation, as in `[conversation]`.
        eval_suites_items: Items that each of them asks.
        objective: What a sweep or search ranks by: `eval/loss`, or a metric of these suites, as `eval/conversation/chrf`.
        objective_better: Which way that improves.
        save_total_limit: Checkpoints kept; null keeps all.
        gradient_checkpointing: Recompute layers in the backward pass; null does so where the run would not fit its device
            otherwise. The fused engine plans by itself, and with true never keeps them.
        neftune_noise_alpha: Noise on the embeddings (arXiv 2310.05914); null is off.
        resume_from_checkpoint: Folder of a checkpoint to go on from.
        use_cpu: Stay on the CPU even where there is a GPU.
        fsdp: Shard weights, gradients and optimizer states over the processes (FSDP2), for full fine-tuning of what one GPU
            cannot hold. With `bf16` the sharded weights are kept in float32.
        engine: `fused` computes Llama-style models with LoRA by hand, `plain` lets transformers and peft do it, `auto` takes
            the former where it can.
        max_memory_gib: Most memory of the device that a run may need, and the fused engine plans with; null takes what is free.
    """

    num_train_epochs: float = ranged(1.0, gt=0)
    max_steps: int = ranged(-1, ge=-1)
    per_device_train_batch_size: int = ranged(1, ge=1)
    per_device_eval_batch_size: int = ranged(1, ge=1)
    gradient_accumulation_steps: int = ranged(1, ge=1)
    learning_rate: float = ranged(2e-4, gt=0, le=1)
    lr_scheduler_type: Scheduler = Scheduler.linear
    warmup_steps: float = ranged(0.0, ge=0)
    weight_decay: float = ranged(0.0, ge=0)
    max_grad_norm: float = ranged(1.0, gt=0)
    optim: Optimizer = Optimizer.adamw_torch
    bf16: bool = False
    fp16: bool = False
    gradient_checkpointing: bool | None = None
    neftune_noise_alpha: float | None = ranged(None, gt=0)
    dataloader_num_workers: int = ranged(0, ge=0)
    logging_steps: float = ranged(1, gt=0)
    eval_strategy: Strategy = Strategy.steps
    eval_steps: float = ranged(0.2, gt=0)
    eval_suites: list[str] = field(default_factory=list)
    eval_suites_items: int = ranged(8, ge=1)
    objective: str = LOSS
    objective_better: Direction = Direction.lower
    save_strategy: Strategy = Strategy.no
    save_steps: float = ranged(0.2, gt=0)
    save_total_limit: int | None = ranged(2, ge=1)
    resume_from_checkpoint: str | None = None
    use_cpu: bool = False
    fsdp: bool = False
    engine: Engine = Engine.auto
    max_memory_gib: float | None = ranged(None, gt=0)

    def faults(self) -> list[Fault]:
        """No steps: transformers would take 0 for no limit at all."""
        if self.max_steps == 0:
            return [Fault("max_steps", "trains nothing", "0", allowed="-1 (num_train_epochs decides) or at least 1")]
        return []
