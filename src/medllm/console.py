"""The one console: people read it on stderr, so that stdout stays free for what programs read."""

from rich.console import Console

console = Console(stderr=True, highlight=False, soft_wrap=True)
