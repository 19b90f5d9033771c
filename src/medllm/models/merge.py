"""Merges an adapter into its base, one file of weights after the other: no model is ever in memory.

The base is walked by the names of its own files. Only what an adapter changes is computed, by peft's own layers, in float32; then
it is rounded to the model's type once. An adapter that was trained on a 4-bit base has learned beside the weights that 4 bit
leave, so by default it is merged into those: in the original ones it would meet a base that it has never seen.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from medllm.config.export import Onto
from medllm.config.lora import Ia3Conf, LoraConf
from medllm.config.model import ModelConf, PretrainedModelConf
from medllm.config.quantization import FourBitConf, NoQuantizationConf, QuantizationConf
from medllm.config.run import RunConf
from medllm.errors import ModelError
from medllm.models.base import build_base_model, build_tokenizer, hub_arguments, reported, resolve
from medllm.models.preflight import meta_model, with_embeddings

Tensor = torch.Tensor
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


def check_mergeable(conf: RunConf) -> None:
    """Before anything is read.

    Raises:
        ModelError: if this kind of adapter is no change of weights, or of weights that cannot be written out exactly.
    """
    if not isinstance(conf.lora, LoraConf | Ia3Conf):
        kind = type(conf.lora).__name__.removesuffix("Conf")
        raise ModelError(
            f"lora: {kind} changes no weights of the base, so there is nothing to merge\n"
            "    fix: formats=[adapter]; full fine-tuning leaves a whole model as it is"
        )
    if isinstance(conf.model, PretrainedModelConf) and conf.model.trust_remote_code:
        raise ModelError(
            "model.trust_remote_code=true: what such code makes of the weights is not known from its files"
        )


def merge(conf: RunConf, adapter: Path, folder: Path, onto: Onto, on_file: Callable[[int, int], None]) -> Any:
    """Writes the merged weights and their index; returns transformers' config of the model.

    Args:
        conf: The run's, of which `check_mergeable` says nothing.
        adapter: Folder of the saved adapter.
        folder: Empty or new.
        onto: The base to merge into.
        on_file: Told how many files are done, and of how many.

    Raises:
        ModelError: if the base cannot be found, or does not fit the adapter.
    """
    import peft
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.save_and_load import load_peft_weights
    from safetensors.torch import save_file

    new_token_ids = build_tokenizer(conf.model).new_token_ids
    dtype = getattr(torch, conf.model.dtype.value)
    skeleton = with_embeddings(meta_model(conf.model, dtype=dtype), new_token_ids)
    config, output = skeleton.config, skeleton.get_output_embeddings()
    shapes = {name: tuple(p.shape) for name, p in skeleton.named_parameters(remove_duplicate=False)}
    quantized = {
        f"{name}.weight"
        for name, module in skeleton.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not output
    }
    peft_config = peft.PeftConfig.from_pretrained(str(adapter))
    skeleton.name_or_path = peft_config.base_model_name_or_path
    model = peft.get_peft_model(skeleton, peft_config, low_cpu_mem_usage=True)
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):  # peft moves an adapter to where its base is, which must be somewhere
            module.get_base_layer().weight = torch.nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False)
    peft.set_peft_model_state_dict(model, load_peft_weights(str(adapter), device="cpu"), low_cpu_mem_usage=True)
    changes = dict(_changes(model.get_base_model()))
    round_trip = _round_trip(conf.quantization) if onto is Onto.trained else lambda weight: weight
    folder.mkdir(parents=True, exist_ok=True)
    sources = list(_files(conf.model))
    places: dict[str, str] = {}
    for number, (file, names, read) in enumerate(sources):
        merged = {}
        for name in names:
            weight = read(name).to(dtype)
            weight = round_trip(weight) if name in quantized else weight
            if name in changes:
                weight = changes[name](_lengthened(weight, shapes[name])).to(dtype)
            merged[name] = weight.contiguous()
        save_file(merged, folder / file, {"format": "pt"})
        places |= dict.fromkeys(merged, file)
        on_file(number + 1, len(sources))
    missing = sorted(set(changes) - set(places))
    if missing:
        raise ModelError(f"the base's files hold no {', '.join(missing[:3])}, which the adapter changes")
    if len(sources) > 1:
        size = sum((folder / file).stat().st_size for file, *_ in sources)
        index = {"metadata": {"total_size": size}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return config


def _changes(model: Any) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """What the adapter does to a weight, by the weight's name in the base; the base itself is on the meta device."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    def merged(module: Any, place: Any) -> Callable[[Tensor], Tensor]:
        def change(weight: Tensor) -> Tensor:
            empty = place.weight
            place.weight = torch.nn.Parameter(weight.float(), requires_grad=False)
            module.merge(safe_merge=True)
            result = place.weight.data
            place.weight = empty
            return result

        return change

    for name, module in model.named_modules():
        if isinstance(module, AuxiliaryTrainingWrapper) and hasattr(module, "token_adapter"):
            inner = module.token_adapter
            yield f"{name}.weight", merged(inner, inner.base_layer)
        elif isinstance(module, BaseTunerLayer) and ".token_adapter" not in name:
            yield f"{name}.weight", merged(module, module.get_base_layer())


def _lengthened(weight: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Embeddings with rows for new tokens, which the adapter fills."""
    if weight.shape == shape:
        return weight
    return torch.cat((weight, weight.new_zeros(shape[0] - weight.shape[0], *shape[1:])))


def _round_trip(conf: QuantizationConf) -> Callable[[Tensor], Tensor]:
    """What a weight was during training: quantized, and written out again at every product."""
    if isinstance(conf, NoQuantizationConf):
        return lambda weight: weight
    if not isinstance(conf, FourBitConf):
        raise ModelError(
            "quantization=int8: its products round what goes in too, so no weights give the trained model exactly\n"
            "    fix: onto=original"
        )
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    def through(weight: Tensor) -> Tensor:
        packed, state = quantize_4bit(
            weight, quant_type=conf.bnb_4bit_quant_type.value, compress_statistics=conf.bnb_4bit_use_double_quant
        )
        written: Tensor = dequantize_4bit(packed, state).to(getattr(torch, conf.bnb_4bit_compute_dtype.value))
        return written

    return through


def _files(conf: ModelConf) -> Iterator[tuple[str, list[str], Callable[[str], Tensor]]]:
    """Each file of the base's weights: its name, what it holds, and a reader."""
    from safetensors import safe_open

    if not isinstance(conf, PretrainedModelConf):  # made of random numbers: small, and in no file
        model = build_base_model(conf, NoQuantizationConf(), build_tokenizer(conf))
        parameters = dict(model.named_parameters())  # each once: tied embeddings too
        yield SINGLE, list(parameters), parameters.__getitem__
        return
    folder = _local(conf)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} holds no safetensors weights")
    for file in files:

        def read(name: str, file: Path = file) -> Tensor:
            with safe_open(file, "pt") as opened:
                tensor: Tensor = opened.get_tensor(name)
            return tensor

        with safe_open(file, "pt") as opened:
            yield file.name, list(opened.keys()), read


def _local(conf: PretrainedModelConf) -> Path:
    name = resolve(conf)
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    with reported(conf):
        return Path(
            snapshot_download(name, revision=hub_arguments(conf)["revision"], allow_patterns=["*.safetensors*"])
        )
