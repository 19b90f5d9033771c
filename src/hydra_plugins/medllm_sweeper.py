"""Hydra's side of a sweep: it makes the launcher and hands it to the plan.

Hydra takes sweepers from this namespace only; what they do is in `medllm.sweep`.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class PlannedSweeper(Sweeper):
    """Launches the points that the plan leaves to do.

    Args:
        params: Axes kept in a file, key to values, as `conf/sweep/` has them; read while planning.
    """

    launcher: Launcher

    def __init__(self, params: dict[str, Any] | None = None):
        self.params = params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra with the composed configuration."""
        self.config = config
        self.hydra_context = hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: Sequence[str]) -> None:
        """Called by Hydra with the command line, which has been planned already."""
        from medllm.sweep.run import current_sweep

        current_sweep().launch(self.launcher)


class OptunaSweeper(PlannedSweeper):
    """Launches the points that Optuna suggests.

    Args:
        params: As above.
        **settings: The rest of `medllm.config.search.SearchConf`; read while planning.
    """

    def __init__(self, params: dict[str, Any] | None = None, **settings: Any):
        super().__init__(params)
        self.settings = settings
