"""Schemas of the `quantization` group; field names are those of `transformers.BitsAndBytesConfig`."""

from dataclasses import dataclass
from enum import Enum

from medllm.config.conf import Conf, ranged
from medllm.config.model import Dtype


class QuantType(Enum):
    """4-bit data types of bitsandbytes."""

    nf4 = "nf4"
    fp4 = "fp4"


class OnMissing(Enum):
    """What becomes of a run where bitsandbytes does not work."""

    error = "error"
    degrade = "degrade"


@dataclass
class QuantizationConf(Conf):
    """Base of the group."""


@dataclass
class NoQuantizationConf(QuantizationConf):
    """The base weights stay in `model.dtype`."""


@dataclass
class BitsAndBytesConf(QuantizationConf):
    """What bitsandbytes computes.

    Attributes:
        on_missing: Where it does not work, a run is refused (`error`), or trains as with `quantization=none` (`degrade`), which
            its record is tagged with.
    """

    on_missing: OnMissing = OnMissing.error


@dataclass
class Int8Conf(BitsAndBytesConf):
    """LLM.int8() (arXiv 2208.07339): 8-bit weights, outlier features above the threshold computed in 16 bit."""

    llm_int8_threshold: float = ranged(6.0, ge=0)


@dataclass
class FourBitConf(BitsAndBytesConf):
    """4-bit weights as in QLoRA (arXiv 2305.14314).

    Attributes:
        bnb_4bit_use_double_quant: Quantizes the quantization constants too; saves about 0.4 bit a weight.
        bnb_4bit_compute_dtype: Precision of the matrix products.
    """

    bnb_4bit_quant_type: QuantType = QuantType.nf4
    bnb_4bit_use_double_quant: bool = False
    bnb_4bit_compute_dtype: Dtype = Dtype.bfloat16
