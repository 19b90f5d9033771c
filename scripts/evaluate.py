"""Asks a tuned model and its base the same: `python scripts/evaluate.py artifact=RUN [suite=quick] [OVERRIDES]`.

    artifact=outputs/2026-01-31/10-00-00-demo      a run's folder, its artifact/ folder, the id of its run record,
                                                   or models:/name@alias of the model registry
    suite=full                                     an option of conf/evaluation/; quick takes minutes on a laptop
    limit=10                                       ask a few items of each suite; the results are stamped as limited
    evaluation.conversation.path=FILE              conversations of a file instead of the held-out ones
    evaluation.batch_size=16                       any other key; conf/evaluate.yaml is the table of contents
    tracking=none                                  leave the run record alone

One table of figures with 95 % intervals, paired by item; items.jsonl, results.json and report.html in <run>/evaluation/<suite>/,
and the figures in the run record. The same line goes on with an evaluation that was interrupted. Ends with the gate's decision:

    exit code 0 ship, 3 don't ship, 4 not enough data; 1 failed, 2 the configuration is wrong, 130 interrupted
"""

import sys

from medllm.command import pop_option, run_script
from medllm.config.compose import load_conf
from medllm.config.evaluation import EvaluateConf
from medllm.console import results_console, tell


def main(arguments: list[str]) -> None:
    """Evaluates, prints, writes, and exits as the gate decides.

    Raises:
        SystemExit: with the gate's code.
    """
    arguments, suite = pop_option(arguments, "suite", "")
    arguments, limit = pop_option(arguments, "limit", "")
    shorthand = [f"evaluation={suite}"] if suite else []
    shorthand += [f"evaluation.limit={limit}"] if limit else []
    conf = load_conf(EvaluateConf, [*shorthand, *arguments])
    from medllm.evaluation.gate import EXIT_CODES  # heavy imports only after every key, type and range is right
    from medllm.evaluation.report import record_report, write_report
    from medllm.evaluation.run import evaluating
    from medllm.evaluation.table import print_evaluation

    with evaluating(conf) as (evaluation, record):
        page = write_report(evaluation)
        record_report(evaluation, record)
    print_evaluation(evaluation, results_console(180))
    tell("report", page)
    sys.exit(EXIT_CODES[evaluation.decision.verdict])


if __name__ == "__main__":
    run_script(main, __doc__)
