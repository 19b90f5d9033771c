"""How fast runs of one kind were on this machine and what they needed, remembered between runs for the plan of a sweep."""

import contextlib
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from medllm.cache import cache_dir, key_of
from medllm.config.lora import LoraConf
from medllm.config.rules import effective_batching
from medllm.config.run import RunConf
from medllm.result import Result
from medllm.run_folder import write_whole
from medllm.tracking.lineage import hardware


@dataclass(frozen=True)
class Rate:
    """Of one measured run.

    Attributes:
        tokens_per_second: In training steps.
        overhead_seconds: All else: loading, evaluation, sample answers, saving.
        source: The run it was measured on, to show.
        peak_memory_gib: Its peak, with the steps it took and the parameters it trained; NaN where that is not known.
    """

    tokens_per_second: float
    overhead_seconds: float
    source: str
    peak_memory_gib: float = math.nan
    steps: int = 0
    trainable: int = 0


def _path(conf: RunConf) -> Path:
    """Runs of one kind share what decides speed; a LoRA's rank and a learning rate do not."""
    lora = conf.lora
    if isinstance(lora, LoraConf):
        lora = replace(lora, r=8, lora_alpha=16, lora_dropout=0.05 if lora.lora_dropout else 0.0)
    shape = (
        conf.data.max_length,
        conf.trainer.per_device_train_batch_size,
        conf.trainer.gradient_checkpointing,
        conf.trainer.bf16,
        conf.trainer.fp16,
        conf.trainer.use_cpu,
        conf.trainer.per_device_eval_batch_size,
        conf.trainer.gradient_accumulation_steps > 1,
        conf.trainer.optim,
        conf.trainer.engine,
        conf.trainer.max_memory_gib,
        effective_batching(conf).name,
    )
    return cache_dir() / "rates" / f"{key_of(hardware(), conf.model, conf.quantization, lora, shape)}.json"


def read_rate(conf: RunConf) -> Rate | None:
    """The newest measurement for runs of this kind; None where there is none that can be read."""
    try:
        return Rate(**json.loads(_path(conf).read_text()))
    except (OSError, ValueError, TypeError):  # none, or a damaged one: the next run of the kind measures it again
        return None


def rate_of(result: Result, source: str) -> Rate:
    """What a finished run measured."""
    overhead = result.seconds - result.train_seconds
    return Rate(result.tokens_per_second, overhead, source, result.peak_memory_gib, result.steps, result.trainable)


def write_rate(conf: RunConf, rate: Rate) -> None:
    """Remembers a measurement, where the cache takes it: without one the next plan measures by itself."""
    path = _path(conf)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(rate)))
