"""Training speed on a CPU: the bundled model under the guide's recipe and as `experiment=demo`: `python -m benchmarks.cpu_train`.

    --rounds 2      each side so often, by turns, so that other load on the machine meets all alike
    --steps 8       optimizer steps measured, after two of warm-up
    --target 2.5    ratio to the guide that the last side must reach in its lowest round

Overrides of train.py are taken, for all sides: `lora.lora_dropout=0`. Rates are real tokens over the clock.
"""

import argparse
import json
import os
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


def table(found: dict[str, list[float]], loads: dict[str, list[float]], peaks: dict[str, float], target: float) -> str:
    """Rates and loads of each round, and the ratios within rounds: the lowest one decides.

    A median over rounds would hide what other load on the machine does to them; a rate that differs between rounds by more
    than a fifth says that it did.
    """
    lines = [f"{'':8}{'peak GiB':>9}{'to the guide, by round':>26}   tokens/s (load), by round"]
    for name, rates in found.items():
        ratios = [rate / guide for rate, guide in zip(rates, found["guide"], strict=True)]
        each = " ".join(f"{rate:.0f} ({load:.1f})" for rate, load in zip(rates, loads[name], strict=True))
        lines.append(f"{name:8}{peaks[name]:9.2f}{' '.join(f'{ratio:.2f}' for ratio in ratios):>26}   {each}")
    verdict = "reached" if min(ratios) >= target else "MISSED"
    lines.append(f"{name} to the guide, lowest round: {min(ratios):.2f} x, target {target:g} x: {verdict}")
    uneven = [side for side, rates in found.items() if max(rates) > 1.2 * min(rates)]
    if uneven or len(found["guide"]) < 2:
        why = f"rates of {', '.join(uneven)} differ between rounds" if uneven else "one round cannot show it"
        lines.append(f"NOT A MEASUREMENT of a quiet machine: {why}; repeat it with nothing else running")
    return "\n".join(lines)


def main() -> None:
    """Runs the sides by turns and prints the table."""
    end_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--target", type=float, default=2.5)
    options, overrides = parser.parse_known_args()
    found: dict[str, list[float]] = {name: [] for name in sides()}
    loads: dict[str, list[float]] = {name: [] for name in found}
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
                loads[name].append(os.getloadavg()[0])
                said = f"{name}: {found[name][-1]:.0f} tokens/s, load {loads[name][-1]:.1f}"
                print(said, file=sys.stderr, flush=True)
    print(table(found, loads, peaks, options.target))


if __name__ == "__main__":
    main()
