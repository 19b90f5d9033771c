"""The command line as people type it: one message, the right exit code, no traceback, quickly."""

import errno
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from medllm import locate
from medllm.artifact import resolved_yaml
from medllm.cli import overrides_first
from medllm.command import complain, guarded, pop_option
from medllm.config.compose import ROOTS, compose_config, load_run_conf
from medllm.config.validate import COMMANDS
from medllm.data import pipeline
from medllm.errors import ConfigError
from medllm.run_folder import CONFIG, write_whole

ROOT = Path(__file__).parents[1]
LONG = "l" * 300


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["lora.rank=8"], "did you mean lora.r?"),
        (["lora.r=eight"], "allowed: a whole number"),
        (["lora.r=0"], "allowed: >= 1 and <= 4096"),
        (["lora=lorra"], "allowed: adapter_layers, attention_only, default"),
        (["+lora.foo=1"], "lora.foo=1: no such key"),
        (["++trainer.learnig_rate=1"], "did you mean trainer.learning_rate?"),
        (["lora.r=[1,2"], "cannot be read"),
        (["lora.r=8,16"], "add -m"),
        (["lora.r=8,16", "-m", "lora.foo=3"], "lora.foo=3: no such key"),
        (["hydra.foo=1"], "hydra.foo=1: no such key"),
        (["data=local"], "data.path: needs a value"),
        pytest.param(["data=local", f"data.path={LONG}.csv"], "no such file", marks=pytest.mark.slow),
        pytest.param([f"trainer.resume_from_checkpoint={LONG}"], "is no complete checkpoint", marks=pytest.mark.slow),
        (["--cfg", "job", "lora.rank=8"], "did you mean lora.r?"),
        (["--help", "lora.rank=8"], "did you mean lora.r?"),
        (["--shell-completion"], "Expecting one subcommand"),
        (["hydra.run.dir="], "hydra.run.dir: needs a value"),
        ([f"hydra.run.dir={__file__}"], f"hydra.run.dir={__file__}: is no folder"),
        ([f"hydra.run.dir={__file__}/a"], f"lies below {__file__}, which is no folder"),
        ([f"hydra.run.dir=outputs/{'a' * 256}/b"], "has a name of more than 255 bytes in it"),
        (["lora.r=8,16", "-m", f"hydra.sweep.dir={__file__}"], f"hydra.sweep.dir={__file__}: is no folder"),
    ],
)
def test_a_wrong_configuration(train: Callable[..., Any], arguments: list[str], expected: str) -> None:
    """Exit code 2, the remedy, no traceback, nothing heavy imported."""
    done = train(*arguments, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert not [line for line in done.stderr.splitlines() if line.endswith(("| torch", "| transformers", "| mlflow"))]


def test_help_and_cfg(train: Callable[..., Any]) -> None:
    """Our own help with examples and groups; the configuration as YAML."""
    done = train("--help")
    assert done.returncode == 0
    assert "python train.py lora.r=8,16 trainer.learning_rate=1e-4,2e-4 -m" in done.stdout
    assert "lora          adapter_layers, attention_only" in done.stdout
    done = train("--cfg", "job", "lora.r=4", "--resolve")
    assert done.returncode == 0
    assert "  r: 4\n" in done.stdout


@pytest.mark.slow
def test_cross_field_faults_come_together_before_any_weight(train: Callable[..., Any]) -> None:
    """Rules between groups and of the model's skeleton in one message."""
    done = train("model=tiny_random", "lora=none", "data.max_length=9999", "trainer.fp16=true", "trainer.bf16=true")
    assert done.returncode == 2
    assert "full fine-tuning cannot train a quantized base" in done.stderr
    assert "data.max_length=9999: is beyond what the model can read" in done.stderr
    assert "fp16 and bf16 exclude each other" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_bad_data_is_one_message(train: Callable[..., Any], tiny_overrides: list[str], tmp_path: Path) -> None:
    """A missing column: exit code 1, no traceback, the record says FAILED."""
    (tmp_path / "bad.csv").write_text("frage,antwort\na,b\n")
    done = train(*tiny_overrides, f"data.path={tmp_path}/bad.csv")
    assert done.returncode == 1
    assert "data.columns: none of the usual names among frage, antwort" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_run_prints_its_summary(train: Callable[..., Any], tiny_overrides: list[str], tmp_path: Path) -> None:
    """Loss before and after, time, memory, places, answers; overrides on both sides of a flag are fine."""
    done = train(*tiny_overrides, "trainer.max_steps=2")
    assert done.returncode == 0, done.stderr
    for expected in (
        "before",
        "after",
        "perplexity",
        "tokens/s",
        "peak memory",
        "GiB",
        f"{tmp_path}/run/artifact",
        "scar",
    ):
        assert expected in done.stderr
    assert (tmp_path / "run" / "artifact" / "manifest.json").is_file()
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_record_and_artifact_hold_what_hydra_composed(
    train: Callable[..., Any], tiny_overrides: list[str], tmp_path: Path
) -> None:
    """Byte for byte, resolved, but for the sweep's group; a text too long for a parameter is cut only there, and marked."""
    from mlflow import MlflowClient
    from omegaconf import OmegaConf

    prompt = ("Größe 身長 \U0001f600: #a@b=[x] " * 1000)[:10_000]
    more = ("trainer.max_steps=1", "trainer.eval_strategy=no", "generation.sample_prompts=[]")
    done = train(*tiny_overrides, *more, f"generation.system_prompt='{prompt}'")
    assert done.returncode == 0, done.stderr
    composed = OmegaConf.load(tmp_path / "run" / ".hydra" / "config.yaml")
    values = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(values, dict)
    del values["sweep"]
    assert values["generation"]["system_prompt"] == prompt
    wanted = yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("medllm").experiment_id])
    recorded = Path(client.download_artifacts(run.info.run_id, "config.yaml", str(tmp_path)))
    for path in (recorded, tmp_path / "run" / "config.yaml", tmp_path / "run" / "artifact" / "config.yaml"):
        assert path.read_bytes() == wanted, path
    kept, mark = run.data.params["generation.system_prompt"], " ... (cut, see config.yaml)"
    assert len(kept) == 6000 and kept.endswith(mark) and prompt.startswith(kept.removesuffix(mark))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_run_is_killed(tiny_overrides: list[str], tmp_path: Path, number: int, code: int) -> None:
    """SIGTERM and SIGINT end a run with their exit codes, and its record says KILLED."""
    from mlflow import MlflowClient

    command = [
        sys.executable,
        str(ROOT / "train.py"),
        *tiny_overrides,
        "trainer.max_steps=100000",
        "trainer.eval_strategy=no",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=os.environ)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step"):
            break
    time.sleep(1)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("medllm").experiment_id])
    assert run.info.status == "KILLED"


