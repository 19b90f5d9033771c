"""Settings of a suite that does not run: what a user names must not be left out without a word."""

from medllm.config.conf import Conf
from medllm.errors import Fault


def unused_faults(conf: Conf, suite: str, keys: tuple[str, ...], *, enabled: bool) -> list[Fault]:
    """What is named to be asked, though the suite is off.

    Args:
        conf: The suite's.
        suite: Its name.
        keys: That name a user's own files or tasks.
        enabled: Whether the suite runs.
    """
    if enabled:
        return []
    fix = f"evaluation.{suite}.enabled=true"
    return [
        Fault(key, f"is set, but the suite {suite} is off", _written(value), fix=fix)
        for key in keys
        if (value := getattr(conf, key))
    ]


def _written(value: str | list[str]) -> str:
    return value if isinstance(value, str) else f"[{','.join(value)}]"
