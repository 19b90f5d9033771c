"""What is documented works as documented."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medllm.cli import overrides_first
from medllm.config.plan import make_plan
from medllm.config.rules import cross_field_faults
from tests.conf.groups import options

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "conf").rglob("*.yaml")),
]


def commands() -> list[str]:
    """Every `python train.py ...` of the documentation, the presets' heads and the help, without its comment."""
    from medllm.help import TEXT

    found = []
    for text in [page.read_text(encoding="utf-8") for page in PAGES] + [TEXT]:
        for match in re.finditer(r"(?:python|torchrun \S+|accelerate launch \S+ \S+) train\.py([^\n`]*)", text):
            command = re.split(r"\s{3,}|\s#|[;)]\s|\)$| below", match[1])[0].strip().rstrip(".,;)")
            if "[" not in command and "..." not in command:
                found.append(command)
    return sorted(set(found))


@pytest.mark.parametrize("command", commands())
def test_every_documented_command_composes(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It expands and passes every gate that needs no model; errors shown on purpose are tested below."""
    monkeypatch.setenv("WORLD_SIZE", "2" if "trainer.fsdp=true" in command else "1")
    arguments = overrides_first(shlex.split(command))
    if {"--help", "lora.rank=8", "model=qwen3_0_6b", "experiment=my_run"} & set(arguments):
        return
    overrides = [argument for argument in arguments if "=" in argument]
    plan = make_plan(overrides, multirun="-m" in arguments)
    assert len(plan.points) > 1 or "-m" not in arguments
    faults = [fault for point in plan.points for fault in cross_field_faults(point.conf)]
    assert [fault for fault in faults if not fault.problem.startswith("no such file")] == []  # the reader's own data


def test_the_error_in_the_readme_is_what_is_printed(train: Callable[..., Any]) -> None:
    """Word for word."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"\$ python train\.py lora\.rank=8\n(.*?)```", readme, re.S)
    assert train("lora.rank=8").stderr == shown


def test_the_readme_lists_every_option() -> None:
    """The table of groups is complete and names nothing that does not exist."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for group in (
        path.name for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name not in ("hydra", "local")
    ):
        (row,) = re.findall(rf"^\| `{group}` \| (.*?) \|", readme, re.M)
        assert sorted(re.findall(r"`(\w+)`", row)) == options(group)


def test_an_added_model_is_one_file(tmp_path: Path) -> None:
    """The README's example file composes."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(# Qwen3.*?)```", readme, re.S)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "qwen3_0_6b.yaml").write_text(text)
    plan = make_plan([f"hydra.searchpath=[file://{tmp_path}]", "model=qwen3_0_6b"], multirun=False)
    assert plan.points[0].conf.model.pretrained_model_name_or_path == "Qwen/Qwen3-0.6B"  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", [page for page in PAGES if page.suffix == ".md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file of the project."""
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_makefile_explains_itself() -> None:
    """Each command the documentation names has a line in `make help`."""
    makefile = (ROOT / "Makefile").read_text()
    for target in ("setup", "demo", "test", "test-slow", "check", "help"):
        assert re.search(rf"^{target}:.*## ", makefile, re.M)
