"""Hydra's own keys: their form, and that nothing of Hydra's is written beside the run's folder."""

from pathlib import Path

import pytest

from medllm.config.compose import compose_config
from medllm.config.plan import make_plan
from medllm.errors import ConfigError, Fault


def only_fault(overrides: list[str]) -> Fault:
    """The one that composing them ends with."""
    with pytest.raises(ConfigError) as caught:
        compose_config(overrides)
    (fault,) = caught.value.faults
    return fault


@pytest.mark.slow
@pytest.mark.parametrize("key", ["hydra.output_subdir", "hydra.job.name"])
def test_a_name_is_no_way_out_of_the_folder(key: str) -> None:
    """Neither typed nor behind an interpolation."""
    for name in ("../../x", "..", ".", "", "/tmp/x", "a/b", "a\\\\b", "a\n", "x" * 101, "${seed}/..", "${nowhere}"):
        assert only_fault([f"{key}='{name}'"]).problem == "is no plain name", name
    fault = only_fault([f"{key}='${{name}}'", "name=../x"])
    assert (fault.key, fault.value) == (key, "../x")
    assert fault.allowed
    for name in ("null", ".hydra", "a b", "..a", "${name}"):
        if (key, name) != ("hydra.job.name", "null"):
            compose_config([f"{key}='{name}'" if name != "null" else f"{key}=null"])


@pytest.mark.parametrize("node", ["run", "sweep", "help", "job.env_set"])
def test_keys_stand_where_keys_belong(node: str) -> None:
    """No schema of Hydra's refuses an interpolation in their place."""
    fault = only_fault([f"hydra.{node}='${{name}}'"])
    assert (fault.key, fault.problem) == (f"hydra.{node}", "needs keys with their values")
    assert fault.value == "${name}"


def test_a_sweeper_of_no_kind_is_refused(tmp_path: Path) -> None:
    """A file can be chosen that is for none."""
    (tmp_path / "hydra" / "sweeper").mkdir(parents=True)
    (tmp_path / "hydra" / "sweeper" / "mine.yaml").write_text("params: null\n")
    fault = only_fault([f"hydra.searchpath=['file://{tmp_path}']", "hydra/sweeper=mine"])
    assert (fault.key, fault.problem) == ("hydra.sweeper._target_", "needs a value")


@pytest.mark.parametrize("deleted", ["hydra.sweeper.params", "hydra.sweeper.tpe", "hydra.sweeper.median"])
def test_what_is_left_out_of_a_search_has_its_default(deleted: str) -> None:
    """As it has in the schema of the search."""
    assert len(make_plan(["lora.r=2,4", "hydra/sweeper=optuna", f"~{deleted}"], multirun=True).points) == 2
