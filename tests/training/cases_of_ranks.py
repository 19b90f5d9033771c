"""Trains cases under torchrun, for `test_ranks`: `torchrun ... -m tests.training.cases_of_ranks CASES FOLDER`.

CASES is JSON of {name: [overrides of a tiny run]}; what rank 0 found is left in FOLDER as `<name>.pt`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from medllm import ranks
from medllm.config.lora import NoAdapterConf
from medllm.errors import NonFiniteError
from medllm.models.adapter import save_model
from medllm.training.arguments import build_arguments
from medllm.training.engine import build_engine
from medllm.training.trainer import MedTrainer
from tests.training.runs import datasets_of, model_of, tiny_run, weights

NAMES = ("loss", "grad_norm", "eval_loss", "eval_token_accuracy", "eval_num_tokens")


def trained(dialogues: Path, overrides: list[str], folder: Path) -> dict[str, Any]:
    """What a run came to: its numbers by name, held-out losses, tokens and weights."""
    full = "trainer.fsdp=true" in overrides or "lora=none" in overrides
    conf = tiny_run(dialogues, *(override for override in overrides if override != "lora=none"))
    if full:
        conf.lora = NoAdapterConf()
    datasets, model = datasets_of(conf), model_of(conf)
    engine = build_engine(conf, model, datasets, "cpu")
    arguments = build_arguments(conf.trainer, folder, conf.seed, engine.plan if engine else None)
    trainer = MedTrainer(conf=conf.trainer, datasets=datasets, model=model, args=arguments, engine=engine)
    if folder.name.startswith("poisoned"):
        return poisoned(trainer)
    trainer.train(resume_from_checkpoint=conf.trainer.resume_from_checkpoint)
    trainer.evaluate()
    whole = trainer.gather_weights(torch.float32)
    if whole:
        save_model(trainer.model, folder / "artifact", state_dict=whole)
    history = trainer.state.log_history
    assert trainer.eval_losses is not None
    return {
        **{name: [entry[name] for entry in history if name in entry] for name in NAMES},
        "losses": trainer.eval_losses.loss.tolist(),
        "tokens": int(trainer.num_tokens),
        "supervised": int(trainer.num_supervised_tokens),
        "weights": weights(trainer.model) if not conf.trainer.fsdp else [],
        "whole": whole,
    }


def poisoned(trainer: MedTrainer) -> dict[str, Any]:
    """What is raised, and which weights are left, if rank 1 computes a NaN in its third micro-batch."""
    owner, name = (trainer, "compute_loss") if trainer.engine is None else (trainer.engine, "backward")
    compute, calls = getattr(owner, name), iter(range(1, 100))

    def faulty(*arguments: Any, **more: Any) -> torch.Tensor:
        loss: torch.Tensor = compute(*arguments, **more)
        return loss * float("nan") if next(calls) == 3 and ranks.rank() == 1 else loss

    setattr(owner, name, faulty)
    try:
        trainer.train()
    except NonFiniteError as error:
        return {"error": str(error), "step": trainer.state.global_step, "weights": weights(trainer.model)}
    raise AssertionError("nothing was raised")


def main() -> None:
    """All cases, one after the other."""
    cases, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    with ranks.connected("cpu"):
        for name, overrides in cases.items():
            found = ranks.gather(trained(folder / "dialogues.csv", overrides, folder / name))
            if ranks.is_main():
                torch.save(found, folder / f"{name}.pt")


if __name__ == "__main__":
    main()
