"""Points that cannot fit their device are told before the first one starts."""

from pathlib import Path

import pytest

from medllm.config.plan import Plan, make_plan
from medllm.errors import ConfigError
from medllm.sweep import fitting as sweep_fitting
from medllm.sweep.fitting import memory_faults
from medllm.sweep.outlook import Outlook, _measured_memory
from medllm.sweep.rates import Rate
from medllm.training import fitting


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU with 10 GiB."""
    for module in (sweep_fitting, fitting):
        monkeypatch.setattr(module, "device_memory_gib", lambda device: 10.0)


def plan(tiny_overrides: list[str], *overrides: str) -> Plan:
    """A sweep on the CPU."""
    own = [override for override in tiny_overrides if not override.startswith("hydra.")]
    return make_plan([*own, *overrides], multirun=True)


def prices(*gib: float) -> list[Outlook]:
    """Of points that need so much."""
    return [Outlook(str(i), "", 1, 1, 1, 1, size, None) for i, size in enumerate(gib)]


@pytest.mark.usefixtures("small_machine")
def test_a_point_that_cannot_fit_is_refused(tiny_overrides: list[str]) -> None:
    """Key, need, limit, and what would make it smaller; a point that has been run already is left alone."""
    asked = plan(tiny_overrides, "trainer.per_device_train_batch_size=1,8")
    (fault,) = memory_faults(asked, prices(3.0, 24.04), {"0", "1"})
    assert str(fault) == (
        "trainer.per_device_train_batch_size=8: needs about 24.0 GiB at its peak\n"
        "    allowed: at most the 10.0 GiB of this machine\n"
        "    fix: trainer.per_device_train_batch_size=1 trainer.gradient_accumulation_steps=8, "
        "quantization=nf4_double, a lora.r below 16, a data.max_length below 256, a smaller model"
    )
    assert memory_faults(asked, prices(3.0, 24.04), {"0"}) == []
    assert memory_faults(asked, prices(3.0, float("nan")), {"0", "1"}) == []


@pytest.mark.usefixtures("small_machine")
def test_processes_share_the_machine(tiny_overrides: list[str]) -> None:
    """Each point fits; three at once do not, two do."""
    asked = plan(tiny_overrides, "lora.r=2,4,8", "hydra/launcher=joblib", "hydra.launcher.n_jobs=3")
    (fault,) = memory_faults(asked, prices(4.0, 5.0, 4.0), {"0", "1", "2"})
    assert str(fault) == (
        "hydra.launcher.n_jobs=3: points at once need about 13.0 GiB together\n"
        "    allowed: at most the 10.0 GiB of this machine\n"
        "    fix: hydra.launcher.n_jobs=2"
    )


@pytest.mark.usefixtures("small_machine")
def test_of_other_machines_nothing_is_said(tiny_overrides: list[str]) -> None:
    """A SLURM job's node may have more memory than the one that the line was typed on."""
    asked = plan(tiny_overrides, "lora.r=2,4", "hydra/launcher=slurm")
    assert asked.elsewhere
    assert memory_faults(asked, prices(30.0, 30.0), {"0", "1"}) == []


def test_the_sweep_does_not_start(
    tiny_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plan is printed, the point refused, nothing written."""
    from medllm import cli

    monkeypatch.setattr(fitting, "device_memory_gib", lambda device: 0.01)
    own = [override for override in tiny_overrides if not override.startswith("hydra.run")]
    asked = plan(own, "lora.r=2,4", f"hydra.sweep.dir={tmp_path}/sweep")
    with pytest.raises(ConfigError, match=r"lora\.r=4: needs about"):
        cli._run_sweep(lambda: None, asked, [])
    assert "plan of 2 points" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_a_measured_run_knows_better(tiny_overrides: list[str]) -> None:
    """On a CPU; a shorter one tells only the least, and more trained parameters add what they take."""
    conf = plan(tiny_overrides, "lora.r=2,4").points[0].conf
    rate = Rate(100.0, 1.0, "earlier", peak_memory_gib=3.0, steps=10, trainable=0)
    assert _measured_memory(conf, rate, 10, 0, 2.0) == 3.0
    assert _measured_memory(conf, rate, 10, 2**26, 2.0) == 4.0
    assert _measured_memory(conf, rate, 20, 0, 3.5) == 3.5
    assert _measured_memory(conf, Rate(100.0, 1.0, "older"), 10, 0, 2.0) == 2.0
