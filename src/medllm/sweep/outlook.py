"""What a point will take, known before any weight is loaded: parameters, steps, tokens, and time where its like was measured."""

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
from medllm.models.base import build_tokenizer
from medllm.models.preflight import count_trainable
from medllm.sweep.identity import point_key
from medllm.sweep.rates import Rate, read_rate, write_rate


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
        rate: Measured on an earlier run of the kind; None if there is none.
    """

    key: str
    fingerprint: str
    steps: int
    tokens: int
    trainable: int
    total: int
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


def outlooks(points: Sequence[Point], *, calibrate: bool = False) -> list[Outlook]:
    """Prepares the data of all points, which is needed anyway, and prices each.

    Args:
        points: Checked.
        calibrate: Measure two steps of each kind of run that has never been measured here.

    Raises:
        DataError: if the data of a point cannot be prepared.
    """
    datasets: dict[str, Datasets] = {}
    found = []
    for point in points:
        conf = point.conf
        name = data_name(conf)
        if name not in datasets:
            datasets = {name: prepare(conf)}
        found.append(_outlook(conf, datasets[name], calibrate))
    return found


def _outlook(conf: RunConf, datasets: Datasets, calibrate: bool) -> Outlook:
    rows = len(datasets.train.dataset)
    steps, per_epoch = optimizer_steps(conf, rows)
    trainable, total = count_trainable(conf)
    rate = read_rate(conf)
    if rate is None and calibrate:
        rate = measure_rate(conf)
    return Outlook(
        key=point_key(conf, datasets.fingerprint),
        fingerprint=datasets.fingerprint,
        steps=steps,
        tokens=round(datasets.train.num_tokens * steps / per_epoch),
        trainable=trainable,
        total=total,
        rate=rate,
    )


def measure_rate(conf: RunConf) -> Rate:
    """Two real steps, with everything around them, of a run like this one; nothing of it is kept."""
    trainer = replace(conf.trainer, max_steps=2, eval_strategy=Strategy.no, save_strategy=Strategy.no)
    short = replace(conf, trainer=trainer, tracking=NoTrackingConf())
    with tempfile.TemporaryDirectory() as folder:
        result = run_training(short, Path(folder))
    rate = Rate(result.tokens_per_second, result.seconds - result.train_seconds, "two measured steps")
    write_rate(conf, rate)
    return rate
