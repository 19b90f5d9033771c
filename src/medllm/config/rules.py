"""Rules between the groups of a configuration: all that can be said without opening a model or a data set."""

from pathlib import Path

from medllm import ranks
from medllm.config.data import Batching, DataConf, MixDataConf, OverLength, sources_of
from medllm.config.evaluation import suite_names
from medllm.config.lora import LoraConf, NoAdapterConf, PrefixTuningConf
from medllm.config.model import AttnImplementation, Dtype
from medllm.config.paths import path_exists
from medllm.config.quantization import FourBitConf, Int8Conf, NoQuantizationConf
from medllm.config.run import RunConf
from medllm.config.store import rooted
from medllm.config.trainer import LOSS, Direction, Optimizer, Strategy
from medllm.config.trust import trust_faults
from medllm.errors import Fault

# Attention that restarts with position_ids and so keeps packed conversations apart in transformers (measured, see LOG.md).
PACKING_ATTENTION = (AttnImplementation.sdpa, AttnImplementation.eager, AttnImplementation.flash_attention_2)

# Optimizers of torch, which work on each weight's part for itself.
SHARDED_OPTIMIZERS = (Optimizer.adamw_torch, Optimizer.adamw_torch_fused, Optimizer.sgd)


def cross_field_faults(conf: RunConf) -> list[Fault]:
    """Rules between groups: all that can be said without opening the model."""
    found: list[Fault] = []
    quantized = not isinstance(conf.quantization, NoQuantizationConf)
    if quantized and isinstance(conf.lora, NoAdapterConf):
        fix = "quantization=none, or lora=default"
        found.append(Fault("lora", "full fine-tuning cannot train a quantized base", "none", fix=fix))
    if quantized and isinstance(conf.lora, LoraConf) and conf.lora.init_lora_weights.changes_base:
        name = conf.lora.init_lora_weights.value
        fix = "quantization=none, or lora.init_lora_weights=kaiming"
        found.append(
            Fault("lora.init_lora_weights", "moves base weights, which a quantized base forbids", name, fix=fix)
        )
    if isinstance(conf.quantization, Int8Conf) and isinstance(conf.lora, LoraConf) and conf.lora.use_dora:
        fix = "quantization=nf4_double, or lora.use_dora=false"
        found.append(Fault("lora.use_dora", "cannot read the norms of an 8-bit base", "true", fix=fix))
    if conf.trainer.fp16 and conf.trainer.bf16:
        fix = "keep one of them"
        found.append(Fault("trainer.fp16", "fp16 and bf16 exclude each other", "true", fix=fix))
    if conf.trainer.fp16 and conf.model.dtype is Dtype.float16 and isinstance(conf.lora, NoAdapterConf):
        fix = "model.dtype=float32, or trainer.bf16=true trainer.fp16=false"
        found.append(Fault("trainer.fp16", "cannot scale gradients of float16 weights", "true", fix=fix))
    if conf.trainer.eval_strategy is not Strategy.no and conf.data.eval_fraction == 0:
        fix = "data.eval_fraction=0.1, or trainer.eval_strategy=no"
        found.append(
            Fault("trainer.eval_strategy", "has nothing to evaluate on", conf.trainer.eval_strategy.name, fix=fix)
        )
    found += suite_faults(conf)
    if conf.data.batching is Batching.packed:
        found += packing_faults(conf)
    if isinstance(conf.lora, PrefixTuningConf) and conf.trainer.gradient_checkpointing:
        fix = "trainer.gradient_checkpointing=false"
        found.append(
            Fault("trainer.gradient_checkpointing", "would drop the prefix, which is a cache", "true", fix=fix)
        )
    if conf.trainer.fsdp:
        found += sharding_faults(conf)
    found += data_faults(conf.data)
    if conf.data.over_length is OverLength.truncate and conf.data.max_length < 64:
        fix = "data.max_length=512"
        found.append(Fault("data.max_length", "leaves no answer to train on", str(conf.data.max_length), fix=fix))
    checkpoint = conf.trainer.resume_from_checkpoint
    if checkpoint is not None and not path_exists(Path(checkpoint) / "trainer_state.json"):
        fix = "give the folder of a checkpoint: outputs/.../checkpoints/checkpoint-N"
        found.append(Fault("trainer.resume_from_checkpoint", "is no complete checkpoint", checkpoint, fix=fix))
    found += trust_faults(conf.model)
    if isinstance(conf.quantization, FourBitConf) and conf.trainer.bf16:
        compute = conf.quantization.bnb_4bit_compute_dtype
        if compute is Dtype.float16:
            fix = "quantization.bnb_4bit_compute_dtype=bfloat16"
            found.append(
                Fault("quantization.bnb_4bit_compute_dtype", "contradicts trainer.bf16", compute.name, fix=fix)
            )
    return found


