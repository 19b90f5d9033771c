"""When two runs train the same: what a sweep's points are told apart by, and what a run that goes on must not have changed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medllm.config.compose import resolved, run_conf_from_file
from medllm.config.plan import WITHOUT_EFFECT
from medllm.config.run import RunConf
from medllm.config.trainer import Scheduler, Strategy
from medllm.errors import ConfigError, Fault
from medllm.run_folder import CONFIG, read_base, read_data_report
from medllm.tracking.record import flatten

FIX = "hydra.run.dir=<another folder>, or the old value to go on"


def inert_keys(conf: RunConf) -> set[str]:
    """Keys that change neither what is trained nor what is measured, given the rest of the configuration.

    Those that only choose and clean conversations are among them: the data's fingerprint says what they came to.
    """
    trainer = conf.trainer
    inert = {
        "data.num_conversations",
        "data.shuffle_seed",
        "quantization.on_missing",
        "trainer.logging_steps",
        "trainer.save_strategy",
        "trainer.save_steps",
        "trainer.save_total_limit",
        "trainer.dataloader_num_workers",
        "trainer.per_device_eval_batch_size",
        "trainer.eval_strategy",
        "trainer.eval_steps",
    }
    if trainer.max_steps > 0:
        inert.add("trainer.num_train_epochs")
    if trainer.lr_scheduler_type is Scheduler.constant:
        inert.add("trainer.warmup_steps")
    if conf.data.eval_fraction == 0 or trainer.eval_strategy is Strategy.no:
        inert.add("trainer.eval_steps")
    if conf.data.eval_fraction == 0:
        inert.add("data.split_seed")
    return inert


def what_matters(conf: RunConf) -> dict[str, Any]:
    """The leaves of a configuration that decide what is trained and measured, the choice of conversations left out."""
    inert = inert_keys(conf)
    preparing = ("data.cleaning.", "data.deidentification.", "data.contamination.")
    return {
        name: value
        for name, value in flatten(resolved(conf)).items()
        if name not in inert and name.partition(".")[0] not in WITHOUT_EFFECT and not name.startswith(preparing)
    }


def refuse_other_run(conf: RunConf, folder: Path) -> None:
    """A run goes on in its folder as what it began as.

    Raises:
        ConfigError: with every key that matters and has another value than the run in the folder; or if nothing says what that
            began as.
    """
    path = folder / CONFIG
    if not path.exists():
        if (folder / "checkpoints").exists():
            problem = f"holds checkpoints, and no {CONFIG} says of what"
            fix = (
                "hydra.run.dir=<another folder>, or copy that file back, from the run record or a sweep's other points"
            )
            raise ConfigError(Fault("hydra.run.dir", problem, str(folder), fix=fix))
        return
    faults = _differences(path, conf, f"when the run in {folder} began", FIX)
    if faults:
        raise ConfigError(faults)


def refuse_other_shape(conf: RunConf, checkpoint: Path) -> None:
    """What a run begins with instead of nothing fits its model, as far as the folder says that the checkpoint lies in.

    Raises:
        ConfigError: with every key of base model, quantization and method that has another value than the checkpoint's run.
    """
    path = checkpoint.absolute().parents[1] / CONFIG
    if not path.is_file():
        return
    fix = "the old value, or leave trainer.resume_from_checkpoint out to begin anew"
    found = _differences(path, conf, f"in the run of {checkpoint}", fix)
    faults = [fault for fault in found if fault.key.partition(".")[0] in ("model", "quantization", "lora")]
    if faults:
        raise ConfigError(faults)


def _differences(path: Path, conf: RunConf, when: str, fix: str) -> list[Fault]:
    """Every key that matters and has another value than in the configuration there."""
    old, new = what_matters(run_conf_from_file(path)), what_matters(conf)
    return [
        Fault(key, f"was {_shown(old, key)} {when}", _shown(new, key), fix=fix)
        for key in sorted(old | new)
        if _shown(old, key) != _shown(new, key)
    ]


def refuse_other_data(fingerprint: str, fates: Mapping[str, int], folder: Path) -> None:
    """The conversations are those that the run in the folder began with, wherever they come from.

    Args:
        fingerprint: Of what is trained on and measured by now.
        fates: How many conversations were kept, truncated and so on.
        folder: Of the run.

    Raises:
        ConfigError: with both fingerprints, and what became of how many conversations.
    """
    report = read_data_report(folder)
    old = report.get("fingerprint", fingerprint)
    if old != fingerprint:
        then, now = (
            ", ".join([digest[:12], *(f"{count} {fate}" for fate, count in counts.items() if count)])
            for digest, counts in ((old, report.get("fates", {})), (fingerprint, fates))
        )
        raise ConfigError(Fault("data", f"was {then} when the run in {folder} began", now, fix=FIX))


def refuse_other_base(identity: str, folder: Path) -> None:
    """The base model's weights are those that the run in the folder began with, whatever its name stands for now.

    Raises:
        ConfigError: with the beginnings of both identities.
    """
    old = read_base(folder) or identity
    if old != identity:
        problem = f"had other weights ({old[:12]}) when the run in {folder} began"
        fix = "put them back (model.revision names a commit of the hub), or hydra.run.dir=<another folder>"
        raise ConfigError(Fault("model", problem, identity[:12], fix=fix))


def _shown(leaves: dict[str, Any], key: str) -> str:
    """A leaf as people write it."""
    if key not in leaves:
        return "not there"
    value = leaves[key]
    return value if isinstance(value, str) else json.dumps(value, default=str)
