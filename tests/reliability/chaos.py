"""A small sweep under every fault at once: `python -m tests.reliability.chaos`.

    --minutes 5     until no new round begins
    --seed 0        of the instants and the faults
    --out FOLDER    an empty one that keeps everything; by default it is removed

In each round a sweep is typed, harmed at random instants, and the same line typed again until it is done, and its server has got
everything. Then it is compared with one that nobody disturbed: every point finished, weights equal down to the last bit, each
number of each step once in the record, no run and no folder more. A traceback is a loss, too. Rounds run their points in process
and in two processes by turns. The record is kept by a server, which is harmed too. Prints what was done and what was lost, and
exits with 1 if anything was.

    killed          the sweep and its processes, by SIGKILL
    one killed      a process of the sweep
    frozen          all of them for seconds, by SIGSTOP
    stopped         SIGTERM, or SIGINT as of Ctrl-C
    disk full       no file can grow any more (RLIMIT_FSIZE) until the process has ended, or for seconds
    server killed   and started again after seconds
    server frozen   for seconds
"""

import argparse
import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from medllm.artifact import sha256
from medllm.run_folder import UNSENT, has_unsent

ROOT = Path(__file__).parents[2]
# What a clock decides is no number to compare.
TIMED = ("perf/", "system/")
ENGINES = {"in process": [], "two processes": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]}
# A line that was typed so often and is not done is lost.
ATTEMPTS = 30
# After so many faults a round is left alone, so that it comes to an end.
FAULTS = 8


class Server:
    """An MLflow server that can be harmed."""

    def __init__(self, folder: Path):
        self.folder = folder
        with socket.socket() as door:
            door.bind(("127.0.0.1", 0))
            self.port = door.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Returns when it answers."""
        store = [
            f"--backend-store-uri=sqlite:///{self.folder}/server.db",
            f"--artifacts-destination={self.folder}/files",
        ]
        command = [sys.executable, "-m", "mlflow", "server", "--workers=1", f"--port={self.port}", *store]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                return
            time.sleep(0.1)
        raise SystemExit(f"the server does not start: {self.folder}/server.log")

    def send(self, number: int) -> None:
        """A signal to all its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """It answers no more."""
        self.send(signal.SIGKILL)
        self.process.wait()


class Round:
    """A sweep that is typed until it is done.

    Args:
        folder: Of everything; made.
        server: Where it is recorded.
        overrides: Beside those that all rounds have.
        name: Of the experiment.
    """

    def __init__(self, folder: Path, server: Server, overrides: list[str], name: str):
        self.folder, self.server, self.name = folder, server, name
        folder.mkdir()
        self.line = [sys.executable, str(ROOT / "train.py"), *ground(server.folder), *overrides, "lora.r=2,4,8", "-m"]
        self.line += [
            f"tracking.tracking_uri={server.uri}",
            f"tracking.experiment_name={name}",
            f"hydra.sweep.dir={folder}/sweep",
        ]
        self.attempts = 0

    def type(self) -> subprocess.Popen[bytes]:
        """Starts the line, in a session of its own."""
        self.attempts += 1
        # Joblib gives its processes fewer threads, and with another number of threads a sum has another last bit.
        environment = {**os.environ, "COLUMNS": "160", "OMP_NUM_THREADS": "1"}
        with self.log.open("wb") as log:  # through a pipe: what people see does not end with the disk
            screen = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log)
        sweep = subprocess.Popen(
            self.line,
            stdout=screen.stdin,
            stderr=screen.stdin,
            cwd=self.folder,
            env=environment,
            start_new_session=True,
        )
        assert screen.stdin is not None
        screen.stdin.close()
        return sweep

    @property
    def log(self) -> Path:
        """Of the newest attempt."""
        return self.folder / f"attempt-{self.attempts}.log"

    def is_done(self) -> bool:
        """Whether nothing is left that the server has not got."""
        return not any(has_unsent(path.parent) for path in (self.folder / "sweep").rglob(UNSENT))

    def faults(self) -> list[str]:
        """What no attempt may show: where Python was interrupted while it starts, nobody can answer yet."""
        text = self.log.read_text(errors="replace")
        last = re.findall(r"^Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*(.*)", text, re.M)
        return [f"attempt {self.attempts}: a traceback: {words}" for words in last if words != "KeyboardInterrupt"]

    def outcome(self) -> dict[str, Any]:
        """What has to be equal: of each point its weights and its numbers by name and step, each as often as it was recorded."""
        from mlflow import MlflowClient

        client = MlflowClient(self.server.uri)
        experiment = client.get_experiment_by_name(self.name)
        found = client.search_runs([experiment.experiment_id]) if experiment else []
        points = json.loads((self.folder / "sweep" / "sweep.json").read_text())["points"]
        result: dict[str, Any] = {
            "folders": sorted(unkeyed(path.name) for path in (self.folder / "sweep").iterdir() if path.name != ".lock"),
            "runs": sorted((unkeyed(run.info.run_name), run.info.status) for run in found),
        }
        for point in points:
            folder = self.folder / "sweep" / point["folder"]
            run = next((run for run in found if run.info.run_name == unkeyed(folder.name)), None)
            result[point["label"]] = {
                "status": json.loads((folder / "result.json").read_text())["status"],
                "weights": sha256(folder / "artifact" / "adapter_model.safetensors"),
                "numbers": numbers(client, run) if run else "no run",
                "parameters": run and {k: v for k, v in run.data.params.items() if "tracking" not in k},
                "left over": sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if odd(path)),
            }
        return result


