"""Shows and clears what is kept between runs: `python scripts/cache.py [clear] [KIND ...]`.

Kinds: prepared (cleaned conversations), samples (tokenized ones), models (prepared base models), quantized (their weights
in 4 or 8 bits). Everything in the cache can be made again; clearing it costs only time. Its place is $MEDLLM_CACHE, or
~/.cache/medllm.
"""

from medllm.cache import cache_dir, cache_entries, clear_cache
from medllm.command import run_script
from medllm.console import plain_console
from medllm.errors import ConfigError, Fault

KINDS = ("models", "prepared", "quantized", "samples")
MIB = 1 << 20


def show(kind: str) -> None:
    """One line per entry, and their sum."""
    from rich.table import Table

    entries = cache_entries(kind)
    table = Table("kind", "key", "MiB", "last used", "what", title=str(cache_dir()))
    for entry in sorted(entries, key=lambda entry: (entry.kind, entry.age_seconds)):
        what = ", ".join(f"{name} {value}" for name, value in entry.about.items())
        days, seconds = divmod(int(entry.age_seconds), 86400)
        age = f"{days} d" if days else f"{seconds // 3600} h {seconds // 60 % 60} min"
        table.add_row(entry.kind, entry.path.name[:12], f"{entry.size / MIB:,.1f}", f"{age} ago", what)
    console = plain_console()
    console.print(table)
    console.print(
        f"{len(entries)} entries, {sum(entry.size for entry in entries) / MIB:,.1f} MiB; clear: python scripts/cache.py clear"
    )


def clear(kind: str) -> None:
    """Removes the entries and says how much room that made."""
    removed = clear_cache(kind)
    print(f"removed {len(removed)} entries, {sum(entry.size for entry in removed) / MIB:,.1f} MiB")


def main(arguments: list[str]) -> None:
    """Raises: ConfigError: if an argument is neither `clear` nor a kind."""
    kinds = [argument for argument in arguments if argument != "clear"]
    for unknown in kinds:
        if unknown not in KINDS:
            raise ConfigError([Fault("", "no such kind", unknown, allowed=", ".join(KINDS))])
    for kind in kinds or [""]:
        (clear if "clear" in arguments else show)(kind)


if __name__ == "__main__":
    run_script(main, __doc__)
