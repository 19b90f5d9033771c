"""Training speed on a CPU: the bundled model under the guide's recipe and as `experiment=demo`: `python -m benchmarks.cpu_train`.

    --rounds 2      each side so often, by turns, so that other load on the machine meets all alike
    --steps 8       optimizer steps measured, after two of warm-up
    --target 2.5    ratio to the guide that the last side must reach

Overrides of train.py are taken, for all sides: `lora.lora_dropout=0`. Rates are real tokens over the clock.
"""

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import fields
from pathlib import Path

from benchmarks.train_run import TRAIN, end_on_sigterm, rate_of, run, tail

WARM = 2
COMMON = [
    "data.eval_fraction=0",
    "trainer.eval_strategy=no",
    "trainer.logging_steps=1",
    "generation.sample_prompts=[]",
    "tracking=none",
]


def sides() -> dict[str, list[str]]:
    """The guide, the plain engine, and the fused one where there is one."""
    from medllm.config.trainer import TrainerConf

    found = {"guide": ["experiment=notebook_cpu"], "plain": ["experiment=demo"]}
    if "engine" in {item.name for item in fields(TrainerConf)}:
        engines = {name: ["experiment=demo", f"trainer.engine={name}"] for name in ("plain", "fused")}
        found = {"guide": ["experiment=notebook_cpu", "trainer.engine=plain"], **engines}
    return found


def main() -> None:
    """Runs the sides by turns and prints the table."""
    end_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--target", type=float, default=2.5)
    options, overrides = parser.parse_known_args()
    found: dict[str, list[float]] = {name: [] for name in sides()}
    peaks = dict.fromkeys(found, 0.0)
    with tempfile.TemporaryDirectory() as work:
        for number in range(options.rounds):
            for name, own in sides().items():
                folder, log = Path(work, f"{name}-{number}"), Path(work, f"{name}-{number}.log")
                command = [sys.executable, str(TRAIN), *own, *COMMON, f"hydra.run.dir={folder}", *overrides]
                command.append(f"trainer.max_steps={WARM + options.steps}")
                failed, _ = run(command, log, 1800)
                if failed:
                    raise SystemExit(f"{name}: {failed}\n{tail(log)}")
                rate = rate_of(json.loads((folder / "history.json").read_text()), WARM)
                found[name].append(rate.tokens / rate.seconds)
                metrics = json.loads((folder / "result.json").read_text())["metrics"]
                peaks[name] = max(peaks[name], metrics["perf/peak_memory_gib"])
                print(f"{name}: {found[name][-1]:.0f} tokens/s", file=sys.stderr, flush=True)
    print(f"{'':8}{'tokens/s':>10}{'each round':>24}{'peak GiB':>10}{'to the guide':>14}")
    guide = statistics.median(found["guide"])
    for name, rates in found.items():
        each, ratio = " ".join(f"{rate:.0f}" for rate in rates), statistics.median(rates) / guide
        print(f"{name:8}{statistics.median(rates):10.0f}{each:>24}{peaks[name]:10.2f}{ratio:12.2f} x")
    print(f"target {options.target:g} x: {'reached' if ratio >= options.target else 'MISSED'}")


if __name__ == "__main__":
    main()