def ground(folder: Path) -> list[str]:
    """What all rounds have: a run of a few seconds, with dropout, evaluations and checkpoints."""
    data = folder / "dialogues.csv"
    if not data.exists():
        rows = [
            f'"I have had a cough for {day} days.","Rest and drink. See a doctor after {day + 7} days."'
            for day in range(1, 25)
        ]
        data.write_text("\n".join(["Patient,Doctor", *rows, ""]))
    own = [
        "model=tiny_random",
        "quantization=none",
        "data=local",
        f"data.path={data}",
        "data.max_length=128",
        "trainer=cpu",
    ]
    own += ["trainer.bf16=false", "trainer.max_steps=120", "trainer.logging_steps=10", "lora.lora_dropout=0.1"]
    own += [
        "trainer.save_strategy=steps",
        "trainer.save_steps=20",
        "trainer.eval_strategy=steps",
        "trainer.eval_steps=40",
    ]
    return [*own, "generation.max_new_tokens=4", "sweep.retry_failed=true"]


def unkeyed(name: str) -> str:
    """A name without the key of what it names, which the experiment is a part of."""
    return re.sub(r"-[0-9a-f]{6,8}(?= |$)", "", name)


def odd(path: Path) -> bool:
    """Whether a file or folder belongs to something that has not ended."""
    return any(word in path.name for word in ("staging", ".tmp", "spool", "incomplete", "partial"))


def numbers(client: Any, run: Any) -> dict[str, list[tuple[int, float]]]:
    """Of a run by name: step and value of each record."""
    names = sorted(name for name in run.data.metrics if not name.startswith(TIMED))
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in names}
    return {name: sorted((metric.step, metric.value) for metric in history) for name, history in histories.items()}


class Chaos:
    """Harms a sweep that runs.

    Attributes:
        done: Faults by kind.
    """

    def __init__(self, chance: random.Random, server: Server):
        self.chance, self.server = chance, server
        self.done: Counter[str] = Counter()
        self.faults: dict[str, Callable[[psutil.Process], None]] = {
            "killed": self._kill,
            "one killed": self._kill_one,
            "frozen": self._freeze,
            "stopped": self._stop,
            "disk full": self._fill,
            "server killed": self._kill_server,
            "server frozen": self._freeze_server,
        }

    def harm(self, sweep: subprocess.Popen[bytes], seconds: float, limit: int) -> int:
        """Up to `limit` faults at instants drawn from the next `seconds` each, until the sweep ends; returns how many."""
        count = 0
        while sweep.poll() is None and count < limit:
            with contextlib.suppress(subprocess.TimeoutExpired):
                sweep.wait(self.chance.uniform(0, seconds))
            if sweep.poll() is not None:
                break
            kind = self.chance.choice(list(self.faults))
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                self.faults[kind](psutil.Process(sweep.pid))
                self.done[kind] += 1
                count += 1
        return count

    def _kill(self, sweep: psutil.Process) -> None:
        os.killpg(sweep.pid, signal.SIGKILL)

    def _kill_one(self, sweep: psutil.Process) -> None:
        self.chance.choice([sweep, *sweep.children(recursive=True)]).kill()

    def _freeze(self, sweep: psutil.Process) -> None:
        os.killpg(sweep.pid, signal.SIGSTOP)
        time.sleep(self.chance.uniform(0.5, 4))
        os.killpg(sweep.pid, signal.SIGCONT)

    def _stop(self, sweep: psutil.Process) -> None:
        sweep.send_signal(self.chance.choice([signal.SIGTERM, signal.SIGINT]))

    def _fill(self, sweep: psutil.Process) -> None:
        found = [sweep, *sweep.children(recursive=True)]
        for process in found:
            process.rlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        if self.chance.random() < 0.5:
            time.sleep(self.chance.uniform(0.5, 4))
            for process in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def _kill_server(self, sweep: psutil.Process) -> None:
        self.server.kill()
        time.sleep(self.chance.uniform(0, 6))
        self.server.start()

    def _freeze_server(self, sweep: psutil.Process) -> None:
        self.server.send(signal.SIGSTOP)
        time.sleep(self.chance.uniform(0.5, 12))
        self.server.send(signal.SIGCONT)


