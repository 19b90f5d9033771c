"""The `sweep` group: every grid expands, and each of its points is valid."""

import re

import pytest

from medllm.config.plan import make_plan
from medllm.config.rules import cross_field_faults
from medllm.errors import ConfigError
from tests.conf.groups import options


@pytest.mark.parametrize("option", options("sweep"))
def test_expands_and_each_point_is_valid(option: str) -> None:
    """More than one point, all different, all consistent."""
    plan = make_plan([f"sweep={option}"], multirun=True)
    assert len(plan.points) > 1
    assert len({point.overrides for point in plan.points}) == len(plan.points)
    assert all(cross_field_faults(point.conf) == [] for point in plan.points)


def test_command_line_grid() -> None:
    """Ranks times rates, in order; alpha tied by an interpolation."""
    overrides = ["lora.r=8,16", "trainer.learning_rate=1e-4,2e-4", 'lora.lora_alpha="${mul:2,${lora.r}}"']
    plan = make_plan(overrides, multirun=True)
    found = [(p.conf.lora.r, p.conf.lora.lora_alpha, p.conf.trainer.learning_rate) for p in plan.points]  # type: ignore[attr-defined]
    assert found == [(8, 16, 1e-4), (8, 16, 2e-4), (16, 32, 1e-4), (16, 32, 2e-4)]


def test_the_command_line_wins_over_the_grid_of_a_preset() -> None:
    """A swept key given on the command line replaces the preset's values."""
    plan = make_plan(["sweep=rank_learning_rate", "lora.r=4"], multirun=True)
    assert {point.conf.lora.r for point in plan.points} == {4}  # type: ignore[attr-defined]


def test_one_bad_point_refuses_the_sweep() -> None:
    """No point starts if any is wrong."""
    with pytest.raises(ConfigError, match=r"lora\.r=0: is out of range"):
        make_plan(["lora.r=8,0"], multirun=True)
    with pytest.raises(ConfigError, match="no such option"):
        make_plan(["lora=default,nothing"], multirun=True)


@pytest.mark.slow
def test_hydras_own_ways_to_write_a_grid() -> None:
    """Both range and glob expand as Hydra expands them."""
    assert len(make_plan(["lora.r=range(2,5)"], multirun=True).points) == 3
    assert len(make_plan(["lora=glob(*)", "quantization=none"], multirun=True).points) == len(options("lora"))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["lora.r=interval(8,16)"], "does not support sweep type"),
        (["lora.r=8,16", "hydra/sweeper=basic"], "cannot be planned"),
        (["tracking.experiment_name=a,b"], "has no effect on what is trained"),
        (["seed=1,2", "sweep.seeds=2"], "repeat points twice"),
        (["lora.r=8,16", "sweep.seeds=0"], "sweep.seeds=0: is out of range"),
        *[
            (["lora.r=2,4", f"hydra.{node}='${{{other}}}'"], f"hydra.{node}=${{{other}}}: {problem}")
            for node, problem in {
                "launcher": "names none",
                "sweeper": "names none",
                "sweeper.params": "needs keys",
                "sweep": "needs keys",
                "job.env_set": "needs keys",
            }.items()
            for other in ("name", "tracking")
        ],
        (["lora.r=2,4", "hydra.sweep.dir='${nowhere}'"], "hydra.sweep.dir: Interpolation key 'nowhere' not found"),
        (["lora.r=2,4", "hydra.sweep.dir='${hydra.job.num}'"], "hydra.sweep.dir: "),
        (["lora.r=2,4", "sweep.name='${nowhere}'"], "Interpolation key 'nowhere' not found"),
        (["lora.r=2,4", "sweep.seeds='${name}'"], "sweep.seeds: "),
        (["lora.r=2,4", "+hydra.launcher.n_jobs=x"], "hydra.launcher.n_jobs=x: has the wrong type"),
        (["lora.r=2,4", "hydra/launcher=joblib", "hydra.launcher.n_jobs='${name}'"], "hydra.launcher.n_jobs: "),
    ],
)
def test_what_cannot_be_planned_is_refused(overrides: list[str], expected: str) -> None:
    """A sweep whose points are not known before it starts could not be checked."""
    with pytest.raises(ConfigError, match=re.escape(expected)):
        make_plan(overrides, multirun=True)
