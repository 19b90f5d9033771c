"""Gate 3: what the base model's config files and its skeleton on the meta device tell before any weight is loaded."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from medllm.config.lora import AdapterConf, InitLoraWeights, LoraConf, NoAdapterConf, TargetedAdapterConf
from medllm.config.model import AttnImplementation, ModelConf, PretrainedModelConf
from medllm.config.quantization import BitsAndBytesConf, NoQuantizationConf, OnMissing
from medllm.config.run import RunConf
from medllm.config.trainer import Optimizer
from medllm.errors import Fault, ModelError
from medllm.models.adapter import attach_adapter, count_parameters
from medllm.models.base import build_model_config, build_tokenizer, is_at_hand, pick_device
from medllm.models.quantization import backend_fault, bitsandbytes_fault
from medllm.ranks import local_rank


@dataclass(frozen=True)
class Skeleton:
    """The base model without weights.

    Attributes:
        context_length: Most tokens the model can read; None if its config does not say.
        modules: Dotted names of all modules.
        new_token_ids: What its tokenizer had to be given.
    """

    context_length: int | None
    modules: tuple[str, ...]
    new_token_ids: tuple[int, ...]


def meta_model(conf: ModelConf, **arguments: Any) -> Any:
    """The base model on the meta device: every shape, no memory; with arguments of transformers' `from_config`."""
    from transformers import AutoModelForCausalLM

    config = build_model_config(conf)
    if isinstance(conf, PretrainedModelConf):
        arguments["trust_remote_code"] = conf.trust_remote_code
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, **arguments)


# Optimizers of bitsandbytes.
BITSANDBYTES = (Optimizer.adamw_8bit, Optimizer.paged_adamw_32bit, Optimizer.paged_adamw_8bit)


def degraded(conf: RunConf) -> tuple[RunConf, str]:
    """A run as this machine can compute it, if its user allowed that (`quantization.on_missing=degrade`), and why.

    Without quantization where that is missing, then, and with torch's AdamW where an optimizer is; the reason is empty where the
    run stays as it is.
    """
    quantization = conf.quantization
    if not isinstance(quantization, BitsAndBytesConf) or quantization.on_missing is OnMissing.error:
        return conf, ""
    reason = backend_fault(quantization, pick_device(conf.trainer.use_cpu))
    if not reason:
        return conf, ""
    trainer = replace(conf.trainer, optim=Optimizer.adamw_torch) if _optimizer_fault(conf) else conf.trainer
    return replace(conf, quantization=NoQuantizationConf(), trainer=trainer), reason


_skeletons: dict[str, Skeleton] = {}


def skeleton(conf: ModelConf) -> Skeleton:
    """The skeleton of a base model, made once per process and model: the points of a sweep mostly share it."""
    key = repr(conf)
    if key not in _skeletons:
        model = meta_model(conf)
        modules = tuple(name for name, _ in model.named_modules())
        context = getattr(model.config, "max_position_embeddings", None)
        _skeletons[key] = Skeleton(context, modules, build_tokenizer(conf).new_token_ids)
    return _skeletons[key]


def preflight_faults(conf: RunConf) -> list[Fault]:
    """What would fail or go wrong later: context length, target modules, attention, backend, precision, new tokens."""
    device = pick_device(conf.trainer.use_cpu)
    found = _device_faults(conf, device)
    if found and not is_at_hand(conf.model):  # nothing is downloaded for a run that this machine cannot train
        return found
    try:
        base = skeleton(conf.model)
    except ModelError as error:
        return [*found, Fault("", str(error))]
    if base.context_length is not None and conf.data.max_length > base.context_length:
        allowed = f"at most the model's context of {base.context_length}"
        found.append(Fault("data.max_length", "is beyond what the model can read", str(conf.data.max_length), allowed))
    found += target_faults(conf.lora, base)
    if base.new_token_ids and not isinstance(conf.lora, LoraConf | NoAdapterConf):
        fix = "lora=default (it trains them too), lora=none, or model.chat_format=native"
        problem = f"leaves the embeddings of {len(base.new_token_ids)} new tokens untrained"
        found.append(Fault("model.chat_format", problem, conf.model.chat_format.name, fix=fix))
    return found