def differences(wanted: Any, found: Any, where: str = "") -> Iterator[str]:
    """Leaves that differ."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key in sorted({*wanted, *found}):
            yield from differences(wanted.get(key), found.get(key), f"{where}/{key}")
    elif wanted != found:
        yield f"{where}: {str(found)[:300]} instead of {str(wanted)[:300]}"


def end_all(sweep: subprocess.Popen[bytes]) -> bool:
    """Whether it left processes that nobody killed, after some seconds to end; there are none then."""
    for _ in range(100):
        with contextlib.suppress(psutil.NoSuchProcess):
            if not [
                p for p in psutil.process_iter() if p.status() != psutil.STATUS_ZOMBIE and os.getsid(p.pid) == sweep.pid
            ]:
                return False
        if sweep.returncode == -signal.SIGKILL:
            break
        time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(sweep.pid, signal.SIGKILL)  # as a machine that goes down
    return sweep.returncode != -signal.SIGKILL


def calm(work: Path, server: Server) -> tuple[dict[str, Any], float]:
    """What a sweep comes to that nobody disturbs, and its seconds."""
    quiet = Round(work / "undisturbed", server, [], "undisturbed")
    started = time.monotonic()
    if quiet.type().wait():
        raise SystemExit(f"the undisturbed sweep fails:\n{quiet.log.read_text()}")
    return quiet.outcome(), time.monotonic() - started


def chaos(work: Path, *, seed: int, minutes: float = 0.0, rounds: int = 0) -> int:
    """Rounds until the time is over, and as many as these at least; returns how many things were lost."""
    chance, server = random.Random(seed), Server(work)
    harm, losses, attempts, count = Chaos(chance, server), 0, 0, 0
    until = time.monotonic() + 60 * minutes
    try:
        whole, seconds = calm(work, server)
        print(f"undisturbed: {seconds:.0f} s", flush=True)
        while count < rounds or time.monotonic() < until:
            engine = list(ENGINES)[count % len(ENGINES)]
            found = Round(work / f"round-{count}", server, ENGINES[engine], f"round-{count}")
            codes, lost = typed_until_done(found, harm, seconds)
            lost += differences(whole, found.outcome()) if codes[-1] == 0 else ["never done"]
            told = ", ".join(map(str, codes))
            print(f"round {count}, {engine}: typed {len(codes)} times ({told}), {len(lost)} lost", flush=True)
            for line in lost:
                print(f"    {line}", flush=True)
            count, attempts, losses = count + 1, attempts + len(codes), losses + len(lost)
    finally:
        server.kill()
    print(f"\n{count} sweeps, typed {attempts} times; {harm.done.total()} instants tried")
    for kind, number in sorted(harm.done.items()):
        print(f"    {kind:15}{number:5}")
    if not harm.done:
        print("no fault struck, so that nothing is shown")
        losses += 1
    print(f"losses: {losses}")
    return losses


def typed_until_done(found: Round, harm: Chaos, seconds: float) -> tuple[list[int], list[str]]:
    """Exit codes of a round's attempts, the last 0 unless it was given up, and what they lost."""
    codes: list[int] = []
    lost: list[str] = []
    harmed = 0
    while not (codes[-1:] == [0] and found.is_done()) and len(codes) < ATTEMPTS:
        sweep = found.type()
        harmed += harm.harm(sweep, seconds / 2, FAULTS - harmed)
        codes.append(sweep.wait())
        lost += found.faults()
        if end_all(sweep):
            lost.append(f"attempt {len(codes)}: a process was left running")
    return codes, lost


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.out:
        options.out.mkdir(parents=True)
    work = (options.out or Path(tempfile.mkdtemp(prefix="chaos."))).resolve()
    losses = chaos(work, seed=options.seed, minutes=options.minutes)
    if not options.out and not losses:
        shutil.rmtree(work)
    elif losses:
        print(f"kept: {work}")
    sys.exit(bool(losses))


if __name__ == "__main__":
    main()
