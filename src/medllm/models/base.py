"""Builds tokenizers and base models from the `model` and `quantization` groups."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from medllm import ranks
from medllm.cache import key_of
from medllm.config.model import ChatFormat, ModelConf, PretrainedModelConf, Source, TinyRandomModelConf, WheelModelConf
from medllm.config.paths import path_exists
from medllm.config.quantization import QuantizationConf
from medllm.config.trust import VARIABLE, trust_faults
from medllm.conversation import CHATML_TEMPLATE, CHATML_TOKENS
from medllm.errors import ConfigError, ModelError
from medllm.models.quantization import build_quantization_config, keep_training_layout
from medllm.models.quantized import folder_identity, folder_sample, kept_quantized, quantized_key
from medllm.models.random import build_random
from medllm.models.tiny import build_tiny_tokenizer
from medllm.models.wheel import prepare, prepared_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer and what was added to it.

    Attributes:
        tokenizer: transformers' own object.
        new_token_ids: Tokens the base model has never seen; their embeddings must be trained.
    """

    tokenizer: Any
    new_token_ids: tuple[int, ...] = ()


def pick_device(use_cpu: bool) -> str:
    """`cpu`, or this process's CUDA device where there is one."""
    if use_cpu or not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{ranks.local_rank()}"


def is_at_hand(conf: ModelConf) -> bool:
    """Whether the model's files are on this machine already, so that looking at them downloads nothing."""
    if isinstance(conf, WheelModelConf) and conf.source is Source.wheel:
        return prepared_folder(conf).is_dir()
    if isinstance(conf, PretrainedModelConf):
        return _is_folder(conf.pretrained_model_name_or_path)
    return True


def _is_folder(name: str) -> bool:
    """Whether a model's name is a folder of this machine rather than an id of the hub."""
    return path_exists(Path(name)) and Path(name).is_dir()


def resolve(conf: PretrainedModelConf) -> str:
    """The folder or hub id to load from; prepares a wheel's model if that is the source.

    Raises:
        ConfigError: if it asks for code of its repository that is not trusted here: an artifact brings its own configuration.
        ModelError: if a folder needs such code and does not say so.
    """
    faults = trust_faults(conf)
    if faults:
        raise ConfigError(faults)
    if isinstance(conf, WheelModelConf) and conf.source is Source.wheel:
        return str(prepare(conf))
    name = conf.pretrained_model_name_or_path
    if not conf.trust_remote_code and _is_folder(name):
        refuse_code(Path(name))
    return name