@pytest.mark.slow
def test_inspect_data(dialogues: Path, tmp_path: Path) -> None:
    """Samples, lengths, fates and packing, without loading a model."""
    command = [sys.executable, str(ROOT / "scripts" / "inspect_data.py"), "model=tiny_random", "data=local"]
    arguments = [f"data.path={dialogues}", "data.max_length=128", "show=1", "page=report.html"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    assert done.returncode == 0, done.stderr
    for expected in ("<|im_start|>assistant", "22", "held out", "0 dropped", "packed (in use)"):
        assert expected in done.stdout
    assert "<svg" in (tmp_path / "report.html").read_text()
    done = subprocess.run([*command, "show=x"], capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    assert done.returncode == 2


def test_inspect_data_refuses_its_page_first(
    dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is prepared."""
    monkeypatch.setattr(pipeline, "build_datasets", lambda *a, **k: pytest.fail("was prepared"))
    script = runpy.run_path(str(ROOT / "scripts" / "inspect_data.py"))
    arguments = ["model=tiny_random", "data=local", f"data.path={dialogues}", f"page={tmp_path}"]
    assert guarded(lambda: script["main"](arguments)) == 2
    assert f"page={tmp_path}: is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["x", "", "-1", "\u00b2", "\u0663", "9" * 5000])
def test_a_number_is_of_the_digits_of_ascii(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Others count as digits, too, and are no number to Python, or one that nobody meant."""
    with pytest.raises(SystemExit) as stopped:
        pop_option([f"show={value}"], "show", 3)
    assert stopped.value.code == 2
    assert f"show={value}: is no whole number\n    allowed: digits 0 to 9" in capsys.readouterr().err


def test_overrides_may_stand_on_both_sides_of_a_flag() -> None:
    """Argparse refuses them; we sort them."""
    assert overrides_first(["lora.r=8,16", "-m", "seed=1"]) == ["lora.r=8,16", "seed=1", "-m"]
    assert overrides_first(["--cfg", "job", "a=1"]) == ["a=1", "--cfg", "job"]
    assert pop_option(["show=5", "a=1"], "show", 3) == (["a=1"], 5)
    assert pop_option(["a=1"], "show", 3) == (["a=1"], 3)


def test_every_command_names_itself_in_its_refusals() -> None:
    """What Hydra cannot read is told with the help of the command that was typed."""
    assert set(ROOTS.values()) <= set(COMMANDS)
    for name in set(ROOTS) - {"train"}:
        with pytest.raises(ConfigError, match="no such key") as told:
            compose_config(["zzzzqqqq=1"], config_name=name)
        assert "--help` for all keys" in str(told.value) or "did you mean" in str(told.value)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            OSError(errno.ENOSPC, "full", "{}/figure.png"),
            "{}/figure.png: could not be written: No space left on device; ",
        ),
        (OSError(errno.EFBIG, "large"), "a file: could not be written: File too large\n"),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
            "a file: could not be written: no folder takes temporary files; TMPDIR can name one\n",
        ),
    ],
)
def test_a_disk_that_refuses_anything(
    error: OSError, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a command was writing: one message, code 1."""
    if error.filename:
        error.filename = error.filename.format(tmp_path)

    def action() -> None:
        raise error

    assert guarded(action) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("medllm: " + told.format(tmp_path))
    assert shown.endswith("\n    fix: make room or mend the disk, then type the same line again\n")


@pytest.mark.parametrize(
    ("script", "arguments", "told"),
    [
        ("replay", [f"run={LONG}"], "is no such folder"),
        ("compare", [f"sweep={LONG}"], "no such sweep"),
        ("compare", [f"runs={LONG}"], "finds no run"),
        ("compare", ["runs=t/r**/x"], "finds no run"),
        ("grade", ["show", f"evaluation={LONG}"], "holds no answers to a rubric"),
        ("grade", ["export", "evaluation=x", f"seed={'9' * 5000}"], "is no whole number"),
        ("chat", [f"artifact={LONG}", "tracking=none"], "names no folder and no run record"),
        (
            "review",
            ["create", f"artifact={LONG}", "name=first", "raters=[{id:a,role:b,qualified:true}]"],
            "names no folder",
        ),
    ],
)
def test_no_name_is_too_long(
    script: str, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that no file system takes, a pattern or a number that Python does not take, is one that is not there."""
    monkeypatch.setattr(locate, "folder_of_record", lambda store, run_id: "")
    main = runpy.run_path(str(ROOT / "scripts" / f"{script}.py"))["main"]
    assert guarded(lambda: main(arguments)) in (1, 2)
    shown = capsys.readouterr().err
    assert told in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("line", ["train.py --help", "train.py --cfg job", "scripts/inspect_data.py --help"])
def test_who_reads_has_read_enough(line: str) -> None:
    """As `| head` does: no traceback, and nothing of the interpreter's at the end."""
    read, write = os.pipe()
    os.close(read)
    script, *arguments = line.split()
    done = subprocess.run([sys.executable, str(ROOT / script), *arguments], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.slow
def test_a_refused_line_changes_nothing_in_a_folder(
    train: Callable[..., Any], tiny_overrides: list[str], held: Path, tmp_path: Path
) -> None:
    """Where another process works, and where another run was begun: also what Hydra keeps there, and before torch is there."""
    line = [*(o for o in tiny_overrides if not o.startswith(("hydra.", "tracking."))), "tracking=none"]
    (held / ".hydra").mkdir()
    (held / ".hydra" / "overrides.yaml").write_text("[]")
    link = tmp_path / "link"
    link.symlink_to(held)
    for arguments in ([f"hydra.run.dir={held}/../held"], [f"hydra.run.dir={link}"]):
        done = train(*line, *arguments, PYTHONPROFILEIMPORTTIME="1")
        assert done.returncode == 2 and "is in use by another process" in done.stderr, done.stderr[-2000:]
        assert not [one for one in done.stderr.splitlines() if one.endswith("| torch")]
    done = train(*line, "lora.r=2,4", "-m", f"hydra.sweep.dir={held}")
    assert done.returncode == 2 and "is being run by another process" in done.stderr
    other = tmp_path / "run"
    (other / ".hydra").mkdir(parents=True)
    (other / ".hydra" / "overrides.yaml").write_text("[]")
    write_whole(other / CONFIG, resolved_yaml(load_run_conf([*line, "lora.r=4"])))
    done = train(*line, f"hydra.run.dir={other}")
    assert done.returncode == 2 and "lora.r=16: was 4 when the run in" in done.stderr, done.stderr[-2000:]
    assert "Error executing job" not in done.stderr  # which are words of Hydra's
    for folder in (held, other):
        assert [path.name for path in (folder / ".hydra").iterdir()] == ["overrides.yaml"]
        assert (folder / ".hydra" / "overrides.yaml").read_text() == "[]"


def test_what_a_message_quotes_does_not_act_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A file's text may hold what clears a screen or turns the order of words; lines end where they did."""
    complain("no such row: \x1b[2J\u202e\n    fix: name another")
    assert capsys.readouterr().err == "medllm: no such row: ⟨U+001B⟩[2J⟨U+202E⟩\n    fix: name another\n"