_counts: dict[str, tuple[int, int]] = {}


def count_trainable(conf: RunConf) -> tuple[int, int]:
    """Trainable and total parameters of a run, counted on the skeleton, once per process, model and adapter."""
    key = repr((conf.model, conf.lora))
    if key not in _counts:
        lora = conf.lora
        if isinstance(
            lora, LoraConf
        ):  # shapes do not depend on first values, which some methods compute from the weights
            lora = replace(lora, init_lora_weights=InitLoraWeights.kaiming)
        new = skeleton(conf.model).new_token_ids
        model = attach_adapter(with_embeddings(meta_model(conf.model), new), lora, new)
        _counts[key] = count_parameters(model)
    return _counts[key]


def with_embeddings(model: Any, new_token_ids: tuple[int, ...]) -> Any:
    """The skeleton with embeddings for new tokens too."""
    size = model.get_input_embeddings().weight.shape[0]
    if new_token_ids and max(new_token_ids) >= size:
        model.resize_token_embeddings(max(new_token_ids) + 1, mean_resizing=False)
    return model


def target_faults(conf: AdapterConf, base: Skeleton) -> list[Fault]:
    """Target modules that the model does not have."""
    if not isinstance(conf, TargetedAdapterConf):
        return []
    leaves = {name.rpartition(".")[2] for name in base.modules if name}
    missing = [
        target
        for target in conf.target_modules
        if not any(name == target or name.endswith(f".{target}") for name in base.modules)
    ]
    if not missing:
        return []
    allowed = ", ".join(sorted(name for name in leaves if "proj" in name or name.startswith(("c_", "fc", "query"))))
    fix = "lora.target_modules=[" + ",".join(t for t in conf.target_modules if t not in missing) + "]"
    return [Fault("lora.target_modules", "match no module of the model", str(missing), allowed=allowed, fix=fix)]


def _device_faults(conf: RunConf, device: str) -> list[Fault]:
    from transformers.utils import is_flash_attn_2_available

    found = []
    if device != "cpu" and local_rank() >= torch.cuda.device_count():
        fix = f"torchrun --nproc_per_node={torch.cuda.device_count()}"
        found.append(Fault("", f"more processes than the {torch.cuda.device_count()} GPUs of this machine", fix=fix))
    if conf.model.attn_implementation is AttnImplementation.flash_attention_2 and not is_flash_attn_2_available():
        fix = "model.attn_implementation=sdpa, or install flash-attn"
        found.append(Fault("model.attn_implementation", "is not installed", "flash_attention_2", fix=fix))
    if device != "cpu" and conf.trainer.bf16 and not torch.cuda.is_bf16_supported():
        fix = "trainer.bf16=false trainer.fp16=true model.dtype=float16 (and the compute dtype of the quantization)"
        found.append(Fault("trainer.bf16", f"is not supported by {torch.cuda.get_device_name()}", "true", fix=fix))
    if device == "cpu" and conf.trainer.fp16:
        fix = "trainer.fp16=false trainer.bf16=true"
        found.append(Fault("trainer.fp16", "needs a GPU", "true", fix=fix))
    reason = backend_fault(conf.quantization, device)
    if reason:
        fix = "quantization=none, or quantization.on_missing=degrade, which is that wherever it does not work"
        found.append(Fault("quantization", reason, fix=fix))
    reason = _optimizer_fault(conf)
    if reason:
        found.append(Fault("trainer.optim", reason, conf.trainer.optim.value, fix="trainer.optim=adamw_torch"))
    return found


def _optimizer_fault(conf: RunConf) -> str:
    """Why the optimizer is not there; empty if it is."""
    if conf.trainer.optim not in BITSANDBYTES:
        return ""
    reason = bitsandbytes_fault()
    return f"is of bitsandbytes, which does not work here: {reason}" if reason else ""
