"""Registers schemas and resolvers with Hydra: the only place that calls ConfigStore."""

import os
import re
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from medllm.config import (
    chat,
    data,
    evaluation,
    export,
    generation,
    guard,
    hub,
    lora,
    model,
    publish,
    quantization,
    review,
    run,
    serve,
    tracking,
    trainer,
    ui,
)
from medllm.config.evaluation import lexicon

SCHEMAS: dict[str, dict[str, type]] = {
    "model": {
        "pretrained": model.PretrainedModelConf,
        "wheel": model.WheelModelConf,
        "tiny_random": model.TinyRandomModelConf,
    },
    "quantization": {
        "none": quantization.NoQuantizationConf,
        "int8": quantization.Int8Conf,
        "four_bit": quantization.FourBitConf,
    },
    "lora": {
        "lora": lora.LoraConf,
        "ia3": lora.Ia3Conf,
        "prefix_tuning": lora.PrefixTuningConf,
        "adapter_layers": lora.AdapterLayersConf,
        "none": lora.NoAdapterConf,
    },
    "data": {"local": data.LocalDataConf, "hub": data.HubDataConf, "mix": data.MixDataConf},
    "trainer": {"trainer": trainer.TrainerConf},
    "tracking": {"mlflow": tracking.MlflowConf, "none": tracking.NoTrackingConf},
    "generation": {"generation": generation.GenerationConf},
    "hub": {"hub": hub.HubConf},
    "evaluation": {"evaluation": evaluation.EvaluationConf},
    "lexicon": {"lexicon": lexicon.LexiconConf},
    "guard": {"red_flags": guard.RedFlagGuardConf, "none": guard.NoGuardConf},
    "review": {"review": review.ReviewConf},
}

# Files of a group that its options include, and that are none themselves.
PARTS: dict[str, tuple[str, ...]] = {"evaluation": ("gate",)}


def schema_names(conf: run.RunConf) -> dict[str, str]:
    """Which of its group's schemas each node of a run is: `lora`: `ia3`."""
    return {
        group: next(name for name, schema in kinds.items() if type(getattr(conf, group)) is schema)
        for group, kinds in SCHEMAS.items()
        if hasattr(conf, group)
    }


def project_root() -> Path:
    """The checkout that holds `conf/`, `outputs/` and the run database; `MEDLLM_ROOT` overrides it."""
    return Path(os.environ.get("MEDLLM_ROOT") or Path(__file__).parents[3]).resolve()


def expanded(path: str) -> Path:
    """A path with its `~` as shells take it: of a user that there is not, it is a name like any other."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def rooted(path: str) -> Path:
    """A path as the user gave it; a relative one starts at the project's root, wherever the command was typed."""
    return project_root() / expanded(path)


def slug(text: str) -> str:
    """A folder name made of an override list: nothing but letters, digits, `.`, `-`, `=`, `,` and `_`, at most 120.

    Never empty, and never a way out of the folder it lies in.
    """
    return re.sub(r"[^A-Za-z0-9.=,_-]+", "-", str(text)).strip("-.")[:120] or "unnamed"


def gpus_per_point() -> int:
    """1 where this machine shows an NVIDIA GPU, else 0; without importing torch."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return int(not hidden and any(Path("/dev").glob("nvidia[0-9]*")))


def fast_dtype(use_cpu: bool, cpu: Path = Path("/proc/cpuinfo")) -> str:
    """`bfloat16` where the hardware multiplies matrices in it, else `float32`, which is then several times faster."""
    if gpus_per_point() and not use_cpu:
        return "bfloat16"
    words = set(cpu.read_text(encoding="utf-8", errors="replace").split()) if cpu.is_file() else set()
    return "bfloat16" if words & {"avx512_bf16", "amx_bf16", "bf16"} else "float32"


def product(a: float, b: float) -> float:
    """Of numbers alone: of a list it would be one, and what stands in it nobody has judged (`config/targets.py`).

    Raises:
        TypeError: if one is none.
    """
    if not isinstance(a, int | float) or not isinstance(b, int | float):
        raise TypeError(f"mul multiplies numbers, and not {a!r} by {b!r}")
    return a * b


def register() -> None:
    """Registers the root schemas, as `schema/run`, each group's schemas as `schema/<group>/<kind>`, and the resolvers.

    Resolvers: `${medllm.root:}` the project's root, `${medllm.slug:TEXT}` a folder name, `${mul:A,B}` a product, as in
    `lora.lora_alpha=${mul:2,${lora.r}}`, `${medllm.gpus_per_point:}` 1 or 0, `${medllm.fast_dtype:USE_CPU}` a precision.
    """
    store = ConfigStore.instance()
    store.store(group="schema", name="run", node=run.RootConf)
    store.store(group="schema", name="evaluate", node=evaluation.EvaluateConf)
    store.store(group="schema", name="chat", node=chat.ChatConf)
    store.store(group="schema", name="export", node=export.ExportConf)
    store.store(group="schema", name="serve", node=serve.ServeConf)
    store.store(group="schema", name="publish", node=publish.PublishConf)
    store.store(group="schema", name="ui", node=ui.UiConf)
    store.store(group="schema", name="create_review", node=review.CreateReviewConf)
    for group, kinds in SCHEMAS.items():
        for kind, schema in kinds.items():
            store.store(group=f"schema/{group}", name=kind, node=schema)
    OmegaConf.register_new_resolver("medllm.root", lambda: str(project_root()), replace=True)
    OmegaConf.register_new_resolver("medllm.gpus_per_point", gpus_per_point, replace=True)
    OmegaConf.register_new_resolver("medllm.fast_dtype", fast_dtype, replace=True)
    OmegaConf.register_new_resolver("medllm.slug", slug, replace=True)
    OmegaConf.register_new_resolver("mul", product, replace=True)


register()
