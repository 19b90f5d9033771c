"""What processes of a sweep have made before their first point."""

from pathlib import Path

import pytest
from hydra.utils import instantiate
from hydra_plugins.hydra_joblib_launcher.config import JobLibLauncherConf
from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher
from joblib import Parallel, delayed

from medllm.config.compose import load_run_conf
from medllm.config.run import RunConf
from medllm.sweep.pool import make_ready


def left_by(conf: RunConf) -> tuple[int, list[str], bool]:
    """A process's number, what it keeps, and whether it is what a point of this configuration takes."""
    import os

    from medllm.foundation import foundation, lay_ground, lend_base, measure_base

    kept = {kind: id(value) for kind, (_, value) in foundation._kept.items()}
    ground = lay_ground(conf, "cpu", refuse=False)
    base = lend_base(ground)
    taken = {"base": id(base), "measured": id(measure_base(base, ground))}
    return os.getpid(), sorted(kept), taken.items() <= kept.items()


@pytest.mark.slow
def test_processes_are_ready_for_every_rank(tiny_overrides: list[str], tmp_path: Path) -> None:
    """They keep base, data's renderers and measurements, and a point with another adapter takes these very objects."""
    own = [o for o in tiny_overrides if not o.startswith(("tracking.", "hydra."))]
    confs = [load_run_conf([*own, "tracking=none", f"lora.r={rank}"]) for rank in (8, 4)]
    launcher = instantiate(JobLibLauncherConf(n_jobs=2))
    make_ready(launcher, confs, tmp_path, 2)
    found = Parallel(**{**launcher.joblib, "backend": "loky"})(delayed(left_by)(confs[1]) for _ in range(6))
    # One of them at least: with a model of no size the first may be through with both tasks before the second has started.
    assert any(kept == ["base", "measured", "renderers", "tokenizer"] and same for _, kept, same in found)


def test_other_engines_and_several_bases_are_left_alone(
    tiny_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is loaded that most points could not use."""
    own = [o for o in tiny_overrides if not o.startswith(("tracking.", "hydra."))]
    conf = load_run_conf([*own, "tracking=none"])
    other = load_run_conf([*own, "tracking=none", "quantization=nf4_double"])
    launcher = JoblibLauncher(n_jobs=2)
    make_ready(object(), [conf, conf], tmp_path, 2)
    make_ready(launcher, [conf, other], tmp_path, 2)
    make_ready(launcher, [conf], tmp_path, 1)
    assert "import, load and measure" not in capsys.readouterr().err
