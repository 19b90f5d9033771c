"""The house's laws that a machine can check."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "medllm"

# Lower imports nothing from higher; names in one row do not import each other.
LAYERS = [
    {
        "errors",
        "cache",
        "console",
        "gpus",
        "libraries",
        "ranks",
        "redaction",
        "stopping",
        "storage",
        "intervals",
        "encoding",
        "template",
        "__init__",
    },
    {"command", "config", "intact"},
    {"conversation", "licences", "run_folder", "spreadsheet"},
    {"data", "models", "tracking", "hub", "plots", "pages", "artifact", "help", "conversation_losses"},
    {"training", "inference", "data_page", "locate", "sameness"},
    {"result", "data_view", "foundation", "guard"},
    {"evaluation"},
    {"deposit", "learning"},
    {"experiment", "summary"},
    {"comparison"},
    {"sweep", "review"},
    {"card", "chat", "export"},
    {"publication", "serving"},
    {"point"},
    {"cli"},
]
ONLY_IN = {
    "mlflow": {"tracking", "evaluation", "review"},
    "peft": {"models"},
    "bitsandbytes": {"models"},
    "optuna": {"sweep"},
}


def room(path: Path) -> str:
    """The top-level name a file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Every module a file imports, at its top or in a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


FILES = sorted(SOURCE.rglob("*.py"))


def test_every_room_has_a_layer() -> None:
    """A new file or folder must find its place, here and in what contributors read."""
    assert {room(path) for path in FILES} == set().union(*LAYERS)
    lines = dict(re.findall(r"^(\d+)\. (`.*`)$", (SOURCE.parents[1] / "CONTRIBUTING.md").read_text(), re.MULTILINE))
    for number, layer in enumerate(LAYERS, 1):
        told = set(re.findall(r"`(\w+)`", lines[str(number)])) | {"__init__"}
        assert told == layer | {"__init__"}, number


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_downward(path: Path) -> None:
    """A layer imports lower layers and itself, not its siblings; the version is free for all."""
    rank = next(i for i, layer in enumerate(LAYERS) if room(path) in layer)
    rooms = {name.split(".")[1] for name in imports(path) if name.startswith("medllm.")} - {"__version__"}
    allowed = set().union(*LAYERS[:rank]) | {room(path)}
    if rank == 0:
        allowed |= LAYERS[0]
    assert rooms <= allowed


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_heavy_libraries_stay_in_their_rooms(path: Path) -> None:
    """mlflow, peft, bitsandbytes and optuna are each known to one room."""
    for library, rooms in ONLY_IN.items():
        if any(name == library or name.startswith(f"{library}.") for name in imports(path)):
            assert room(path) in rooms


def loaded_by(code: str, *libraries: str) -> str:
    """Which of these libraries a fresh process has imported after some code."""
    code = f"import sys; {code}; print(sorted({set(libraries)} & set(sys.modules)))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_composing_leaves_torch_out() -> None:
    """A wrong key is answered before anything heavy is imported."""
    code = "from medllm.config.compose import load_run_conf; import medllm.cli, medllm.run_folder; load_run_conf([])"
    assert loaded_by(code, "numpy", "torch", "transformers", "mlflow", "peft", "datasets") == "[]"


@pytest.mark.slow
def test_a_start_imports_no_more_than_it_needs() -> None:
    """Cleaning is imported where something is cleaned, pictures when there is one to draw, a store when one is opened."""
    late = ("ftfy", "rensa", "py3langid", "matplotlib", "mlflow", "optuna", "ray")
    assert loaded_by("import medllm.experiment", *late) == "[]"


def test_configs_are_read_without_hidden_defaults() -> None:
    """No `cfg.get(key, default)`: a default stands in its schema."""
    offenders = [str(p) for p in FILES if "conf.get(" in p.read_text() or "cfg.get(" in p.read_text()]
    assert offenders == []


def test_forbidden_names() -> None:
    """No drawer for everything."""
    assert not [path for path in FILES if path.stem in ("utils", "helpers", "common", "misc")]
