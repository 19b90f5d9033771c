"""The `trainer` group."""

from dataclasses import fields
from pathlib import Path

import pytest
from transformers import TrainingArguments

from medllm.config.trainer import TrainerConf
from medllm.training.arguments import OURS, build_arguments
from tests.conf.groups import assert_round_trips, load, options, refusal


@pytest.mark.parametrize("option", options("trainer"))
def test_composes_and_round_trips(option: str, tmp_path: Path) -> None:
    """Each option composes, validates and survives YAML."""
    assert_round_trips(load("trainer", option), tmp_path)


@pytest.mark.parametrize("option", options("trainer"))
def test_builds_the_upstream_object(option: str, tmp_path: Path) -> None:
    """Each option becomes TrainingArguments that report to nobody and hide no NaN."""
    conf = load("trainer", option).trainer
    conf.use_cpu = True
    arguments = build_arguments(conf, tmp_path, seed=7)
    assert isinstance(arguments, TrainingArguments)
    assert (arguments.report_to, arguments.logging_nan_inf_filter, arguments.seed) == ([], False, 7)
    assert arguments.learning_rate == conf.learning_rate
    assert arguments.optim == conf.optim.value


def test_field_names_are_upstream_names() -> None:
    """Our keys are transformers' keys, so that its documentation is ours."""
    assert {f.name for f in fields(TrainerConf)} - set(OURS) <= {f.name for f in fields(TrainingArguments)}


def test_notebook_is_the_guide() -> None:
    """Cell 15, value by value."""
    conf = load("trainer", "notebook").trainer
    given = (conf.per_device_train_batch_size, conf.gradient_accumulation_steps, conf.optim.value, conf.warmup_steps)
    assert given == (1, 2, "paged_adamw_32bit", 10)
    assert (conf.learning_rate, conf.eval_steps, conf.logging_steps, conf.num_train_epochs) == (2e-4, 0.2, 1, 1)


def test_refusals() -> None:
    """Unknown key, wrong type, out of range."""
    assert "did you mean trainer.learning_rate?" in refusal("trainer.learnig_rate=1e-4")
    assert refusal("trainer.bf16=maybe") == (
        "1 fault in the configuration:\n  trainer.bf16=maybe: has the wrong type\n      allowed: true or false"
    )
    assert refusal("trainer.learning_rate=-1") == (
        "1 fault in the configuration:\n  trainer.learning_rate=-1.0: is out of range\n      allowed: > 0 and <= 1"
    )
    assert "trainer.learning_rate=nan: is out of range" in refusal("trainer.learning_rate=nan")
    assert "no such value" in refusal("trainer.optim=adamm")
    assert "trainer.max_steps=0: trains nothing" in refusal("trainer.max_steps=0")
    assert "trainer.num_train_epochs=inf: is out of range" in refusal("trainer.num_train_epochs=inf")