def suite_faults(conf: RunConf) -> list[Fault]:
    """Suites that do not exist, or an objective that nothing measures."""
    trainer, names = conf.trainer, suite_names()
    found = [
        Fault("trainer.eval_suites", "is no suite", name, allowed=", ".join(names))
        for name in trainer.eval_suites
        if name not in names
    ]
    if trainer.eval_suites and trainer.eval_strategy is Strategy.no:
        fix = "trainer.eval_strategy=steps, or trainer.eval_suites=[]"
        found.append(Fault("trainer.eval_suites", "never run without evaluations", str(trainer.eval_suites), fix=fix))
    if trainer.objective == LOSS:
        if trainer.objective_better is Direction.higher:
            found.append(Fault("trainer.objective_better", "a loss improves downward", "higher", fix="lower"))
    elif not any(trainer.objective.startswith(f"eval/{name}/") for name in trainer.eval_suites):
        allowed = f"{LOSS}, or eval/<suite>/<metric> of a suite in trainer.eval_suites"
        found.append(Fault("trainer.objective", "is not measured by this run", trainer.objective, allowed=allowed))
    return found


def sharding_faults(conf: RunConf) -> list[Fault]:
    """Why this run's weights cannot be sharded over its processes."""
    found = []
    if ranks.world_size() == 1:
        fix = "torchrun --nproc_per_node=2 train.py ..., or trainer.fsdp=false"
        found.append(Fault("trainer.fsdp", "has one process, and nothing to shard over", "true", fix=fix))
    if not isinstance(conf.lora, NoAdapterConf):
        fix = "lora=none quantization=none, or trainer.fsdp=false: an adapter's base fits on each GPU in 4 bit"
        found.append(
            Fault("trainer.fsdp", "shards what is trained in full, not an adapter and its base", "true", fix=fix)
        )
    elif not isinstance(conf.quantization, NoQuantizationConf):
        fix = "quantization=none"
        found.append(Fault("trainer.fsdp", "cannot shard quantized weights", "true", fix=fix))
    if conf.trainer.fp16:
        fix = "trainer.bf16=true trainer.fp16=false"
        found.append(Fault("trainer.fsdp", "does not scale the loss of float16", "true", fix=fix))
    if conf.trainer.optim not in SHARDED_OPTIMIZERS:
        allowed = ", ".join(item.value for item in SHARDED_OPTIMIZERS)
        problem = "does not know sharded weights"
        fix = "trainer.optim=adamw_torch_fused"
        found.append(Fault("trainer.optim", problem, conf.trainer.optim.value, allowed=allowed, fix=fix))
    return found


def data_faults(conf: DataConf) -> list[Fault]:
    """Files of the data that are not there."""
    named = isinstance(conf, MixDataConf)
    paths = [
        (f"data.sources.{name}.path" if named else "data.path", source.path)
        for name, source in sources_of(conf).items()
    ]
    paths += [("data.contamination.benchmarks", path) for path in conf.contamination.benchmarks]
    return [
        Fault(key, f"no such file ({rooted(path)})", path, fix="give the path of an existing file or folder")
        for key, path in paths
        if path is not None and not path_exists(rooted(path))
    ]


def packing_faults(conf: RunConf) -> list[Fault]:
    """Why this run's conversations cannot be packed into one row; empty if they can."""
    found = []
    if conf.model.attn_implementation not in PACKING_ATTENTION:
        found.append(
            Fault(
                "model.attn_implementation",
                "does not keep packed conversations apart",
                conf.model.attn_implementation.name,
                allowed=", ".join(item.name for item in PACKING_ATTENTION),
                fix="data.batching=length_grouped, or another attention implementation",
            )
        )
    if isinstance(conf.lora, PrefixTuningConf):
        fix = "data.batching=auto or length_grouped"
        found.append(
            Fault("data.batching", "a row has one prefix, packed conversations need one each", "packed", fix=fix)
        )
    return found


def effective_batching(conf: RunConf) -> Batching:
    """`data.batching` with `auto` decided."""
    if conf.data.batching is not Batching.auto:
        return conf.data.batching
    return Batching.length_grouped if packing_faults(conf) else Batching.packed
