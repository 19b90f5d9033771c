"""Processes that write to one run database at once: `python -m benchmarks.record_writers`.

    --writers 8        processes, each with a run of its own
    --metrics 1000     that each logs, one call each, as fast as it can
    --repeats 1        of all three, in turn

    direct             MLflow's client, each call waits for the database: the baseline
    record             a run's record as training uses it, SQLite's journal as MLflow alone would leave it
    record, WAL        the same on a database with a write-ahead log, which is how `medllm` makes one

A call's time is what training would wait. Rows are counted in the database afterwards.
"""

import argparse
import multiprocessing
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from medllm.config.tracking import MlflowConf
from medllm.tracking.build import open_record
from medllm.tracking.mlflow_store import connect
from medllm.tracking.record import Opening

WAYS = ("direct", "record", "record, WAL")


def conf_of(folder: Path) -> MlflowConf:
    """A database of its own."""
    return MlflowConf(f"sqlite:///{folder}/mlflow.db", "writers", f"{folder}/mlruns")


def write(way: str, folder: Path, number: int, metrics: int, ready: Any, times: Any) -> None:
    """One process: sends the seconds of each call, then those of the whole."""
    conf, seconds = conf_of(folder), []
    with open_record(conf, Opening(str(number)), folder / str(number)) as record:
        client = connect(conf)[0]
        ready.wait()
        began = time.perf_counter()
        for step in range(metrics):
            start = time.perf_counter()
            if way == "direct":
                client.log_metric(record.id, "train/loss", 1 / (step + 1), step=step)
            else:
                record.log_metrics({"train/loss": 1 / (step + 1)}, step)
            seconds.append(time.perf_counter() - start)
    times.put((seconds, time.perf_counter() - began))


def measure(way: str, writers: int, metrics: int) -> None:
    """All processes, and what is in the database after them."""
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        connect(conf_of(folder))
        with sqlite3.connect(folder / "mlflow.db") as database:
            database.execute(f"pragma journal_mode={'wal' if way.endswith('WAL') else 'delete'}")
        database.close()
        context = multiprocessing.get_context("spawn")
        ready, times = context.Barrier(writers), context.Queue()
        processes = [
            context.Process(target=write, args=(way, folder, number, metrics, ready, times))
            for number in range(writers)
        ]
        for process in processes:
            process.start()
        done = [times.get() for _ in processes]
        for process in processes:
            process.join()
        with sqlite3.connect(folder / "mlflow.db") as database:
            (rows,) = database.execute("select count(distinct run_uuid || step) from metrics").fetchone()
    calls = sorted(1000 * second for seconds, _ in done for second in seconds)
    p95 = statistics.quantiles(calls, n=20)[-1]
    print(
        f"{way:12} p50 {statistics.median(calls):8.3f} ms  p95 {p95:8.3f} ms  longest {calls[-1]:8.1f} ms"
        f"  all in the database after {max(whole for _, whole in done):6.1f} s"
        f"  rows {rows} of {writers * metrics}, lost {writers * metrics - rows}",
        flush=True,
    )


def main() -> None:
    """Measures all ways in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--metrics", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=1)
    asked = parser.parse_args()
    for _ in range(asked.repeats):
        for way in WAYS:
            measure(way, asked.writers, asked.metrics)


if __name__ == "__main__":
    main()
