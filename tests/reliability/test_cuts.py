"""Wherever a run is cut, it goes on bit for bit: loss and samples of every micro-step, learning rate, weights.

By default one cell; with `-m slow` every method at every cut point, optimizers and workers in turn. The whole matrix is the
nightly size: `MEDLLM_CUTS=all python -m pytest -m slow tests/reliability/test_cuts.py`.
"""

import hashlib
import itertools
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from medllm.training.arguments import build_arguments
from medllm.training.checkpoint import newest_valid
from medllm.training.engine import build_engine
from medllm.training.trainer import MedTrainer
from tests.training.runs import datasets_of, model_of, tiny_run, weights

METHODS = {
    "LoRA": ["trainer.engine=plain"],
    "LoRA, fused": ["trainer.engine=auto"],
    "QLoRA": ["trainer.engine=plain", "quantization=nf4"],
    "full": ["lora=none", "trainer.engine=plain"],
}
CUTS = ["mid-accumulation", "step", "epoch end", "evaluation", "last step"]
OPTIMIZERS = ["adamw_torch", "paged_adamw_8bit", "adafactor"]
WORKERS = [0, 2]


class Killed(BaseException):
    """Stands for a process that dies."""


class Traced(MedTrainer):
    """Keeps what each micro-step came to, by step and micro-batch, and is cut where it is told to.

    Attributes:
        cut: One of CUTS; empty for none.
        trace: Loss, digest of the samples, and learning rate.
    """

    cut = ""

    def begin(self, cut: str, trace: dict[tuple[int, int], set[Any]]) -> "Traced":
        """Adds to a trace until it is cut."""
        self.cut, self.trace = cut, trace
        self.add_callback(Cut(self))
        return self

    def training_step(self, model: Any, inputs: Any, *arguments: Any, **more: Any) -> torch.Tensor:
        """Traced; one cut falls between two micro-batches."""
        step = self.state.global_step
        micro = self.micro = self.micro + 1 if getattr(self, "of_step", -1) == step else 0
        self.of_step = step
        if self.cut == "mid-accumulation" and (step, micro) == (4, 1):
            raise Killed
        samples = hashlib.sha256(inputs["input_ids"].numpy().tobytes()).hexdigest()
        loss = super().training_step(model, inputs, *arguments, **more)
        values = (float(loss).hex(), samples, self.lr_scheduler.get_last_lr()[0])
        self.trace.setdefault((step, micro), set()).add(values)
        return loss


class Cut(TrainerCallback):
    """Cuts at the ends of steps, evaluations and epochs; always before the checkpoint of that step, but for the last."""

    def __init__(self, trainer: Traced):
        self.trainer = trainer

    def at(self, place: str) -> None:
        """Dies there."""
        if self.trainer.cut == place:
            raise Killed

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After the fifth step, which has no checkpoint."""
        if state.global_step == 5:
            self.at("step")

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After the evaluation of the sixth step."""
        if state.global_step == 6:
            self.at("evaluation")

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """At the end of the first epoch."""
        self.at("epoch end")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After the checkpoint of the last step."""
        if state.global_step == state.max_steps:
            self.at("last step")


def cells() -> list[Any]:
    """Method, optimizer, workers, cut point."""
    chosen = [("LoRA, fused", "adamw_torch", 0, "evaluation")]
    if os.environ.get("MEDLLM_CUTS") == "all":
        rest: Any = itertools.product(METHODS, OPTIMIZERS, WORKERS, CUTS)
    else:  # every method at every cut point
        turns = zip(
            itertools.product(METHODS, CUTS), itertools.cycle(itertools.product(OPTIMIZERS, WORKERS)), strict=False
        )
        rest = [(method, optimizer, workers, cut) for (method, cut), (optimizer, workers) in turns]
    return [*chosen, *(pytest.param(*cell, marks=pytest.mark.slow) for cell in rest if cell not in chosen)]


def trained(conf: Any, folder: Path, cut: str, trace: dict[tuple[int, int], set[Any]]) -> MedTrainer:
    """A trainer as a run builds it, after training from the newest checkpoint in its folder to the cut or the end."""
    datasets, model = datasets_of(conf), model_of(conf)
    engine = build_engine(conf, model, datasets, "cpu")
    while engine is not None and engine.plan.micro_batches == 1:  # which leaves no middle of an accumulation
        engine.release()
        engine = build_engine(conf, model, datasets, "cpu", below=engine.plan.peak)
    arguments = build_arguments(conf.trainer, folder, conf.seed, engine.plan if engine else None)
    trainer = Traced(conf=conf.trainer, datasets=datasets, model=model, args=arguments, engine=engine)
    checkpoint = newest_valid(folder)
    try:
        trainer.begin(cut, trace).train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        assert not cut, "was not cut"
    except Killed:
        assert cut
    return trainer


@pytest.mark.parametrize(("method", "optimizer", "workers", "cut"), cells())
def test_cut_and_resumed(method: str, optimizer: str, workers: int, cut: str, dialogues: Path, tmp_path: Path) -> None:
    """Nothing differs from the run that was not cut, and what was done twice came to the same twice."""
    own = ["trainer.max_steps=8", "trainer.gradient_accumulation_steps=2", "trainer.per_device_train_batch_size=1"]
    own += ["data.max_length=128", "data.eval_fraction=0.2", "trainer.eval_steps=3", "trainer.save_strategy=steps"]
    own += ["trainer.save_steps=2", f"trainer.optim={optimizer}", f"trainer.dataloader_num_workers={workers}"]
    dropout = [] if method == "full" else ["lora.lora_dropout=0.1"]
    conf = tiny_run(dialogues, *own, *METHODS[method], *dropout)
    whole: dict[tuple[int, int], set[Any]] = {}
    parts: dict[tuple[int, int], set[Any]] = {}
    expected = trained(conf, tmp_path / "whole", "", whole)
    trained(conf, tmp_path / "parts", cut, parts)
    resumed = trained(conf, tmp_path / "parts", "", parts)
    assert parts == whole
    assert len({step for step, _ in whole}) == 8
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed.model), weights(expected.model), strict=True))
    assert resumed.mean_train_loss == expected.mean_train_loss
    held_out = [[e["eval_loss"] for e in t.state.log_history if "eval_loss" in e] for t in (resumed, expected)]
    assert held_out[0] == held_out[1]
    assert len(held_out[0]) == 3
