"""Sends what a run could not tell its tracking store: `python scripts/replay.py run=FOLDER`.

    run=outputs/2026-01-31/10-00-00-demo      a run's folder, or a sweep's with all its points

A store that goes away does not stop a run: what it has not got stays in the run's `unsent.jsonl`. Whatever the store has already
is left out, so that the same line twice does no harm. A run that goes on in its folder, and a sweep, do this by themselves.

    exit code 0 the store has everything; 1 it does not answer, and the file stays, or it will never take some of it, which
                `refused.jsonl` keeps; 2 the folder is none, or in use
"""

from medllm.command import pop_option, run_script
from medllm.config.paths import path_exists
from medllm.config.store import expanded
from medllm.console import tell
from medllm.errors import ConfigError, Fault, TrackingError


def main(arguments: list[str]) -> None:
    """Sends the folder's own, then that of its points."""
    rest, text = pop_option(arguments, "run", "")
    if rest or not text:
        raise ConfigError(
            [Fault("", "no such option", a, allowed="run=") for a in rest] or Fault("run", "needs a value")
        )
    from medllm.run_folder import CONFIG, REFUSED, SWEEP, UNSENT, has_unsent, lock_folder
    from medllm.tracking.build import replay_records

    folder = expanded(text)
    is_sweep = path_exists(folder / SWEEP)
    # Another one may be of a day, where runs still go on.
    if not (is_sweep or path_exists(folder / CONFIG) or path_exists(folder / UNSENT)):
        raise ConfigError(Fault("run", "is no such folder", text, allowed="a run's folder, or a sweep's"))
    works_in = folder.parent if (folder.parent / SWEEP).is_file() else folder
    fix = "wait for its end: it sends what is left by itself, as soon as the store is back"
    lock = lock_folder(works_in, Fault("run", "is in use by another process", text, fix=fix))
    try:
        points = sorted(folder.glob(f"*/{UNSENT}")) if is_sweep else []
        failures: list[str] = []
        left = [path.parent for path in (folder / UNSENT, *points) if has_unsent(path.parent)]
        for one, sent, refused, why_not in replay_records(left):
            if why_not:
                failures.append(why_not)
                continue
            tell("sent", f"{sent} entries of {one}")
            if refused:
                told = f"which are in {one / REFUSED} now; the reasons are told above"
                failures.append(f"the store will never take {refused} entries, {told}")
        if not left:
            tell("sent", "nothing was left to send")
        if failures:
            raise TrackingError("\n".join(failures))
    finally:
        lock.release()


if __name__ == "__main__":
    run_script(main, __doc__)
