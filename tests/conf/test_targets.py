"""No configuration names Python of its own: hostile paths at every place and through every door."""

import itertools
import sys
from pathlib import Path

import hydra
import pytest
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from medllm.cli import launch
from medllm.command import guarded
from medllm.config.compose import ROOTS, compose_config
from medllm.config.store import project_root
from medllm.config.targets import LAUNCHERS, RESOLVERS, resolvers, target_faults
from medllm.errors import ConfigError

CALLS = {
    "os": ("system", "popen", "execv", "spawnl", "remove", "rename", "putenv"),
    "subprocess": ("run", "call", "check_call", "check_output", "Popen", "getoutput"),
    "builtins": ("eval", "exec", "compile", "open", "__import__", "getattr", "print"),
    "importlib": ("import_module", "reload", "util.spec_from_file_location"),
    "functools": ("partial", "reduce"),
    "pathlib": ("Path.touch", "Path.write_text", "Path.unlink", "Path"),
    "shutil": ("copyfile", "move", "rmtree"),
    "logging.config": ("dictConfig", "fileConfig", "listen"),
    "hydra.utils": ("get_method", "get_class", "get_object", "instantiate", "call"),
    "torch": ("load", "hub.load", "ops.load_library", "jit.load", "serialization.load"),
    "numpy": ("load", "fromfile", "savetxt"),
    "pickle": ("load", "loads", "Unpickler"),
    "hydra_plugins.evil": ("Launcher", "Sweeper"),
}
NAMES = [f"{module}.{call}" for module, calls in CALLS.items() for call in calls]
# As they stand, in another spelling, with letters that only look the same, and inside what is allowed.
DISGUISES = (
    "{}",
    " {}",
    "{}\u200b",
    f"{LAUNCHERS[0]}.{{}}",
    "${{oc.decode:'{}'}}",
)
HOSTILE = [disguise.format(name) for disguise, name in itertools.product(DISGUISES, NAMES)]
HOSTILE += [name.replace("o", "\u043e").replace("e", "\u0435") for name in (*NAMES, *LAUNCHERS)]
PLACES = (
    "hydra.launcher._target_",
    "hydra.sweeper._target_",
    "hydra.launcher.deep.0._target_",
    "hydra.sweeper.params.x._target_",
    "hydra.callbacks.mine._target_",
    "hydra.job_logging.handlers.console.class",
    "hydra.hydra_logging.handlers.console.class",
    "hydra.job_logging.formatters.mine.()",
    "hydra.job_logging.filters.mine.()",
    "data._target_",
    "lora.deep.0.deeper._target_",
)


def nested(key: str, value: object) -> DictConfig:
    """A configuration of one value; a part of digits is the place in a list."""
    for part in reversed(key.split(".")):
        value = [value] if part.isdigit() else {part: value}
    return OmegaConf.create(value)  # type: ignore[call-overload]


@pytest.mark.parametrize("key", PLACES)
def test_no_hostile_path_is_taken_anywhere(key: str) -> None:
    """Each of the paths at each place is refused with the key, the value and what is allowed."""
    assert len(set(HOSTILE)) >= 200
    for value in HOSTILE:
        (fault,) = target_faults(nested(key, value))
        assert (fault.key, fault.value) == (key, value[:200])
        assert fault.allowed


@pytest.mark.parametrize(
    "key", ["hydra.job_logging.handlers.file.filename", "hydra.hydra_logging.handlers.console.stream"]
)
@pytest.mark.parametrize("prefix", ["ext://", "cfg://", "${oc.env:A,x}:", "${name}"])
def test_no_text_of_logging_names_an_object(key: str, prefix: str) -> None:
    """`ext://` imports what it names, `cfg://` what another value names, and an interpolation may come to either."""
    for name in NAMES:
        (fault,) = target_faults(nested(key, prefix + name))
        assert fault.key == key


@pytest.mark.parametrize("key", ["hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir"])
@pytest.mark.parametrize("folder", ["ext:/", "ext://os.system", "${name}", "${oc.decode:'ext:/'}"])
def test_a_folder_is_no_address(key: str, folder: str) -> None:
    """The name of the log file begins with it."""
    config = OmegaConf.merge({"name": "ext:/"}, nested(key, folder))
    assert isinstance(config, DictConfig)
    assert {fault.key for fault in target_faults(config)} == {key}


