"""Attaches what is trained: LoRA and its variants, IA3, prefix tuning, adapter layers, or nothing for full fine-tuning."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from medllm.config.lora import (
    AdapterConf,
    AdapterLayersConf,
    Ia3Conf,
    InitLoraWeights,
    LoraConf,
    NoAdapterConf,
    PrefixTuningConf,
)
from medllm.errors import ModelError
from medllm.models.quantization import bitsandbytes_fault

TASK = "CAUSAL_LM"
WEIGHTS = "adapter_model.safetensors"


def build_peft_config(
    conf: AdapterConf, *, num_hidden_layers: int, new_token_ids: tuple[int, ...] = (), tied: bool = True
) -> Any:
    """The peft config of an adapter; None for full fine-tuning.

    Args:
        conf: The `lora` group.
        num_hidden_layers: Of the base model.
        new_token_ids: Tokens whose embeddings the adapter trains too.
        tied: Whether input and output embeddings share their weights.

    Raises:
        ModelError: if there are new tokens and the method cannot train their embeddings.
    """
    import peft

    if isinstance(conf, NoAdapterConf):
        return None
    if isinstance(conf, LoraConf):
        start = conf.init_lora_weights
        return peft.LoraConfig(
            task_type=TASK,
            r=conf.r,
            lora_alpha=conf.lora_alpha,
            lora_dropout=conf.lora_dropout,
            target_modules=list(conf.target_modules),
            bias=conf.bias.value,
            use_dora=conf.use_dora,
            use_rslora=conf.use_rslora,
            init_lora_weights=True if start is InitLoraWeights.kaiming else start.value,
            trainable_token_indices=_trainable_tokens(new_token_ids, tied),
        )
    if new_token_ids:
        raise ModelError(
            f"the tokenizer has {len(new_token_ids)} new tokens, whose embeddings this adapter cannot train\n"
            "    fix: lora=default (it trains them too), lora=none, or model.chat_format=native"
        )
    if isinstance(conf, Ia3Conf):
        return peft.IA3Config(
            task_type=TASK,
            target_modules=list(conf.target_modules),
            feedforward_modules=list(conf.feedforward_modules),
        )
    if isinstance(conf, PrefixTuningConf):
        return peft.PrefixTuningConfig(
            task_type=TASK, num_virtual_tokens=conf.num_virtual_tokens, prefix_projection=conf.prefix_projection
        )
    if isinstance(conf, AdapterLayersConf):
        layers = conf.adapter_layers or num_hidden_layers
        return peft.AdaptionPromptConfig(task_type=TASK, adapter_len=conf.adapter_len, adapter_layers=layers)
    raise ModelError(f"lora: no builder for {type(conf).__name__}")


def _trainable_tokens(new_token_ids: tuple[int, ...], tied: bool) -> Any:
    if not new_token_ids:
        return None
    # Untied, the model must learn both to read the new tokens and to write them.
    return list(new_token_ids) if tied else {"embed_tokens": list(new_token_ids), "lm_head": list(new_token_ids)}


def attach_adapter(base: Any, conf: AdapterConf, new_token_ids: tuple[int, ...] = (), name: str = "") -> Any:
    """The model that is trained: the frozen base with an adapter on it, or the base itself unfrozen.

    Seed before calling: the adapter's initialisation draws random numbers.

    Args:
        base: From `build_base_model`.
        conf: The `lora` group.
        new_token_ids: See `build_peft_config`.
        name: What the saved adapter names as its base.
    """
    tied = bool(base.config.tie_word_embeddings)
    layers = int(base.config.num_hidden_layers)
    peft_config = build_peft_config(conf, num_hidden_layers=layers, new_token_ids=new_token_ids, tied=tied)
    if peft_config is None:
        return base.requires_grad_(True)
    bitsandbytes_fault()  # peft is not to find a broken one
    import peft

    model = peft.get_peft_model(base, peft_config)
    model.peft_config["default"].base_model_name_or_path = name
    # Of checkpoints too: resized embeddings stay out, for the rows that were trained are in the adapter. By default peft asks the
    # hub for the base's vocabulary whenever it saves.
    model.save_pretrained = functools.partial(model.save_pretrained, save_embedding_layers=False)
    return _keep_dtype(model)


def _keep_dtype(model: Any) -> Any:
    """Makes IA3 layers on a quantized base answer in the precision they were asked in.

    Without autocast peft 0.21 computes them in float32 and leaves the result there, so that attention meets bfloat16 queries
    and float32 keys and raises. Delete this once `peft.tuners.ia3.bnb` casts back to the input's dtype.
    """
    from peft.tuners.ia3.layer import IA3Layer

    for module in model.modules():
        if isinstance(module, IA3Layer):
            module.register_forward_hook(lambda layer, inputs, output: output.to(inputs[0].dtype))
    return model


def is_adapter(model: Any) -> bool:
    """Whether the model is a base with an adapter on it."""
    import peft

    return isinstance(model, peft.PeftModel)


def changes_base(conf: AdapterConf) -> bool:
    """Whether attaching this adapter moves base weights into it (PiSSA, OLoRA)."""
    return isinstance(conf, LoraConf) and conf.init_lora_weights.changes_base


def save_initial(model: Any, folder: Path) -> None:
    """Keeps the freshly initialised adapter of a method that changes the base; `save_model` subtracts it."""
    config = model.peft_config["default"]
    method, config.init_lora_weights = config.init_lora_weights, True
    model.save_pretrained(folder)
    config.init_lora_weights = method


def save_model(model: Any, folder: Path, initial: Path | None = None, state_dict: dict[str, Any] | None = None) -> None:
    """Writes adapter or full model as safetensors.

    Args:
        model: From `attach_adapter`, trained.
        folder: Made if needed.
        initial: For methods that change the base: what `save_initial` wrote. The difference is saved as a plain LoRA of
            twice the rank, which loads onto the untouched base (PiSSA, arXiv 2404.02948, appendix C).
        state_dict: The full model's weights, where the model itself holds only a part of them.
    """
    if not is_adapter(model):
        model.save_pretrained(folder, state_dict=state_dict)
    elif initial is None:
        model.save_pretrained(folder)
    else:
        model.save_pretrained(folder, path_initial_model_for_weight_conversion=str(initial))
    (folder / "README.md").unlink(missing_ok=True)  # peft's card states next to nothing


def load_adapter(base: Any, folder: Path) -> Any:
    """The base with a saved adapter on it, for inference.

    Raises:
        ModelError: if it cannot be read; or if its weights are not safetensors: peft would unpickle what it finds instead, or ask
            the hub.
    """
    import peft

    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder} holds no {WEIGHTS}\n    fix: give the folder of an adapter saved as safetensors")
    try:
        model = peft.PeftModel.from_pretrained(base, str(folder)).eval()
    except (ValueError, TypeError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        fix = "take the adapter from who trained it, or train it again"
        raise ModelError(f"{folder} cannot be loaded: {reason}\n    fix: {fix}") from None
    return _keep_dtype(model)


def undressed(model: Any, *, tuned: bool) -> tuple[Any, Callable[[int], Any]]:
    """The transformers model inside, whose layers hold the adapter, and what makes an empty cache for it.

    peft gives learned prefixes a place in front of every prompt whenever its own model is called; who steps through an answer by
    himself puts them there once.

    Args:
        model: Base or tuned.
        tuned: Whether its adapter is on.

    Returns:
        The model, and a function from the number of rows to their cache, with the prefixes in it if there are any.
    """
    from transformers import DynamicCache

    inner = model.get_base_model() if is_adapter(model) else model
    if tuned and is_adapter(model) and model.active_peft_config.is_prompt_learning:
        return inner, model.get_prompt
    return inner, lambda count: DynamicCache(config=inner.config)


def count_parameters(model: Any) -> tuple[int, int]:
    """Trainable and total parameters; a 4-bit weight counts as the weights it stands for."""
    if is_adapter(model):
        trainable, total = model.get_nb_trainable_parameters()
        return int(trainable), int(total)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trainable, int(model.num_parameters())
