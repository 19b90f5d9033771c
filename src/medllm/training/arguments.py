"""Builds transformers' TrainingArguments from the `trainer` group."""

from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType

from medllm.config.trainer import TrainerConf
from medllm.models.fused.plan import Plan
from medllm.ranks import world_size

# `gradient_checkpointing` is applied to the model by `build_trainer`, since transformers renamed the argument in 5.x; old
# checkpoints are removed by MedTrainer, which does so only once the newest is complete. The rest are ours.
OURS = ("engine", "max_memory_gib", "eval_suites", "eval_suites_items", "objective", "objective_better")
NOT_PASSED_ON = ("gradient_checkpointing", "save_total_limit", *OURS)


def build_arguments(conf: TrainerConf, folder: Path, seed: int, plan: Plan | None = None) -> Any:
    """TrainingArguments that write checkpoints to `folder` and report to nobody: medllm keeps the record itself.

    Args:
        conf: The `trainer` group.
        folder: For checkpoints.
        seed: Of the order of the data too.
        plan: Of the fused engine, which cuts an optimizer step into micro-batches as memory allows.
    """
    from transformers import TrainingArguments

    given = {name: value.value if isinstance(value, Enum) else value for name, value in asdict(conf).items()}
    for name in NOT_PASSED_ON:
        del given[name]
    if plan is not None:
        given["per_device_train_batch_size"], given["gradient_accumulation_steps"] = plan.rows, plan.micro_batches
    given["logging_steps"] = int(conf.logging_steps) if conf.logging_steps >= 1 else conf.logging_steps
    for name in ("eval_steps", "save_steps"):
        given[name] = int(given[name]) if given[name] >= 1 else given[name]
    if conf.fsdp:  # each rank writes its part of a checkpoint; the whole model is put together for the artifact alone
        given["fsdp_config"] = {"version": 2, "state_dict_type": "SHARDED_STATE_DICT"}
    on_gpu = torch.cuda.is_available() and not conf.use_cpu
    given["use_cpu"] = conf.use_cpu or (
        world_size() > 1 and not on_gpu
    )  # accelerate connects no processes unless it is said
    arguments = TrainingArguments(
        output_dir=str(folder),
        seed=seed,
        data_seed=seed,
        report_to=[],
        disable_tqdm=True,
        logging_nan_inf_filter=False,  # it reports NaN as loss 0.0, and a sweep would prefer the diverged point
        logging_first_step=True,
        remove_unused_columns=False,  # rows carry what the collators need and nothing else
        label_names=["labels"],
        ddp_find_unused_parameters=False,  # all that is trained is used at every step
        ddp_broadcast_buffers=False,  # none of them changes
        dataloader_pin_memory=on_gpu,
        accelerator_config={"non_blocking": on_gpu},  # a copy that waits would wait for the whole step before it
        **given,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one process drives one GPU; several GPUs are torchrun's
    if conf.fsdp and not on_gpu:
        # accelerate 1.15 takes no notice of FSDP on CPUs, where it works as well, and judges by this name alone
        # (AcceleratorState.__init__). Delete this once MULTI_CPU is among the names that it looks for there.
        arguments.distributed_state.distributed_type = DistributedType.MULTI_GPU
    return arguments
