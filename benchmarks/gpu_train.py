"""Training speed and memory on a GPU, as users start it, beside the peers: `python -m benchmarks.gpu_train [ROW...]`.

    ROW             names, or parts of names, of rows (`pair`, `8k_fused`); by default all, the most telling ones first
    --lengths FILE  JSON of [[prompt tokens, all tokens], ...], one pair a dialogue; by default those of the bundled dialogues
    --peers FOLDER  also runs the peers' benchmark kept there (its run_all.py), and prints the ratios to it
    --peer-jobs ..  those of its jobs, by name and in order, that matter for the rows asked for
    --seconds 590   for everything; what does not fit any more is left out, and said
    --out FOLDER    results.jsonl, the log of each row, the runs' folders
    --tiny          a dry run in minutes, on a CPU

Each row is one `python train.py ...` in its own process: the 8B shape with random weights, 4 bit with double quantization,
LoRA of rank 16 on seven projections, the text of the bundled dialogues cut to the lengths asked for, batches as a user's run
makes them. A failing row prints its last lines; the others go on.

    tok/s, ms/step  real tokens and optimizer steps after the warm-up, over the clock: also what lies between steps
    peak GiB        allocated on the GPU at most, loading and the proof of the labels included
    MFU             useful FLOPs (4 N a token, all through the head, 6 N of the adapter, attention) over an 8192-cube bf16 matmul
    start s         from process start to the first optimizer step
    adapter s       from process start to the saved adapter, of rows that train 900 dialogues once
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.cut_dialogues import as_they_are, read_lengths, write_dialogues
from benchmarks.train_run import TRAIN, end_on_sigterm, rate_of, run, tail

PEER_JOBS = "mkmodel,unsloth_a,unsloth_b,unsloth_c,notebook"
# Share of --seconds that the peers may take.
PEER_SHARE = 0.55
PAIR = (
    "data.batching=padded",
    "data.max_length=512",
    "trainer.per_device_train_batch_size=1",
    "trainer.gradient_accumulation_steps=2",
)


def packed(tokens: int, *more: str) -> tuple[str, ...]:
    """Overrides of one packed row of that many tokens a step."""
    return (
        "data.batching=packed",
        f"data.max_length={tokens}",
        "trainer.per_device_train_batch_size=1",
        "trainer.gradient_accumulation_steps=1",
        "trainer.logging_steps=5",
        *more,
    )


def at_most(gib: float) -> str:
    """Override that bounds the memory the fused engine plans with; without one it keeps dequantized weights where they fit."""
    return f"trainer.max_memory_gib={gib:g}"


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        name: Of the row.
        overrides: What distinguishes it.
        warm: Optimizer steps left out.
        steps: Optimizer steps measured; 0: all of 900 dialogues, down to the saved adapter.
        limit: Seconds its process may take.
        card: GiB of a smaller card that this one is to be like.
    """

    name: str
    overrides: tuple[str, ...]
    warm: int
    steps: int
    limit: float = 120
    card: float | None = None


LOW = "trainer.gradient_checkpointing=true"
SMALL_STATES = "trainer.optim=adamw_8bit"
FUSED, PLAIN = "trainer.engine=fused", "trainer.engine=plain"
DROPOUT = "lora.lora_dropout=0.05"
# GiB of a card that torch's allocator does not get, and that the engine's plan leaves alone.
CONTEXT, RESERVE = 0.7, 0.5


def preset(name: str, card: float | None = None) -> Row:
    """A preset as `experiment=llama3_8b_qlora` uses it: 8 packed rows of 2,048 tokens a step, with dropout."""
    overrides = (
        f"trainer=gpu_{name}",
        "data.batching=packed",
        "data.max_length=2048",
        DROPOUT,
        "trainer.logging_steps=2",
    )
    if card is not None:
        overrides += (at_most(card - CONTEXT - RESERVE),)
    return Row(f"preset_{name}", overrides, 2, 6, card=card)


