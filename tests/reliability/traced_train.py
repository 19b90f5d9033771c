"""train.py that writes every micro-step to the file MEDLLM_TRACE, and meets what MEDLLM_CUT says (see `killer.install`).

With --serve it loads all libraries and then forks a run for every line of JSON that it reads.
"""

import atexit
import hashlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[0] = str(ROOT)  # and not this folder, whose trace.py would pass for the standard library's

import hydra  # noqa: E402
from omegaconf import DictConfig  # noqa: E402


def install_trace(path: str) -> None:
    """Writes a line per micro-step: step, micro-batch, loss, digest of the samples, learning rate. A kill loses no line.

    And a line per checkpoint, once its save has returned: its step, and -1.
    """
    from medllm.training.trainer import MedTrainer

    step, save = MedTrainer.training_step, MedTrainer._save_checkpoint
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    place = [-1, 0]

    def traced(self: Any, model: Any, inputs: Any, *arguments: Any, **more: Any) -> Any:
        place[:] = [self.state.global_step, place[1] + 1 if place[0] == self.state.global_step else 0]
        samples = hashlib.sha256(inputs["input_ids"].numpy().tobytes() + inputs["labels"].numpy().tobytes()).hexdigest()
        loss = step(self, model, inputs, *arguments, **more)
        text = json.dumps([*place, float(loss).hex(), samples[:16], self.lr_scheduler.get_last_lr()[0]])
        os.write(file, (text + "\n").encode())
        return loss

    def saved(self: Any, *arguments: Any) -> None:
        save(self, *arguments)
        os.write(file, f"[{self.state.global_step}, -1]\n".encode())

    MedTrainer.training_step, MedTrainer._save_checkpoint = traced, saved  # type: ignore[method-assign]


@hydra.main(version_base="1.3", config_path=str(ROOT / "conf"), config_name="train")
def main(config: DictConfig) -> float:
    """One point."""
    from medllm.point import run_point

    return run_point(config)


def run() -> None:
    """What `python train.py` does, observed."""
    from medllm.cli import launch
    from tests.reliability.killer import install

    install_trace(os.environ["MEDLLM_TRACE"])
    install(os.environ.get("MEDLLM_CUT", ""))
    launch(main)


def serve() -> None:
    """Forks runs; says the process id of each, and then how it ended."""
    import medllm.cli
    import medllm.experiment
    import medllm.point
    import medllm.publication.publish
    import medllm.summary
    import medllm.sweep.run
    import medllm.tracking.mlflow_record  # noqa: F401

    for text in sys.stdin:
        job = json.loads(text)
        pid = os.fork()
        if pid == 0:
            _become(job)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(job: dict[str, Any]) -> None:
    """The forked process: the run, to its exit code."""
    null, log = os.open(os.devnull, os.O_RDONLY), os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    sys.argv = ["train.py", *job["line"]]
    os.environ |= {"MEDLLM_TRACE": job["trace"], "MEDLLM_CUT": job["cut"]}
    code = 1
    try:
        run()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(bool(error.code))
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve()
    else:
        run()
