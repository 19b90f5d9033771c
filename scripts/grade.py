"""Grades the open answers of an evaluation: `python scripts/grade.py export|import|judge|show evaluation=FOLDER`.

    export  [sheet=FILE.csv] [seed=NUMBER]  a sheet for raters, who do not see which model answered; its key stays here, with
                                            the seed of the order, a secret one unless it is given
    import  sheet=FILE.csv rater=NAME       takes the sheet back, under any name, with yes or no in its column `met`
    judge   model=NAME [base_url=http://localhost:8000/v1] [timeout_seconds=120] [attempts=3] [allow_remote=true]
                                            lets a model behind an OpenAI-compatible server grade, labelled LLM_JUDGE; it never
                                            decides anything; its token, if it wants one, is read from MEDLLM_JUDGE_TOKEN
    show                                    the scores so far

FOLDER is that of the evaluation, with `items.jsonl`. Run scripts/evaluate.py again afterwards to have the scores in its report.
"""

from pathlib import Path
from typing import Any

from medllm.command import DIGITS, is_whole_number, run_script
from medllm.console import results_console, tell
from medllm.errors import ConfigError, Fault

OPTIONS = {
    "export": {"evaluation", "sheet", "seed"},
    "import": {"evaluation", "sheet", "rater"},
    "judge": {"evaluation", "model", "base_url", "timeout_seconds", "attempts", "allow_remote"},
    "show": {"evaluation"},
}
NEEDED = {
    "export": ["evaluation"],
    "import": ["evaluation", "sheet", "rater"],
    "judge": ["evaluation"],
    "show": ["evaluation"],
}


def main(arguments: list[str]) -> None:
    """Does one step of the round trip."""
    verb, values = _parse(arguments)
    from medllm.evaluation import grading
    from medllm.run_folder import require_writable

    folder = Path(values["evaluation"])
    if verb == "export":
        sheet = Path(values["sheet"]) if "sheet" in values else None
        if sheet:
            require_writable(sheet, "sheet")
        seed = int(values["seed"]) if "seed" in values else None
        sheet, key = grading.export_sheet(folder, sheet, seed)
        tell("sheet", sheet)
        tell("key", f"{key} (not for the raters)")
        tell("then", f"python scripts/grade.py import evaluation={folder} sheet={sheet} rater=NAME")
        return
    if verb == "import":
        with grading.alone_in(folder):
            taken, unfinished = grading.import_sheet(folder, Path(values["sheet"]), values["rater"])
        left_out = f"{unfinished} left out, of which a criterion is not graded"
        tell("graded", f"{taken} answers by {values['rater']}; {left_out}")
    if verb == "judge":
        _judge(folder, values)
    if verb == "show":
        with grading.alone_in(folder):
            grading.add_grades(folder, [])  # an evaluation that began anew lost the scores; the grades are still here
    _show(folder)


def _parse(arguments: list[str]) -> tuple[str, dict[str, str]]:
    verb = arguments[0] if arguments else ""
    if verb not in OPTIONS:
        raise ConfigError(
            Fault("", "no such step", verb, allowed=", ".join(OPTIONS), fix="python scripts/grade.py --help")
        )
    allowed = ", ".join(f"{name}=" for name in sorted(OPTIONS[verb]))
    values = dict(argument.partition("=")[::2] for argument in arguments[1:])
    faults = [Fault("", "no such option", name, allowed=allowed) for name in values if name not in OPTIONS[verb]]
    faults += [Fault(name, f"is needed to {verb}") for name in NEEDED[verb] if not values.get(name)]
    seed = values.get("seed", "0")
    if not is_whole_number(seed):
        fix = "leave it out for a secret one"
        faults.append(Fault("seed", "is no whole number", seed, allowed=DIGITS, fix=fix))
    if faults:
        raise ConfigError(faults)
    return verb, values


def _judge(folder: Path, values: dict[str, str]) -> None:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from rich.progress import Progress

    from medllm.config.evaluation.rubric import JudgeConf
    from medllm.config.validate import explain
    from medllm.console import console
    from medllm.evaluation.grading import add_grades, alone_in, ungraded
    from medllm.evaluation.judge import Judge, grade_all

    given: dict[str, Any] = {name: value for name, value in values.items() if name != "evaluation"}
    try:
        conf = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(JudgeConf), OmegaConf.create(given)))
    except OmegaConfBaseException as error:
        error.__context__ = None  # OmegaConf's draft of the message, which explain would take for the cause
        raise ConfigError(explain(error, [f"{name}={value}" for name, value in given.items()])) from None
    assert isinstance(conf, JudgeConf)
    judge = Judge(conf)
    with alone_in(folder), Progress(console=console, disable=not console.is_terminal) as bar:
        answers = ungraded(folder, "judge", judge.name)
        if answers:
            judge.check()
        row = bar.add_task("judging", total=sum(len(answer.rubric.criteria) for answer in answers))
        done = grade_all(
            judge, answers, lambda grades: add_grades(folder, [grades]), lambda count: bar.advance(row, count)
        )
    tell("LLM_JUDGE", f"{judge.name} graded {done} answers; {len(answers) - done} could not be read from its replies")


def _show(folder: Path) -> None:
    from rich.table import Table

    from medllm.evaluation.grading import load_answers, summary

    table = Table("figure", "side", "answers", "score", "95 % interval")
    for metric, side, count, (value, low, high) in summary(folder):
        table.add_row(metric, side, str(count), f"{value:.3f}", f"{low:.3f} to {high:.3f}")
    if table.row_count:
        results_console(120).print(table)
    else:
        tell("ungraded", f"{len(load_answers(folder))} answers")


if __name__ == "__main__":
    run_script(main, __doc__)
