"""Estimated against measured peaks of memory: `python benchmarks/memory.py [--gpu] [--only WORD] [OVERRIDE...]`.

On the CPU the bundled model is trained in several shapes, with `--gpu` random models in the shape of Llama 3 8B. Each is a sweep
of one point in a process of its own, which knows of no earlier one: the estimate is what its plan says, the measured peak what
it records.

    --gpu          the runs of a GPU instead of those of the CPU
    --only WORD    runs whose name has the word in it
    --fast         float32 throughout, for processors without bfloat16 arithmetic; CPU only

    estimated      by the plan, GiB
    measured       perf/peak_memory_gib: resident in the process, or allocated on the GPU
    ratio          estimated over measured; the aim is 0.85 to 1.15
    plan s         until the plan was printed, libraries and data included
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from medllm.cache import cache_dir

TRAIN = Path(__file__).parents[1] / "train.py"

DEMO = ("experiment=demo", "generation.sample_prompts=[]")
CPU = {
    "nf4_double, 2 steps": ("trainer.max_steps=2",),
    "nf4_double, 12 steps": ("trainer.max_steps=12",),
    "nf4_double, batch 4 of 256": (
        "trainer.max_steps=4",
        "trainer.per_device_train_batch_size=4",
        "data.max_length=256",
    ),
    "nf4_double, length 256": ("trainer.max_steps=4", "data.max_length=256"),
    "nf4_double, length 1024": ("trainer.max_steps=2", "data.max_length=1024"),
    "nf4_double, checkpointing": ("trainer.max_steps=4", "trainer.gradient_checkpointing=true"),
    "none": ("trainer.max_steps=4", "quantization=none"),
    "none, full fine-tuning": ("trainer.max_steps=4", "quantization=none", "lora=none"),
}

LLAMA = (
    "model=tiny_random",
    "model.dtype=bfloat16",
    "model.hidden_size=4096",
    "model.intermediate_size=14336",
    "model.num_hidden_layers=32",
    "model.num_attention_heads=32",
    "model.num_key_value_heads=8",
    "model.vocab_size=128256",
    "model.tie_word_embeddings=false",
    "data=dialogues_bundled",
    "data.num_conversations=200",
    "generation.sample_prompts=[]",
    "trainer.max_steps=3",
    "trainer.save_strategy=no",
)
GPU = {
    "nf4_double, gpu_24gb": ("trainer=gpu_24gb",),
    "nf4_double, gpu_24gb, length 2048": ("trainer=gpu_24gb", "data.max_length=2048"),
    "nf4_double, gpu_80gb, batch 1": ("trainer=gpu_80gb", "trainer.per_device_train_batch_size=1"),
    "nf4_double, gpu_80gb, batch 4": ("trainer=gpu_80gb", "trainer.per_device_train_batch_size=4"),
    "none, gpu_80gb, batch 2": ("trainer=gpu_80gb", "quantization=none", "trainer.per_device_train_batch_size=2"),
    "int8, gpu_80gb, batch 1": ("trainer=gpu_80gb", "quantization=int8", "trainer.per_device_train_batch_size=1"),
    "nf4, rank 64, batch 2": (
        "trainer=gpu_80gb",
        "quantization=nf4",
        "lora.r=64",
        "trainer.per_device_train_batch_size=2",
    ),
    "full fine-tuning of 8 layers": (
        "trainer=gpu_80gb",
        "lora=none",
        "quantization=none",
        "model.num_hidden_layers=8",
        "trainer.per_device_train_batch_size=1",
        "trainer.optim=adamw_torch",
    ),
}


def run(overrides: tuple[str, ...], work: Path) -> tuple[float, float, float]:
    """A sweep of one point: the plan's figure and the measured peak in GiB, and the seconds until the plan was printed."""
    line = [sys.executable, str(TRAIN), *overrides, "seed=choice(65)", f"hydra.sweep.dir={work}/sweep", "-m"]
    started, seconds, said = time.perf_counter(), float("nan"), []
    cache = work / "cache"  # without the peaks of earlier runs, which would be the estimate
    cache.mkdir()
    (cache / "models").symlink_to(cache_dir() / "models")
    environment = {**os.environ, "COLUMNS": "200", "MEDLLM_CACHE": str(cache)}
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        for text in process.stderr:
            said.append(text)
            if text.startswith("to do"):
                seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{overrides} failed:\n{''.join(said)[-3000:]}")
    found = re.search(r"memory +([\d.]+) GiB", "".join(said))
    (result,) = (work / "sweep").glob("*/result.json")
    peak = float(json.loads(result.read_text())["metrics"]["perf/peak_memory_gib"])
    return float(found[1]) if found else float("nan"), peak, seconds


def main() -> None:
    """Runs everything and prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--only", default="")
    options, overrides = parser.parse_known_args()
    ground, runs = (LLAMA, GPU) if options.gpu else (DEMO, CPU)
    print(f"{'':36}{'estimated':>11}{'measured':>10}{'ratio':>7}{'plan s':>8}", flush=True)
    for name, own in runs.items():
        if options.only not in name:
            continue
        with tempfile.TemporaryDirectory() as work:
            places = (f"tracking.tracking_uri=sqlite:///{work}/runs.db", f"tracking.artifact_location={work}/artifacts")
            line = (*ground, *own, *overrides, *places)
            if options.fast and not options.gpu:
                line += ("model.dtype=float32",)
                line += ("quantization.bnb_4bit_compute_dtype=float32",) if "nf4" in name else ()
            guess, peak, seconds = run(line, Path(work))
        print(f"{name:36}{guess:11.2f}{peak:10.2f}{guess / peak:7.2f}{seconds:8.1f}", flush=True)


if __name__ == "__main__":
    main()
