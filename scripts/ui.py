"""Shows the run record: `python scripts/ui.py [OVERRIDES]`, then http://127.0.0.1:5000 in a browser.

    port=5001                                     another port; 0 takes a free one
    tracking.tracking_uri=sqlite:////srv/runs.db  another database than mlflow.db at the project's root

It is MLflow's interface in this one process, for this machine alone: nobody has to sign in, so it listens at 127.0.0.1 and
answers to no other name. What ends the process, a kill included, ends all of it.

    exit code 130 after Ctrl-C, 143 after SIGTERM; 2 the configuration is wrong, or there is no such database yet
"""

from medllm.command import run_script
from medllm.config.compose import load_conf
from medllm.config.ui import UiConf


def main(arguments: list[str]) -> None:
    """Listens."""
    conf = load_conf(UiConf, arguments)
    from medllm.tracking.ui import show_runs  # imports MLflow: only after every key, type and range is right

    show_runs(conf)


if __name__ == "__main__":
    run_script(main, __doc__)
