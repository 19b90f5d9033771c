"""Small trainers for the tests of training."""

from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from medllm.config.compose import load_run_conf
from medllm.config.rules import effective_batching
from medllm.config.run import RunConf
from medllm.conversation import Renderer
from medllm.data.pipeline import Datasets, build_datasets
from medllm.models.adapter import attach_adapter
from medllm.models.base import build_base_model, build_tokenizer
from medllm.training.arguments import build_arguments
from medllm.training.trainer import MedTrainer


def tiny_run(dialogues: Path, *overrides: str) -> RunConf:
    """A run on the tiny model, without dropout unless that or another method is asked for."""
    dropout = [] if any(override.startswith("lora=") for override in overrides) else ["lora.lora_dropout=0"]
    return load_run_conf(
        [
            "model=tiny_random",
            "quantization=none",
            *dropout,
            "data=local",
            f"data.path={dialogues}",
            "data.max_length=256",
            "trainer=cpu",
            "trainer.max_steps=4",
            "trainer.warmup_steps=0",
            "trainer.learning_rate=1e-2",
            "tracking=none",
            *overrides,
        ]
    )


def datasets_of(conf: RunConf) -> Datasets:
    """Its data."""
    renderer = Renderer(build_tokenizer(conf.model).tokenizer, conf.data.system_prompt)
    return build_datasets(conf.data, renderer, effective_batching(conf), conf.seed)


def model_of(conf: RunConf) -> Any:
    """Its model, seeded as a run seeds it."""
    base = build_base_model(conf.model, conf.quantization, build_tokenizer(conf.model))
    set_seed(conf.seed)
    return attach_adapter(base, conf.lora)


def trainer_of(conf: RunConf, folder: Path, **more: Any) -> MedTrainer:
    """Its trainer."""
    return MedTrainer(
        conf=conf.trainer,
        datasets=datasets_of(conf),
        model=model_of(conf),
        args=build_arguments(conf.trainer, folder, conf.seed),
        **more,
    )


def weights(model: Any) -> list[torch.Tensor]:
    """Copies of what is trained."""
    return [p.detach().clone() for p in model.parameters() if p.requires_grad]