# Each comes to a mapping, or would by some way of reading it.
HIDDEN = (
    "${oc.${name}:{_target_: os.system}}",
    "${${name}.create:{_target_: os.system}}",
    "${${name}:{_target_: os.system}}",
    "x${oc.${name}:{_target_: os.system}}",
    "${oc.create:{_target_: os.system}}",
    "${oc.create:[{_target_: os.system}]}",
    "${ oc.create : {_target_: os.system}}",
    "${\toc.create\t:{_target_: os.system}}",
    "${OC.create:{_target_: os.system}}",
    "\\\\${oc.create:{_target_: os.system}}",
    "${oc.decode:'{_target_: os.system}'}",
    "${oc.decode:${oc.env:HOME}}",
    "${oc.env:NOWHERE,${oc.create:{_target_: os.system}}}",
    "${oc.env:NOWHERE,'${oc.create:{_target_: os.system}}'}",
    '${oc.env:NOWHERE,"${oc.decode:x}"}',
    "${oc.select:nowhere,{_target_: os.system}}",
    "${oc.dict.values:hydra}",
    "${hydra:launcher}",
    "${now:${oc.create:x}}",
)
UNREADABLE = (
    "${\noc.create:{a: 1}}",
    "${oc.create\n:{a: 1}}",
    "${oc.\n${name}:{a: 1}}",
    "${oc.cr${name}:{a: 1}}",
    "${[oc].create:{a: 1}}",
    "${oc.create:",
)


@pytest.mark.parametrize("key", ["hydra.sweeper.foo", "hydra.launcher.a.0.b", "hydra.verbose", "hydra.env.x", "data.x"])
@pytest.mark.parametrize("value", HIDDEN)
def test_no_spelling_hides_a_resolver(key: str, value: str) -> None:
    """What makes mappings is refused everywhere: a sweeper could refer to it wherever it stands."""
    (fault,) = target_faults(nested(key, value))
    assert (fault.key, fault.problem, fault.allowed) == (key, "may resolve to Python", ", ".join(RESOLVERS))


@pytest.mark.parametrize("value", UNREADABLE)
def test_what_cannot_be_read_hides_nothing(value: str) -> None:
    """OmegaConf does not take it, and if it did, it would be none of the resolvers that are taken."""
    with pytest.raises(GrammarParseError):
        OmegaConf.create({"x": value})
    assert resolvers(value) == {value}


@pytest.mark.parametrize(
    "value", ["${mul:1,[{_target_: os.system}]}", "${mul:[1],1}", "${mul:{a: 1},1}", "${mul:x,2}", "${mul:2,x}"]
)
def test_what_is_multiplied_are_numbers(value: str) -> None:
    """A list times one is that list, with whatever stands in it."""
    with pytest.raises(OmegaConfBaseException, match="multiplies numbers"):
        _ = OmegaConf.create({"x": value}).x


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("${oc.env:NOWHERE,{_target_: os.system}}", str),
        ("${oc.env:NOWHERE,[1]}", str),
        ("${oc.env:NOWHERE,${name}}", str),
        ("${medllm.slug:{_target_: os.system}}", str),
        ("${medllm.root:}", str),
        ("${mul:2,3}", int),
    ],
)
def test_resolvers_that_are_taken_make_no_mapping(value: str, expected: type) -> None:
    """Whatever they are given."""
    config = OmegaConf.create({"x": value, "name": {"_target_": "os.system"}})
    assert target_faults(OmegaConf.create({"x": value})) == []
    assert type(config.x) is expected


@pytest.mark.parametrize("value", ["\\${oc.create:x}", "$oc.create:x", "${oc.env:A,'a b'}/${now:%Y}", "${name}", "a:b"])
def test_what_makes_no_mapping_is_taken(value: str) -> None:
    """Escaped it is text, and references are judged where they lead."""
    assert target_faults(nested("hydra.sweeper.foo", value)) == []


def evil(folder: Path) -> tuple[str, Path]:
    """A module that writes a marker when it is imported or called; its name, and the marker."""
    marker = folder / "marker"
    code = f"from pathlib import Path\ndef run(*a, **k): Path({str(marker)!r}).touch()\nrun()\n"
    (folder / "evilmodule.py").write_text(code)
    return "evilmodule.run", marker


