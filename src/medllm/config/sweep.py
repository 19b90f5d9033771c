"""Schema of the `sweep` node: how a sweep's points are planned and run. The group of the same name holds grids."""

from dataclasses import dataclass

from medllm.config.conf import Conf, ranged


@dataclass
class SweepConf(Conf):
    """What belongs to a sweep as a whole, and so to none of its points.

    Attributes:
        name: Of its folder below `outputs/sweeps/`. Null makes one of the run's name and a hash of what all points share,
            so that the same line, or the same line with more values, finds the same sweep again.
        dry_run: Print the plan with steps, memory and time of every point, and stop.
        seeds: Repeats of every point: with the run's seed and the ones after it.
        retry_failed: Run points again that failed when the sweep was typed before.
    """

    name: str | None = None
    dry_run: bool = False
    seeds: int = ranged(1, ge=1, le=100)
    retry_failed: bool = True
