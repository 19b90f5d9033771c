"""Two GPUs beside one, as users start them: `python -m benchmarks.data_parallel [ROW...]`.

    ROW             names, or parts of names, of rows; by default all
    --lengths FILE  as in `benchmarks.gpu_train`
    --seconds 400   for everything; what does not fit any more is left out, and said
    --out FOLDER    results.jsonl, the log of each row, the runs' folders without models
    --tiny          a dry run in minutes, on a CPU

Each row is `python train.py ...`, alone or under torchrun, with the settings of `benchmarks.gpu_train`.

    two         the fused step of `8k_fused`, 8,192 packed tokens on each of two GPUs
    one_twice   the same on one GPU in micro-batches: the optimizer batches of `two`, and so its losses
    one         the same on one GPU with half the optimizer batch
    sharded     full fine-tuning of the 8B shape on two GPUs (FSDP2), 8,192 tokens each, weights and AdamW in float32

    tok/s, ms/step  real tokens and optimizer steps after the warm-up, over the clock: also what lies between steps
    peak GiB        allocated at most on the GPU that needs more, loading and the proof of the labels included
    start s         from process start to the first optimizer step
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.cut_dialogues import read_lengths, write_dialogues
from benchmarks.gpu_train import FUSED, LOW, Row, arguments, at_most, packed
from benchmarks.train_run import TRAIN, end_on_sigterm, rate_of, run, tail

STEPS = {"warm": 5, "steps": 10}
EACH = "trainer.logging_steps=1"
FULL = ("lora=none", "quantization=none", "trainer.fsdp=true", "trainer.learning_rate=2e-5")
ROWS = (
    Row("two", packed(8192, at_most(33), FUSED, EACH), **STEPS),
    Row("one_twice", packed(8192, at_most(33), FUSED, EACH, "trainer.gradient_accumulation_steps=2"), **STEPS),
    Row("sharded", packed(8192, LOW, EACH, *FULL), 2, 4, limit=240),
    Row("one", packed(8192, at_most(33), FUSED, EACH), **STEPS),
)
PROCESSES = {"two": 2, "one": 1, "one_twice": 1, "sharded": 2}
# Enough for two rows in each of the steps: no epoch ends in between.
TOKENS = 34 * 8192
RATIO, SAME_LOSS = 1.9, 1e-3
COLUMNS = (("processes", 10, 0), ("tok_s", 9, 0), ("ms_step", 9, 1), ("tok_step", 9, 0), ("peak_gib", 9, 2))
COLUMNS += (("start_s", 8, 1), ("loss", 9, 4))


def command(row: Row, data: Path, folder: Path, tiny: bool) -> list[str]:
    """Of a row, torchrun where it has several processes; the last value of a key is the one that counts."""
    given = dict(override.split("=", 1) for override in arguments(row, data, folder, tiny))
    if given.get("lora") == "none":
        del given["lora.lora_dropout"]
    count = PROCESSES[row.name]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", f"--nproc_per_node={count}"]
    launcher = torchrun if count > 1 else []
    return [sys.executable, *launcher, str(TRAIN), *(f"{key}={value}" for key, value in given.items())]


def measured(row: Row, folder: Path, started: float) -> dict[str, Any]:
    """What a finished run's folder says."""
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    history = json.loads((folder / "history.json").read_text())
    rate = rate_of(history, row.warm)
    before = (folder / "config.yaml").stat().st_mtime - started  # written when the run's own clock starts
    return {
        "processes": PROCESSES[row.name],
        "tok_s": rate.tokens / rate.seconds,
        "ms_step": 1000 * rate.seconds / rate.steps,
        "tok_step": rate.tokens / rate.steps,
        "peak_gib": metrics["perf/peak_memory_gib"],
        "start_s": before + metrics["perf/startup_seconds"],
        "loss": history["train"][-1][1],
        "losses": [loss for _, loss in history["train"]],
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Rows, the losses of equal optimizer batches step by step, and what was to be reached."""
    lines = [f"{'':12}" + "".join(f"{key:>{width}}" for key, width, _ in COLUMNS)]
    for name, row in rows.items():
        cells = "".join(f"{row[key]:{width}.{digits}f}" for key, width, digits in COLUMNS if "failed" not in row)
        lines.append(f"{name:12}" + (cells or f"  {row['failed']}"))
    two, one, twice = (rows.get(name, {}) for name in ("two", "one", "one_twice"))
    if "losses" in two and "losses" in twice:
        pairs = list(zip(two["losses"], twice["losses"], strict=True))
        lines.append(f"{'step':>6}{'two':>12}{'one_twice':>12}")
        lines += [f"{step:6}{ours:12.5f}{theirs:12.5f}" for step, (ours, theirs) in enumerate(pairs, 1)]
        apart = max(abs(ours / theirs - 1) for ours, theirs in pairs)
        verdict = "the same" if apart <= SAME_LOSS else "NOT THE SAME"
        lines.append(f"losses of two and one_twice: {apart:.1e} apart at most, bound {SAME_LOSS:g}: {verdict}")
    for name, alone in (("one", one), ("one_twice", twice)):
        if "tok_s" in two and "tok_s" in alone:
            ratio = two["tok_s"] / alone["tok_s"]
            verdict = "reached" if ratio >= RATIO else "MISSED"
            lines.append(f"two to {name}, tok_s: {ratio:.2f} x, target {RATIO:g} x: {verdict}")
    return "\n".join(lines)


def say_cards() -> None:
    """Names the GPUs; refuses fewer than two."""
    import torch

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if len(names) < 2:
        raise SystemExit(f"{len(names)} GPUs, two are needed (--tiny is a dry run without one)")
    print(", ".join(names), flush=True)


def main(given: Sequence[str] | None = None) -> None:
    """Runs everything that fits into the time, and prints the table."""
    end_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW")
    parser.add_argument("--lengths", type=Path)
    parser.add_argument("--seconds", type=float, default=400)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args(given)
    deadline = time.time() + options.seconds
    chosen = [row for row in ROWS if not options.rows or any(part in row.name for part in options.rows)]
    if not chosen:
        raise SystemExit(f"no such row; there are {', '.join(row.name for row in ROWS)}")
    if options.tiny:
        chosen = [replace(row, warm=1, steps=3) for row in chosen]
    else:
        say_cards()
    out = (options.out or Path(tempfile.mkdtemp(prefix="data_parallel."))).resolve()
    out.mkdir(parents=True, exist_ok=True)
    pairs = read_lengths(options.lengths, options.tiny)
    if not options.tiny:
        mean = sum(total for _, total in pairs) / len(pairs)
        pairs = [pairs[i % len(pairs)] for i in range(round(TOKENS / mean))]
    lengths = write_dialogues(pairs, out / "dialogues.jsonl")
    print(f"{len(lengths)} dialogues, {sum(lengths) / len(lengths):.0f} tokens in the mean", flush=True)

    rows: dict[str, dict[str, Any]] = {}
    given_to_rows = {"OMP_NUM_THREADS": "1" if options.tiny else "8", "GLOO_SOCKET_IFNAME": "lo", **os.environ}
    for row in chosen:
        left, folder, log = deadline - time.time(), out / row.name, out / f"{row.name}.log"
        why = f"left out: {left:.0f} s left"
        if left > 15:
            line = command(row, out / "dialogues.jsonl", folder, options.tiny)
            why, started = run(line, log, min(row.limit, left - 3), **given_to_rows)
            if why:
                print(f"{row.name}: {why}\n{tail(log)}", flush=True)
            shutil.rmtree(folder / "artifact", ignore_errors=True)  # a full model is 16 GB
        rows[row.name] = {"failed": why} if why else measured(row, folder, started)
        if not why:
            print(f"{row.name}: {rows[row.name]['tok_s']:.0f} tokens/s", flush=True)
        with (out / "results.jsonl").open("a") as file:
            file.write(json.dumps({"name": row.name, **rows[row.name]}) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
