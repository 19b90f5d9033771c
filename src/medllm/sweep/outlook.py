"""What a point will take, known before it starts: parameters, steps, tokens, memory, and time where its like was measured."""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medllm.config.plan import Point
from medllm.config.rules import effective_batching
from medllm.config.run import RunConf
from medllm.config.tracking import NoTrackingConf
from medllm.config.trainer import Strategy
from medllm.conversation import Renderer
from medllm.data.pipeline import Datasets, build_datasets
from medllm.experiment import run_training
from medllm.models.base import build_tokenizer, pick_device
from medllm.models.preflight import count_trainable
from medllm.sweep.identity import point_key
from medllm.sweep.rates import Rate, rate_of, read_rate, write_rate
from medllm.training.fitting import fitted, memory_limit_gib, process_gib

# What a trained parameter takes: weight, gradient and two states of the optimizer, in float32.
TRAINED_BYTES = 16


@dataclass(frozen=True)
class Outlook:
    """A point's price.

    Attributes:
        key: Identifies the point: its resolved configuration and its conversations.
        fingerprint: Of the conversations.
        steps: Optimizer steps.
        tokens: Trained on, padding left out; a mean where the last epoch is not whole.
        trainable: Parameters that are trained.
        total: All parameters.
        memory_gib: At the peak, on the run's device: of the GPU, or of the process. NaN where it cannot be told.
        rate: Measured on an earlier run of the kind; None if there is none.
    """

    key: str
    fingerprint: str
    steps: int
    tokens: int
    trainable: int
    total: int
    memory_gib: float
    rate: Rate | None

    @property
    def seconds(self) -> float:
        """NaN where nothing like it was measured."""
        if self.rate is None:
            return math.nan
        return self.rate.overhead_seconds + self.tokens / self.rate.tokens_per_second


def optimizer_steps(conf: RunConf, num_rows: int) -> tuple[int, float]:
    """Optimizer steps of a run and of one epoch, counted as transformers' Trainer does."""
    micro_batches = math.ceil(num_rows / conf.trainer.per_device_train_batch_size)
    per_epoch = max(math.ceil(micro_batches / conf.trainer.gradient_accumulation_steps), 1)
    if conf.trainer.max_steps > 0:
        return conf.trainer.max_steps, per_epoch
    return math.ceil(conf.trainer.num_train_epochs * per_epoch), per_epoch


def data_name(conf: RunConf) -> str:
    """Equal for runs on the same prepared data."""
    return repr((conf.data, conf.model, effective_batching(conf), conf.seed))


def prepare(conf: RunConf) -> Datasets:
    """The data of a run, prepared or from the cache."""
    renderer = Renderer(build_tokenizer(conf.model).tokenizer, conf.data.system_prompt)
    return build_datasets(conf.data, renderer, effective_batching(conf), conf.seed)


def outlooks(points: Sequence[Point], *, calibrate: bool = False, elsewhere: bool = False) -> list[Outlook]:
    """Prepares the data of all points, which is needed anyway, and prices each.

    Args:
        points: Checked.
        calibrate: Measure two steps of each kind of run that has never been measured here.
        elsewhere: Whether they may run on other machines.

    Raises:
        DataError: if the data of a point cannot be prepared.
    """
    process_gib()  # before a calibration makes the process larger
    datasets: dict[str, Datasets] = {}
    found = []
    for point in points:
        conf = point.conf
        name = data_name(conf)
        if name not in datasets:
            datasets = {name: prepare(conf)}
        found.append(_outlook(conf, datasets[name], peak_memory(conf, datasets[name], elsewhere), calibrate))
    return found


def peak_memory(conf: RunConf, datasets: Datasets, elsewhere: bool) -> float:
    """A run's peak in GiB; NaN where it cannot be told."""
    if elsewhere and pick_device(conf.trainer.use_cpu) == "cpu" and not conf.trainer.use_cpu:
        return math.nan  # typed where there is no GPU, for machines that have one
    return fitted(conf, datasets)[1]


def _outlook(conf: RunConf, datasets: Datasets, memory_gib: float, calibrate: bool) -> Outlook:
    rows = len(datasets.train.dataset)
    steps, per_epoch = optimizer_steps(conf, rows)
    trainable, total = count_trainable(conf)
    rate = read_rate(conf)
    if rate is None and calibrate and not memory_gib > memory_limit_gib(conf):
        rate = measure_rate(conf)
    return Outlook(
        key=point_key(conf, datasets.fingerprint),
        fingerprint=datasets.fingerprint,
        steps=steps,
        tokens=round(datasets.train.num_tokens * steps / per_epoch),
        trainable=trainable,
        total=total,
        memory_gib=_measured_memory(conf, rate, steps, trainable, memory_gib),
        rate=rate,
    )


def _measured_memory(conf: RunConf, rate: Rate | None, steps: int, trainable: int, estimate: float) -> float:
    """The peak of an earlier run of the kind, which on a CPU knows better; a shorter run's is the least there will be."""
    if rate is None or pick_device(conf.trainer.use_cpu) != "cpu" or not math.isfinite(rate.peak_memory_gib):
        return estimate
    known = rate.peak_memory_gib + (trainable - rate.trainable) * TRAINED_BYTES / 2**30
    return known if rate.steps >= steps else max(known, estimate)


def measure_rate(conf: RunConf) -> Rate:
    """Two real steps, with everything around them, of a run like this one; nothing of it is kept."""
    trainer = replace(conf.trainer, max_steps=2, eval_strategy=Strategy.no, save_strategy=Strategy.no)
    short = replace(conf, trainer=trainer, tracking=NoTrackingConf())
    with tempfile.TemporaryDirectory() as folder:
        result = run_training(short, Path(folder))
    rate = rate_of(result, "two measured steps")
    write_rate(conf, rate)
    return rate