ROWS = (
    Row("pair_fused", (*PAIR, at_most(10), FUSED), 60, 120),
    Row("8k_fused", packed(8192, at_most(33.4), FUSED), 5, 15),
    Row("4k_low_fused", packed(4096, LOW, at_most(7.5), FUSED), 5, 15),
    Row("8k_low_fused", packed(8192, LOW, SMALL_STATES, at_most(7.5), FUSED), 5, 10),
    Row("epoch_fused", (*PAIR, FUSED), 60, 0),
    Row("pair_kept_fused", (*PAIR, FUSED), 60, 120),
    Row("pair_plain", (*PAIR, PLAIN), 10, 30),
    Row("8k_plain", packed(8192, PLAIN), 5, 5),
    Row("pair_dropout_fused", (*PAIR, at_most(10), DROPOUT, FUSED), 60, 120),
    Row("8k_dropout_fused", packed(8192, at_most(33.4), DROPOUT, FUSED), 5, 10),
    Row("8k_kept_fused", packed(8192, FUSED), 5, 10),
    Row("4k_low_plain", packed(4096, LOW, PLAIN), 5, 5),
    Row("8k_low_plain", packed(8192, LOW, PLAIN), 5, 5),
    Row("pair_dropout_plain", (*PAIR, DROPOUT, PLAIN), 10, 30),
    Row("8k_dropout_plain", packed(8192, DROPOUT, PLAIN), 5, 5),
    preset("16gb", 16),
    preset("24gb", 24),
    preset("80gb"),
    preset("141gb"),
    Row("epoch_plain", (*PAIR, PLAIN), 10, 0, limit=420),
)


@dataclass(frozen=True)
class Target:
    """A ratio to reach: of `key`, ours over the peer's, or the peer's over ours where less is better."""

    row: str
    peer: str
    key: str
    ratio: float


TARGETS = (
    Target("pair_fused", "unsloth_pair_nogc", "tok_s", 3.9),
    Target("pair_fused", "notebook", "tok_s", 10),
    Target("pair_kept_fused", "unsloth_pair_nogc", "tok_s", 5),
    Target("8k_fused", "unsloth_8k_nogc", "tok_s", 1.05),
    Target("8k_fused", "unsloth_8k_nogc", "peak_gib", 1),
    Target("4k_low_fused", "unsloth_8k_gc", "tok_s", 1.05),
    Target("4k_low_fused", "unsloth_8k_gc", "peak_gib", 1),
    Target("8k_low_fused", "unsloth_8k_gc", "tok_s", 1.05),
    Target("8k_low_fused", "unsloth_8k_gc", "peak_gib", 1),
    Target("epoch_fused", "unsloth_pair_nogc", "adapter_s", 2.5),
    Target("epoch_fused", "notebook", "adapter_s", 6),
)
# What a row must reach whatever the peers do: (row, key, most or least).
BOUNDS = (("pair_fused", "peak_gib", 10.0), ("8k_fused", "mfu", 0.68), ("4k_low_fused", "peak_gib", 7.5))
LESS_IS_BETTER = ("peak_gib", "adapter_s")


def missing_keys(overrides: Sequence[str]) -> list[str]:
    """Keys of the trainer that this version does not have."""
    from medllm.config.trainer import TrainerConf

    known = {item.name for item in fields(TrainerConf)}
    named = [override.partition("=")[0] for override in overrides if override.startswith("trainer.")]
    return [key for key in named if key.removeprefix("trainer.") not in known]


def arguments(row: Row, data: Path, folder: Path, tiny: bool) -> list[str]:
    """The command line of a row, after `train.py`."""
    overrides = list(row.overrides)
    if PLAIN in overrides and missing_keys([PLAIN]):  # without engines, there is the plain one
        overrides.remove(PLAIN)
    common = ["model=random_8b", "quantization=nf4_double", "lora.lora_dropout=0", "tracking=none", "data=local"]
    common += [f"data.path={data}", *as_they_are(), "data.eval_fraction=0", "trainer.eval_strategy=no"]
    common.append("trainer.save_strategy=no")
    if not any(override.startswith("trainer=") for override in overrides):
        common += ["trainer.optim=adamw_torch_fused", "trainer.logging_steps=10"]
    common += ["generation.sample_prompts=[]", f"hydra.run.dir={folder}", f"name={row.name}"]
    if row.steps:
        common.append(f"trainer.max_steps={row.warm + row.steps}")
    own = {override.partition("=")[0] for override in overrides}
    common = [override for override in common if override.partition("=")[0] not in own]
    if tiny:
        short = {"data.max_length=8192": "data.max_length=512", "data.max_length=4096": "data.max_length=256"}
        overrides = [short.get(override, override) for override in overrides]
        common[:1] = ["model=tiny_random", "model.dtype=bfloat16"]
        common += ["trainer.use_cpu=true"]
        overrides = [o for o in overrides if o != SMALL_STATES]
        common = [o for o in common if not o.startswith("trainer.optim=")] + ["trainer.optim=adamw_torch"]
    return [*common, *overrides]


