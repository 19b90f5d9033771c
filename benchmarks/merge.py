"""Memory of a merge against the largest file of its base: `python -m benchmarks.merge`.

    --layers 32     of Llama 3 8B's shapes, with random weights in bfloat16; 32 GB of disk for 32 of them
    --file-gb 5     largest file of the base
    --out FOLDER    on a disk with room

Beside the base a LoRA of rank 16 on all seven projections, as if trained on NF4. A process of its own merges them.

    libraries      resident before the merge
    peak           resident at most, pages of files that are being read included
    ratio          of what the merge adds, to the largest file; the aim is 1.3
"""

import argparse
import importlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

HIDDEN, INNER, VOCABULARY, HEADS, KEYS = 4096, 14336, 128256, 32, 8
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN // HEADS * KEYS, HIDDEN),
    "self_attn.v_proj": (HIDDEN // HEADS * KEYS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
RANK = 16
GIB = 2**30


def tensors(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes in the order in which the files have them."""
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for layer in range(layers):
        for name, shape in SHAPES.items():
            yield f"model.layers.{layer}.{name}.weight", shape
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{layer}.{name}.weight", (HIDDEN,)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)


def write_base(folder: Path, layers: int, most: float) -> None:
    """Files of at most `most` bytes, configuration and a small tokenizer."""
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    from medllm.config.compose import load_run_conf
    from medllm.models.base import build_tokenizer

    tiny = load_run_conf(["model=tiny_random", "data=dialogues_bundled", "tracking=none"])
    build_tokenizer(tiny.model).tokenizer.save_pretrained(folder)
    LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=KEYS,
        tie_word_embeddings=False,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)
    held: dict[str, torch.Tensor] = {}
    number = 0
    for name, shape in tensors(layers):
        weight = torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02)
        if sum(x.nbytes for x in held.values()) + weight.nbytes > most:
            number += 1
            save_file(held, folder / f"model-{number:05}.safetensors", {"format": "pt"})
            held = {}
        held[name] = weight
    save_file(held, folder / f"model-{number + 1:05}.safetensors", {"format": "pt"})


def write_adapter(folder: Path, layers: int) -> None:
    """A LoRA as peft saves it."""
    from peft import LoraConfig
    from safetensors.torch import save_file

    names = [name.partition(".")[2] for name in SHAPES]
    LoraConfig(r=RANK, lora_alpha=RANK, target_modules=names, task_type="CAUSAL_LM").save_pretrained(folder)
    weights = {}
    for layer in range(layers):
        for name, (rows, columns) in SHAPES.items():
            place = f"base_model.model.model.layers.{layer}.{name}"
            weights[f"{place}.lora_A.weight"] = torch.randn(RANK, columns) * 0.01
            weights[f"{place}.lora_B.weight"] = torch.randn(rows, RANK) * 0.01
    save_file(weights, folder / "adapter_model.safetensors")


def merge_measured(base: str, adapter: str, output: str) -> None:
    """In a process of its own: prints what it took."""
    from medllm.config.compose import load_run_conf
    from medllm.config.export import Onto
    from medllm.libraries import prepare_libraries
    from medllm.models.merge import merge
    from medllm.tracking.memory import resident_gib

    prepare_libraries()
    for library in ("bitsandbytes", "peft"):
        importlib.import_module(library)
    model = ["model=pretrained", f"model.pretrained_model_name_or_path={base}", "model.dtype=bfloat16"]
    conf = load_run_conf([*model, "quantization=nf4_double", "data=dialogues_bundled", "tracking=none"])
    before, started = resident_gib(), time.perf_counter()
    merge(conf, Path(adapter), Path(output), Onto.trained, lambda done, of: print(f"{done} of {of}", file=sys.stderr))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    print(json.dumps({"libraries": before, "peak": peak, "seconds": time.perf_counter() - started}))


def main() -> None:
    """Writes base and adapter, merges, prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--file-gb", type=float, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.out) as work:
        base, adapter, merged = (Path(work, name) for name in ("base", "adapter", "merged"))
        base.mkdir()
        write_base(base, options.layers, options.file_gb * 1e9)
        write_adapter(adapter, options.layers)
        code = f"from benchmarks.merge import merge_measured as m; m({str(base)!r}, {str(adapter)!r}, {str(merged)!r})"
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        sizes = [file.stat().st_size / GIB for file in sorted(base.glob("*.safetensors"))]
    added = found["peak"] - found["libraries"]
    print(f"{options.layers} layers, {len(sizes)} files, {sum(sizes):.1f} GiB, the largest {max(sizes):.2f} GiB")
    print(f"libraries {found['libraries']:.2f} GiB, peak {found['peak']:.2f} GiB, added {added:.2f} GiB")
    print(f"ratio {added / max(sizes):.2f}; {found['seconds']:.0f} s")


if __name__ == "__main__":
    main()
