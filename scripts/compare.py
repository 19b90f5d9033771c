"""Compares the points of a sweep, or any runs: `python scripts/compare.py sweep=NAME_OR_FOLDER [winner=EXPERIMENT]`.

    python scripts/compare.py sweep=rank_rate                      a sweep below outputs/sweeps/, or its folder
    python scripts/compare.py runs='outputs/2026-01-31/*,other'    runs, by folder or pattern
    winner=NAME     writes conf/experiment/NAME.yaml, which makes the winner again
    page=FILE       instead of comparison.html in the sweep's folder, or for runs= in the current one

Ranks by held-out loss with intervals by conversations and by seeds, says which runs cannot be told from the best, what each
setting does, and which is the smallest of the best. Runs that did not finish are listed and never ranked.
"""

from pathlib import Path

from medllm.command import pop_option, run_script
from medllm.config.paths import path_exists
from medllm.config.store import expanded, project_root
from medllm.console import results_console, tell
from medllm.errors import ConfigError, Fault


def find_sweep(text: str) -> Path:
    """A folder, or the name of one below `outputs/sweeps/`.

    Raises:
        ConfigError: naming the sweeps that there are.
    """
    home = project_root() / "outputs" / "sweeps"
    for folder in (home / text, expanded(text)):
        if path_exists(folder / "sweep.json"):
            return folder
    found = sorted(path.parent.name for path in home.glob("*/sweep.json"))
    raise ConfigError(Fault("sweep", "no such sweep", text, allowed=", ".join(found) or f"none yet below {home}"))


def find_runs(text: str) -> list[Path]:
    """Folders by path or pattern; what a pattern finds beside runs is passed over.

    Raises:
        ConfigError: for a part that finds no run.
    """
    found = []
    # A folder's name may hold commas itself.
    parts = [text] if _matching(text) else text.split(",")
    for part in filter(None, parts):
        runs = [path for path in _matching(part) if (path / "config.yaml").is_file()]
        if not runs:
            allowed = "folders that hold a config.yaml, or a pattern in which ** stands alone between two /"
            raise ConfigError(Fault("runs", "finds no run", part, allowed=allowed))
        found += runs
    return found


def _matching(text: str) -> list[Path]:
    path = expanded(text)
    if path_exists(path):
        return [path] if path.is_dir() else []
    root = Path(path.anchor)
    try:
        return sorted(found for found in root.glob(str(path.relative_to(root))) if found.is_dir())
    except (OSError, ValueError):  # of a name that is too long; of a pattern such as `a**`
        return []


def main(arguments: list[str]) -> None:
    """Compares, prints, and writes page, pictures and winner."""
    arguments, sweep = pop_option(arguments, "sweep", "")
    arguments, runs = pop_option(arguments, "runs", "")
    arguments, winner = pop_option(arguments, "winner", "")
    arguments, page = pop_option(arguments, "page", "")
    if arguments:
        raise ConfigError([Fault("", "no such option", a, allowed="sweep=, runs=, winner=, page=") for a in arguments])
    if bool(sweep) == bool(runs):
        raise ConfigError(Fault("", "name either a sweep or runs", allowed="sweep=NAME_OR_FOLDER or runs=FOLDER,..."))
    from medllm.comparison.report import PAGE, compare_runs, compare_sweep, print_comparison, write_comparison
    from medllm.comparison.winner import require_name, write_winner
    from medllm.run_folder import require_writable

    if winner:
        require_name(winner)
    folder = find_sweep(sweep) if sweep else Path(page).parent if page else Path.cwd()
    folders = find_runs(runs)
    written = Path(page) if page else folder / PAGE
    require_writable(written, "page")
    comparison = compare_sweep(folder) if sweep else compare_runs(folders)
    print_comparison(comparison, results_console())
    for path in write_comparison(comparison, folder, written)[:1]:
        tell("page", path)
    if winner:
        tell("winner", f"{write_winner(comparison, winner)}: python train.py experiment={winner}")


if __name__ == "__main__":
    run_script(main, __doc__)
