"""Processes that run points of a sweep on this machine, made ready before their first."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher
from joblib import Parallel, delayed

from medllm.config.run import RunConf
from medllm.console import say
from medllm.libraries import prepare_libraries
from medllm.run_folder import STOP
from medllm.stopping import stop


def make_ready(launcher: Any, confs: Sequence[RunConf], folder: Path, count: int) -> None:
    """Lets processes import, load and measure what all points share; other engines have theirs do so in their first point.

    joblib keeps the processes of a call for the next one with the same settings, which is the launcher's.

    Args:
        launcher: Hydra's.
        confs: Of points to run; nothing is done where they have several base models.
        folder: The sweep's.
        count: Processes that will have a point to run.
    """
    if not isinstance(launcher, JoblibLauncher) or count < 2:
        return
    if len({repr((conf.model, conf.quantization)) for conf in confs}) != 1:
        return
    say("processes", f"{count} import, load and measure what all points share")
    settings = {**launcher.joblib, "backend": "loky"}  # as the launcher has it
    Parallel(**settings)(delayed(_get_ready)(confs[0], folder) for _ in range(count))


def _get_ready(conf: RunConf, folder: Path) -> None:
    """What fails here is left to the point, which reports it."""
    prepare_libraries()
    stop.file = folder / STOP
    stop.listen()
    if not conf.trainer.use_cpu:
        from medllm.gpus import claim_gpu

        claim_gpu(stop.requested)
    if stop.requested():
        return
    from medllm.experiment import free_memory  # imports what touches CUDA: only after a GPU is claimed
    from medllm.foundation import foundation, lay_ground, lend_base, measure_base
    from medllm.models.base import pick_device
    from medllm.tracking.build import import_tracker

    try:
        import_tracker(conf.tracking)  # a point's memory is counted with all libraries
        ground = lay_ground(conf, pick_device(conf.trainer.use_cpu), refuse=False)
        measure_base(lend_base(ground), ground)
    except Exception:
        foundation.clear()
    free_memory()