OVERRIDES = (
    "hydra.launcher._target_={}",
    "++hydra.launcher={{_target_:{}}}",
    "hydra.sweeper._target_={}",
    "+hydra.callbacks.mine._target_={}",
    "+hydra.callbacks={{mine:{{_target_:{}}}}}",
    "hydra.job_logging.handlers.console.class={}",
    "hydra.hydra_logging.handlers.console.class={}",
    "hydra.hydra_logging.handlers.console.stream='ext://{}'",
    "+hydra.hydra_logging.formatters.mine={{'()':{}}}",
    "+hydra.job_logging.formatters.mine={{'()':{}}}",
    "+data._target_={}",
    "hydra/job_logging=evil",
    "lora=evil",
    "+hydra.sweeper.foo='${{oc.${{name}}:{{_target_: {}}}}}'",
    "hydra/sweeper=evil",
)
FLAGS: tuple[list[str], ...] = ([], ["-m"], ["--cfg", "job"], ["--info", "all"], ["--hydra-help"], ["--help"])


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """The module of `evil` within reach, and presets that name it in a folder of options."""
    target, marker = evil(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for file, text in {
        "hydra/job_logging/evil.yaml": f"version: 1\nformatters: {{x: {{'()': {target}}}}}\nroot: {{level: INFO}}\n",
        "hydra/sweeper/evil.yaml": "_target_: hydra_plugins.medllm_sweeper.PlannedSweeper\nparams: null\n"
        f"foo: '${{oc.${{name}}:{{_target_: {target}}}}}'\n",
        "lora/evil.yaml": f"defaults: [default, _self_]\n_target_: {target}\n",
    }.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    return target, marker


@hydra.main(version_base="1.3", config_path=str(project_root() / "conf"), config_name="train")
def trained(config: DictConfig) -> float:
    """What `train.py` hands to Hydra."""
    raise AssertionError("a hostile configuration came to a run")


@pytest.mark.slow
@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_every_door_of_training_is_closed(
    flags: list[str],
    hostile: tuple[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2 and the key, whatever flag; nothing that the target names is imported or called."""
    target, marker = hostile
    first = FLAGS.index(flags)
    for override in OVERRIDES[first :: len(FLAGS)]:  # every override once, for each takes a composition
        line = override.format(target)
        monkeypatch.setattr(sys, "argv", ["train.py", f"--config-dir={tmp_path}", line, *flags])
        with pytest.raises(SystemExit) as stopped:
            launch(trained)
        told = capsys.readouterr().err
        assert stopped.value.code == 2, (line, told)
        assert "allowed: " in told
        assert target in told or "lora._target_" in told  # of a file only the key is told
        assert line.lstrip("+").partition("=")[0].split(".")[0].replace("/", ".") in told
        assert not marker.exists()


@pytest.mark.parametrize(
    "flag", ["--config-name=evil", "--config-path=/tmp", "--experimental-rerun=x.pickle", "--config-n=x"]
)
def test_flags_that_go_around_the_gates_are_refused(
    flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another root would be composed unchecked, and a rerun unpickles a file."""
    for more in ([], ["--cfg", "job"], ["-m"]):
        monkeypatch.setattr(sys, "argv", ["train.py", flag, *more])
        with pytest.raises(SystemExit) as stopped:
            launch(trained)
        assert stopped.value.code == 2
        assert f"{flag.partition('=')[0]}" in capsys.readouterr().err


def test_two_ways_to_name_folders_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The later would hide the former from the gates, and not from Hydra."""
    arguments = ["train.py", f"--config-dir={tmp_path}", "hydra.searchpath=[file:///tmp]", "--cfg", "job"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert guarded(lambda: launch(trained)) == 2
    assert "--config-dir" in capsys.readouterr().err


@pytest.mark.parametrize("name", ROOTS)
def test_every_script_is_closed(name: str, hostile: tuple[str, Path]) -> None:
    """What scripts compose is checked by the same gate."""
    target, marker = hostile
    with pytest.raises(ConfigError) as told:
        compose_config([f"hydra.launcher._target_={target}"], config_name=name)
    assert target in str(told.value)
    assert not marker.exists()


@pytest.mark.parametrize(
    "overrides",
    [
        ["sweep=methods", "hydra/launcher=joblib", "hydra/job_logging=default", "hydra/hydra_logging=none"],
        ["hydra/launcher=slurm", "hydra/sweeper=optuna"],
        ["hydra/launcher=submitit_local", "hydra.sweep.dir=/tmp/b"],
    ],
    ids=" ".join,
)
def test_what_belongs_here_is_taken(overrides: list[str]) -> None:
    """Launchers, sweepers and logging that this project documents."""
    compose_config(overrides, multirun=True)