def refuse_code(folder: Path) -> None:
    """Before transformers, which would ask on the terminal whether to run it.

    Raises:
        ModelError: if a model's folder names Python code of its own.
    """
    for file in ("config.json", "tokenizer_config.json"):
        try:
            written = json.loads((folder / file).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # transformers says what is wrong with it
            continue
        if isinstance(written, dict) and written.get("auto_map"):
            raise ModelError(
                f"{folder / file} names code of its own (auto_map), which is not run\n"
                "    fix: take a model that transformers knows; or one on the hub at a commit whose code you have read, with\n"
                f"         model.trust_remote_code=true and {VARIABLE}=owner/name@commit in the environment"
            )


def hub_arguments(conf: PretrainedModelConf) -> dict[str, Any]:
    """What every `from_pretrained` call of this model gets."""
    return {"revision": conf.revision or "main", "trust_remote_code": conf.trust_remote_code}


def build_tokenizer(conf: ModelConf) -> Tokenizer:
    """The base's tokenizer, in native or ChatML format.

    Raises:
        ModelError: if it cannot be found.
    """
    if isinstance(conf, TinyRandomModelConf):
        tokenizer = build_tiny_tokenizer()
    elif isinstance(conf, PretrainedModelConf):
        from transformers import AutoTokenizer

        with reported(conf):
            tokenizer = AutoTokenizer.from_pretrained(resolve(conf), **hub_arguments(conf))
    else:
        raise ModelError(f"model: no tokenizer builder for {type(conf).__name__}")
    if not tokenizer.is_fast:
        raise ModelError(
            "the model has no fast tokenizer, which the proof of the labels needs\n    fix: choose another model"
        )
    return setup_chatml(tokenizer) if conf.chat_format is ChatFormat.chatml else Tokenizer(tokenizer)


def setup_chatml(tokenizer: Any) -> Tokenizer:
    """Switches a tokenizer to ChatML, adding its two tokens where they are missing.

    As the guide's `setup_chat_format`: beginning, end and padding are the ChatML tokens from here on. Padding is never
    supervised because labels come from the rendering and not from the token, so it may share the end's token.
    """
    known = tokenizer.get_vocab()
    new = [token for token in CHATML_TOKENS if token not in known]
    tokenizer.add_special_tokens(
        {"bos_token": CHATML_TOKENS[0], "eos_token": CHATML_TOKENS[1], "pad_token": CHATML_TOKENS[1]}
    )
    tokenizer.chat_template = CHATML_TEMPLATE
    return Tokenizer(tokenizer, tuple(tokenizer.convert_tokens_to_ids(new)))


def build_model_config(conf: ModelConf) -> Any:
    """Transformers' config of the base model, without its weights.

    Raises:
        ModelError: if it cannot be found.
    """
    if isinstance(conf, TinyRandomModelConf):
        from transformers import LlamaConfig

        tokenizer = build_tiny_tokenizer()
        return LlamaConfig(
            vocab_size=conf.vocab_size or len(tokenizer),
            hidden_size=conf.hidden_size,
            intermediate_size=conf.intermediate_size,
            num_hidden_layers=conf.num_hidden_layers,
            num_attention_heads=conf.num_attention_heads,
            num_key_value_heads=conf.num_key_value_heads,
            max_position_embeddings=conf.max_position_embeddings,
            tie_word_embeddings=conf.tie_word_embeddings,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    if isinstance(conf, PretrainedModelConf):
        from transformers import AutoConfig

        with reported(conf):
            return AutoConfig.from_pretrained(resolve(conf), **hub_arguments(conf))
    raise ModelError(f"model: no config builder for {type(conf).__name__}")


def build_base_model(conf: ModelConf, quantization: QuantizationConf, tokenizer: Tokenizer, device: str = "cpu") -> Any:
    """The base model with its weights, frozen, on `device`, its embeddings as long as the tokenizer.

    Raises:
        ModelError: if it cannot be found, or holds no safetensors weights.
    """
    arguments: dict[str, Any] = {
        "dtype": getattr(torch, conf.dtype.value),
        "attn_implementation": conf.attn_implementation.value,
    }
    quantization_config = build_quantization_config(quantization)
    if isinstance(conf, TinyRandomModelConf):
        model = _build_tiny(conf, arguments, quantization_config, device)
    elif isinstance(conf, PretrainedModelConf):
        model = _load_pretrained(conf, quantization, device, arguments)
    else:
        raise ModelError(f"model: no builder for {type(conf).__name__}")
    if tokenizer.new_token_ids:
        _add_embeddings(model, tokenizer)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.config, name, getattr(tokenizer.tokenizer, name))
    model.config.use_cache = False  # position ids keep packed conversations apart only without a cache
    model.requires_grad_(False)
    keep_training_layout(model)
    return model.to(device) if quantization_config is None else model


def load_full_model(folder: Path, conf: ModelConf, device: str = "cpu") -> Any:
    """What full fine-tuning left in an artifact's folder, for inference.

    Raises:
        ModelError: if it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    refuse_code(folder)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, conf.dtype.value),
            attn_implementation=conf.attn_implementation.value,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{folder} cannot be loaded: {str(error).splitlines()[0]}") from None
    model.requires_grad_(False)
    return model.to(device).eval()


def _load_pretrained(
    conf: PretrainedModelConf, quantization: QuantizationConf, device: str, arguments: dict[str, Any]
) -> Any:
    """Pretrained weights; quantized ones come from the cache from the second time on."""
    from transformers import AutoModelForCausalLM

    name = resolve(conf)

    def load(source: str, **more: Any) -> Any:
        with reported(conf):
            return AutoModelForCausalLM.from_pretrained(
                source, device_map={"": device}, use_safetensors=True, **arguments, **more
            )

    quantization_config = build_quantization_config(quantization)
    if quantization_config is None:
        return load(name, **hub_arguments(conf))

    def quantize() -> Any:
        return load(name, quantization_config=quantization_config, **hub_arguments(conf))

    if conf.trust_remote_code:  # what such code makes of the weights is not known from the files
        return quantize()
    key = quantized_key(_identity(conf, name), conf, quantization, device)
    model = kept_quantized(key, conf.pretrained_model_name_or_path, quantization, quantize, lambda at: load(str(at)))
    model.name_or_path = model.config._name_or_path = name  # wherever it was loaded from
    return model


def base_identity(conf: ModelConf) -> str:
    """A hash that tells a base from what its name stood for before: of a folder's content, or of a commit of the hub.

    Empty where the configuration says it all.
    """
    if not isinstance(conf, PretrainedModelConf):
        return ""
    name = resolve(conf)
    return key_of(folder_sample(Path(name)) if Path(name).is_dir() else _identity(conf, name))


def _identity(conf: PretrainedModelConf, name: str) -> Any:
    """What tells this model's files from any others."""
    if _is_folder(name):
        return folder_identity(Path(name))
    from transformers.utils import cached_file

    with reported(conf):
        config = cached_file(name, "config.json", revision=conf.revision or "main")
    return (name, Path(config).parent.name)  # the hub's folder of a commit bears its name


def _add_embeddings(model: Any, tokenizer: Tokenizer) -> None:
    """Gives new tokens the mean of all embeddings to start from: no random numbers, and no outlier among the logits."""
    size = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(max(size, len(tokenizer.tokenizer)), mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight[list(tokenizer.new_token_ids)] = layer.weight[:size].float().mean(dim=0).to(layer.weight.dtype)


def _build_tiny(conf: TinyRandomModelConf, arguments: dict[str, Any], quantization_config: Any, device: str) -> Any:
    """Random weights from `init_seed`, leaving the process's random state as it was."""
    if conf.init_on_device:
        return build_random(build_model_config(conf), arguments, quantization_config, device, conf.init_seed)
    import tempfile

    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(conf.init_seed)
        model = AutoModelForCausalLM.from_config(build_model_config(conf), **arguments)
    if quantization_config is None:
        return model
    # Quantization happens while weights are loaded, so they pass through a folder once: that of rank 0, since transformers
    # writes nothing on others.
    with tempfile.TemporaryDirectory() as own:
        folder = ranks.of_main(own)
        model.save_pretrained(folder)
        ranks.wait()
        model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantization_config, **arguments)
        ranks.wait()
        return model


class reported:  # noqa: N801 - reads as a word in `with reported(conf)`
    """Turns what transformers raises for a missing, gated or unsafe model into a ModelError with a remedy."""

    def __init__(self, conf: PretrainedModelConf):
        self.name = conf.pretrained_model_name_or_path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError | ValueError):
            reason = next((line for line in str(error).strip().split("\n") if line), type(error).__name__)
            raise ModelError(
                f"model.pretrained_model_name_or_path={self.name} cannot be loaded: {reason}\n"
                "    fix: give a local folder, or check name, connection and access (`hf auth login` for gated models)"
            ) from None
