"""The root of the configuration: one typed node per group."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from medllm.config.conf import Conf, ranged
from medllm.config.data import DataConf
from medllm.config.generation import GenerationConf
from medllm.config.hub import HubConf
from medllm.config.lora import AdapterConf
from medllm.config.model import ModelConf
from medllm.config.quantization import QuantizationConf
from medllm.config.sweep import SweepConf
from medllm.config.tracking import TrackingConf
from medllm.config.trainer import TrainerConf


@dataclass
class RunConf(Conf):
    """Everything that determines a run.

    Attributes:
        name: Names the output folder and the run record.
        seed: Seeds the adapter's initialisation, data order and dropout; set before the adapter is made.
    """

    name: str = MISSING
    seed: int = ranged(65, ge=0, lt=2**32)
    model: ModelConf = MISSING
    quantization: QuantizationConf = MISSING
    lora: AdapterConf = MISSING
    data: DataConf = MISSING
    trainer: TrainerConf = MISSING
    tracking: TrackingConf = MISSING
    generation: GenerationConf = MISSING
    hub: HubConf = field(default_factory=HubConf)


@dataclass
class RootConf(RunConf):
    """What a command line composes: a run, and how a sweep of such runs is made.

    Attributes:
        sweep: No part of any run, and so neither of its record nor of its identity.
    """

    sweep: SweepConf = field(default_factory=SweepConf)