def flops(config: dict[str, Any], tokens: float, square_over_length: float) -> float:
    """Useful FLOPs of training on so many tokens, forward and backward through a frozen base with an adapter.

    Args:
        config: A run's, resolved: of a model with the fields of `TinyRandomModelConf`.
        tokens: Real ones.
        square_over_length: Sum of the squared lengths of the dialogues over the sum of their lengths.
    """
    model, rank = config["model"], config["lora"]["r"]
    hidden, inner, layers = (model[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    keys = hidden // model["num_attention_heads"] * model["num_key_value_heads"]
    linears = [(hidden, hidden)] * 2 + [(hidden, keys)] * 2 + [(hidden, inner)] * 3
    body = layers * sum(a * b for a, b in linears)
    adapter = layers * rank * sum(a + b for a, b in linears)
    head = hidden * (model["vocab_size"] or 768)
    attention = 2 * 2 * tokens * (square_over_length + 1) / 2 * hidden * layers
    return tokens * (4 * (body + head) + 6 * adapter) + 3 * attention


def measured(row: Row, folder: Path, started: float, square_over_length: float, matmul: float | None) -> dict[str, Any]:
    """What a finished run's folder says."""
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    history = json.loads((folder / "history.json").read_text())
    rate = rate_of(history, row.warm)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    useful = flops(config, rate.tokens, square_over_length)
    before = (folder / "config.yaml").stat().st_mtime - started  # written when the run's own clock starts
    return {
        "tok_s": rate.tokens / rate.seconds,
        "ms_step": 1000 * rate.seconds / rate.steps,
        "tok_step": rate.tokens / rate.steps,
        "peak_gib": metrics["perf/peak_memory_gib"],
        "mfu": useful / rate.seconds / matmul / 1e12 if matmul else None,
        "start_s": before + metrics["perf/startup_seconds"],
        "adapter_s": None if row.steps else (folder / "artifact" / "manifest.json").stat().st_mtime - started,
        "loss": history["train"][-1][1],
    }


def peer_rows(path: Path) -> dict[str, dict[str, Any]]:
    """The peers' results by name; what they measure one by one is added to a time to the trained adapter."""
    found = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        peer = json.loads(line)
        if peer.get("kind") == "result":
            start = sum(peer.get(key) or 0 for key in ("import_s", "load_s"))
            peer["start_s"] = start
            peer["adapter_s"] = start + (peer.get("first_step_s") or 0) + peer["epoch900_s"]
            found[peer["name"]] = peer
    return found


COLUMNS = (("tok_s", 9, 0), ("ms_step", 9, 1), ("tok_step", 9, 0), ("peak_gib", 9, 2), ("mfu", 7, 3), ("start_s", 8, 1))
COLUMNS += (("adapter_s", 10, 1),)


def table(rows: dict[str, dict[str, Any]], peers: dict[str, dict[str, Any]]) -> str:
    """Rows, peers' rows, and the ratios that are targets."""
    lines = [f"{'':22}" + "".join(f"{key:>{width}}" for key, width, _ in COLUMNS)]
    for name, row in [*rows.items(), *peers.items()]:
        if "failed" in row:
            lines.append(f"{name:22}  {row['failed']}")
            continue
        cells = ((row.get(key), width, digits) for key, width, digits in COLUMNS)
        lines.append(f"{name:22}" + "".join(f"{'-':>{w}}" if v is None else f"{v:{w}.{d}f}" for v, w, d in cells))
    for target in TARGETS:
        ours, theirs = (side.get(name, {}).get(target.key) for side, name in ((rows, target.row), (peers, target.peer)))
        if ours and theirs:
            ratio = theirs / ours if target.key in LESS_IS_BETTER else ours / theirs
            verdict = "reached" if ratio >= target.ratio else "MISSED"
            what = f"{target.row} to {target.peer}, {target.key}"
            lines.append(f"{what:52} {ratio:6.2f} x, target {target.ratio:g} x: {verdict}")
    for name, key, bound in BOUNDS:
        value = rows.get(name, {}).get(key)
        if value:
            good = value <= bound if key in LESS_IS_BETTER else value >= bound
            lines.append(f"{f'{name}, {key}':52} {value:6.2f}, bound {bound:g}: {'reached' if good else 'MISSED'}")
    return "\n".join(lines)


MATMUL = """
import json, torch
a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
for _ in range(4):
    a @ b
start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
start.record()
for _ in range(12):
    a @ b
end.record()
torch.cuda.synchronize()
print(json.dumps([torch.cuda.get_device_name(), 2 * 8192**3 * 12 / start.elapsed_time(end) / 1e9]))
"""


CAPPED = """
import runpy, sys, torch
torch.cuda.set_per_process_memory_fraction(float(sys.argv[1]) * 2**30 / torch.cuda.get_device_properties(0).total_memory)
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def main() -> None:
    """Runs everything that fits into the time, and prints the table."""
    end_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW")
    parser.add_argument("--lengths", type=Path)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--peer-jobs", default=PEER_JOBS)
    parser.add_argument("--seconds", type=float, default=590)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    deadline = time.time() + options.seconds
    chosen = [row for row in ROWS if not options.rows or any(part in row.name for part in options.rows)]
    if options.tiny:
        chosen = [replace(row, warm=2, steps=min(row.steps, 4)) for row in chosen]
    if not chosen:
        raise SystemExit(f"no such row; there are {', '.join(row.name for row in ROWS)}")
    out = (options.out or Path(tempfile.mkdtemp(prefix="gpu_train."))).resolve()
    out.mkdir(parents=True, exist_ok=True)
    results = out / "results.jsonl"

    def note(name: str, **values: Any) -> None:
        with results.open("a") as file:
            file.write(json.dumps({"name": name, **values}) + "\n")

    matmul = None
    if not options.tiny:
        failed, _ = run([sys.executable, "-c", MATMUL], out / "matmul.log", 90)
        if failed:
            raise SystemExit(f"no GPU to measure on (--tiny is a dry run without one): {tail(out / 'matmul.log')}")
        card, matmul = json.loads((out / "matmul.log").read_text().splitlines()[-1])
        print(f"{card}, bf16 matmul {matmul:.0f} TFLOP/s", flush=True)
        note("matmul", card=card, tflops=matmul)
    pairs = read_lengths(options.lengths, options.tiny)
    (out / "lengths.json").write_text(json.dumps(pairs))  # the same for the peers
    lengths = write_dialogues(pairs, out / "dialogues.jsonl")
    square_over_length = sum(n * n for n in lengths) / sum(lengths)
    print(f"{len(lengths)} dialogues, {sum(lengths) / len(lengths):.0f} tokens in the mean", flush=True)
    note("data", dialogues=len(lengths), mean_tokens=sum(lengths) / len(lengths), longest=max(lengths))

    peers: dict[str, dict[str, Any]] = {}
    if options.peers:
        limit = (deadline - time.time()) * PEER_SHARE
        given = {"LENGTHS": str(out / "lengths.json"), "OUT": str(out / "peers"), "TOTAL_S": f"{limit:.0f}"}
        given |= {"MODEL": "tiny"} if options.tiny else {}
        command = [sys.executable, str(options.peers.resolve() / "run_all.py"), options.peer_jobs]
        failed, _ = run(command, out / "peers.log", limit + 15, **given)
        print(
            f"peers: {failed or 'done'}; {max(deadline - time.time(), 0):.0f} s left\n{tail(out / 'peers.log')}",
            flush=True,
        )
        peers = peer_rows(out / "peers" / "results.jsonl")

    rows: dict[str, dict[str, Any]] = {}
    for row in chosen:
        absent = missing_keys([override for override in row.overrides if override != PLAIN])
        left = deadline - time.time()
        if absent or left < 15:
            why = f"left out: no {', '.join(absent)} here" if absent else f"left out: {left:.0f} s left"
        else:
            folder = out / row.name
            start = (
                [str(TRAIN)]
                if row.card is None or options.tiny
                else ["-c", CAPPED, f"{row.card - CONTEXT}", str(TRAIN)]
            )
            command = [sys.executable, *start, *arguments(row, out / "dialogues.jsonl", folder, options.tiny)]
            why, started = run(command, out / f"{row.name}.log", min(row.limit, left - 3))
            if not why:
                try:
                    rows[row.name] = measured(row, folder, started, square_over_length, matmul)
                except (OSError, ValueError, KeyError) as error:
                    why = f"cannot be read: {error!r}"
            if why:
                print(f"{row.name}: {why}\n{tail(out / f'{row.name}.log')}", flush=True)
        if why:
            rows[row.name] = {"failed": why}
        else:
            print(f"{row.name}: {rows[row.name]['tok_s']:.0f} tokens/s", flush=True)
        note(row.name, **rows[row.name])
    print(table(rows, peers))


if __name__ == "__main__":
    main()
