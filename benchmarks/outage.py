"""What a tracking server that is gone, or hangs, costs a run: `python -m benchmarks.outage`.

calls      the longest of 1000 calls that log metrics, in ms: what training waits for
end        seconds until the record is closed, with everything kept for another time
"""

import socket
import tempfile
import time
from pathlib import Path

from mlflow import MlflowClient

from medllm.run_folder import UNSENT
from medllm.tracking.delivery import Delivery
from medllm.tracking.mlflow_record import SERVER_PATIENCE, MlflowRecord  # sets how long MLflow's client waits
from medllm.tracking.spool import Spool


def measure(name: str, uri: str) -> None:
    """A record on a server that is away from its first word on."""
    with tempfile.TemporaryDirectory() as home:
        delivery = Delivery(MlflowClient(uri), "0" * 32)
        spool = Spool(Path(home) / UNSENT, {"tracking_uri": uri, "run_id": "0" * 32}, delivery, name, SERVER_PATIENCE)
        record, longest = MlflowRecord("0" * 32, spool.append, takes_texts=False), 0.0
        for step in range(1000):
            began = time.perf_counter()
            record.log_metrics({"train/loss": 1.0}, step)
            longest = max(longest, time.perf_counter() - began)
        time.sleep(2)
        record.end("FINISHED")
        began = time.perf_counter()
        spool.close()
        print(f"{name:5} calls {1000 * longest:6.1f} ms  end {time.perf_counter() - began:5.1f} s", flush=True)


def main() -> None:
    """Both."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        measure("hung", address)  # connections are taken by the kernel, and nobody answers
    measure("gone", address)


if __name__ == "__main__":
    main()
