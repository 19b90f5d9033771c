"""Estimated against measured peaks of memory: `python -m benchmarks.memory [--gpu] [--only WORD] [OVERRIDE...]`.

On the CPU the bundled model is trained in several ways, with `--gpu` random ones in the shapes of Llama 3 8B and Llama 3.2 1B.
Each is a sweep of one point in a process of its own, which knows of no earlier one: the estimate is what its plan says, the
measured peak what it records.

    --gpu          the runs of a GPU instead of those of the CPU
    --only WORD    runs whose name has the word in it

    estimated      by the plan, GiB
    measured       perf/peak_memory_gib: resident in the process, or allocated on the GPU
    ratio          estimated over measured; the aim is 0.9 to 1.1 on a GPU, 0.85 to 1.15 on a CPU
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
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_train import LOW, PAIR, PLAIN, SMALL_STATES, at_most, packed
from benchmarks.train_run import TRAIN
from medllm.cache import cache_dir

DEMO = ("experiment=demo", "generation.sample_prompts=[]")
CPU = {
    "fused, 2 steps": ("trainer.max_steps=2",),
    "fused, 12 steps": ("trainer.max_steps=12",),
    "fused, 64 steps": (),
    "fused, length 256": ("trainer.max_steps=4", "data.max_length=256"),
    "fused, length 1024": ("trainer.max_steps=4", "data.max_length=1024"),
    "plain, 2 steps": ("trainer.max_steps=2", PLAIN),
    "plain, 12 steps": ("trainer.max_steps=12", PLAIN),
    "plain, batch 4 of 256": (
        "trainer.max_steps=4",
        PLAIN,
        "trainer.per_device_train_batch_size=4",
        "data.max_length=256",
    ),
    "plain, checkpointing": ("trainer.max_steps=4", PLAIN, "trainer.gradient_checkpointing=true"),
    "plain, checkpointing, length 1024": (
        "trainer.max_steps=4",
        PLAIN,
        "trainer.gradient_checkpointing=true",
        "data.max_length=1024",
    ),
    "plain, full fine-tuning": ("trainer.max_steps=4", "quantization=none", "lora=none"),
}

LLAMA = (
    "model=random_8b",
    "quantization=nf4_double",
    "data=dialogues_bundled",
    "generation.sample_prompts=[]",
    "trainer.optim=adamw_torch_fused",
    "trainer.max_steps=3",
    "trainer.save_strategy=no",
)
FULL = (
    "lora=none",
    "quantization=none",
    "model.hidden_size=2048",
    "model.intermediate_size=8192",
    "model.num_hidden_layers=16",
    "model.tie_word_embeddings=true",
)
GPU = {
    "fused, 2 dialogues": (*PAIR, at_most(10)),
    "fused, 2 dialogues, weights kept": PAIR,
    "fused, 8k": (*packed(8192), at_most(33)),
    "fused, 8k, bfloat16 weights": (*packed(8192), "quantization=none", at_most(45)),
    "fused, 4k, at most 7.5 GiB": (*packed(4096), LOW, at_most(7.5)),
    "fused, 8k, at most 8 GiB": (*packed(8192), LOW, SMALL_STATES, at_most(8)),
    "plain, 2 dialogues": (*PAIR, PLAIN),
    "plain, 4k": (*packed(4096), PLAIN),
    "plain, 4k, int8": (*packed(4096), PLAIN, "quantization=int8"),
    "plain, 8k, checkpointing": (*packed(8192), PLAIN, LOW),
    "plain, full fine-tuning of a 1B": (*packed(4096), *FULL),
    "plain, full, 1B, checkpointing": (*packed(4096), *FULL, LOW),
}


def run(overrides: Sequence[str], work: Path) -> tuple[float, float, float]:
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
    parser.add_argument("--only", default="")
    options, overrides = parser.parse_known_args()
    ground, runs = (LLAMA, GPU) if options.gpu else (DEMO, CPU)
    print(f"{'':36}{'estimated':>11}{'measured':>10}{'ratio':>7}{'plan s':>8}", flush=True)
    for name, own in runs.items():
        if options.only not in name:
            continue
        with tempfile.TemporaryDirectory() as work:
            places = (f"tracking.tracking_uri=sqlite:///{work}/runs.db", f"tracking.artifact_location={work}/artifacts")
            line = (*ground, *own, *overrides, *(("tracking=none",) if options.gpu else places))
            chosen = dict(override.split("=", 1) for override in line)  # the last value of a key is the one that counts
            guess, peak, seconds = run([f"{key}={value}" for key, value in chosen.items()], Path(work))
        print(f"{name:36}{guess:11.2f}{peak:10.2f}{guess / peak:7.2f}{seconds:8.1f}", flush=True)


if __name__ == "__main__":
    main()
