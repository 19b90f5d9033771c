"""Blinded expert review of an artifact: `python scripts/review.py create|export|import|report|approve artifact=RUN name=NAME`.

    create   artifact=RUN name=first 'raters=[{id:dr_a,role:general practitioner,qualified:true},{id:dr_b,...}]'
             answers=FOLDER     items.jsonl of an evaluation, or its folder; evaluation/quick of the run where not given
             prompts=FILE       answers these prompts now instead: JSONL, {"prompt": "..."}
             against=FOLDER     compares with the answers of another artifact's evaluation instead of the base's
             review=preference  another rubric of conf/review/; review.num_pairs=100, review.seed=1 and others as in conf/review/
    export   artifact=RUN name=first              a CSV sheet for each rater
             to=mlflow [tracking_uri=URI]         a review queue for each rater instead
    import   artifact=RUN name=first sheet=FILE   what a rater filled in; all of it or nothing
             from=mlflow [tracking_uri=URI]       what was answered in the queues
    report   artifact=RUN name=first [unblind=true]   progress and agreement; sides once all is rated, or on demand
    approve  artifact=RUN name=first              decides by the rules the review was created with; exit code 0 only if approved

Which answer is whose is kept in <name>.key.json, beside the review's folder: do not hand it to raters.
"""

from collections.abc import Callable
from pathlib import Path

from medllm.command import pop_option, run_script
from medllm.config.store import expanded
from medllm.console import results_console, tell
from medllm.errors import ConfigError, Fault

VERBS = ("create", "export", "import", "report", "approve")


def create(arguments: list[str]) -> None:
    """Makes a review."""
    from medllm.config.compose import load_conf
    from medllm.config.review import CreateReviewConf
    from medllm.review.create import create_review

    review = create_review(load_conf(CreateReviewConf, arguments))
    plan = review.plan
    raters = f"{len(plan.raters)} raters, {len(plan.qualified)} of them qualified"
    tell("review", f"{review.folder}: {plan.num_pairs} pairs, {len(plan.columns)} questions a pair, {raters}")
    tell("key", f"{review.key_path}, SHA-256 {plan.key_sha256}: keep it from raters")
    same = sum(pair.answers["A"] == pair.answers["B"] for pair in review.pairs)
    if same:
        tell("note", f"in {same} pairs both answers are the same")
    rules = plan.conf.approval
    if plan.num_pairs < rules.min_pairs or len(plan.qualified) < rules.min_raters:
        takes = f"{rules.min_pairs} pairs and {rules.min_raters} qualified raters"
        tell("note", f"it can approve nothing: that takes {takes}")


def export(arguments: list[str]) -> None:
    """Writes sheets, or makes queues."""
    arguments, to = pop_option(arguments, "to", "csv")
    arguments, tracking_uri = pop_option(arguments, "tracking_uri", "")
    folder, name = place(arguments, "to=csv or to=mlflow, tracking_uri=")
    chosen("to", to, ("csv", "mlflow"))
    from medllm.review.create import review_folder
    from medllm.review.plan import load_review

    review = load_review(review_folder(folder, name))
    if to == "mlflow":
        from medllm.review.queues import export_queues

        queues = export_queues(review, tracking_uri or store_of(folder))
        for rater, address in queues.items():
            tell("queue", f"{rater}: {address}")
        return
    from medllm.review.sheets import export_sheets

    written = export_sheets(review)
    for path in written.sheets:
        kept = ", left as it is: it differs from an empty sheet" if path in written.kept else ""
        tell("sheet", f"{path}{kept}")
    tell("guide", written.guide)


def import_(arguments: list[str]) -> None:
    """Reads what raters said."""
    arguments, source = pop_option(arguments, "from", "csv")
    arguments, sheet = pop_option(arguments, "sheet", "")
    arguments, tracking_uri = pop_option(arguments, "tracking_uri", "")
    folder, name = place(arguments, "sheet=FILE, or from=mlflow and tracking_uri=")
    chosen("from", source, ("csv", "mlflow"))
    if source == "csv" and not sheet:
        raise ConfigError(Fault("sheet", "needs a value", fix="sheet=FILE, or from=mlflow"))
    from medllm.review.create import review_folder
    from medllm.review.plan import load_review
    from medllm.review.ratings import keep, refuse_unblinded

    review = load_review(review_folder(folder, name))
    refuse_unblinded(review)
    if source == "mlflow":
        from medllm.review.queues import read_queues

        ratings = read_queues(review, tracking_uri or store_of(folder))
    else:
        from medllm.review.sheets import read_sheet

        ratings = read_sheet(review, expanded(sheet))
    kept = keep(review, ratings)
    tell("ratings", f"{kept.new} new, {kept.changed} changed, {kept.same} as before")


def report(arguments: list[str]) -> None:
    """Prints and writes the report."""
    arguments, unblind = pop_option(arguments, "unblind", "false")
    folder, name = place(arguments, "unblind=true")
    chosen("unblind", unblind, ("true", "false"))
    from medllm.review.create import review_folder
    from medllm.review.plan import load_review
    from medllm.review.report import make_report, print_report, write_report

    made = make_report(load_review(review_folder(folder, name)), folder, unblind_now=unblind == "true")
    print_report(made, results_console())
    tell("page", write_report(made)[0])


def approve(arguments: list[str]) -> None:
    """Decides; exits with 1 unless the artifact is approved."""
    folder, name = place(arguments, "artifact=, name=")
    from medllm.review.approval import approve as decide
    from medllm.review.create import review_folder
    from medllm.review.plan import load_review
    from medllm.review.report import make_report, write_report

    status = decide(folder, name)
    print(status.decision if status.decision != "unreviewed" else "not decided: the artifact stays unreviewed")
    for reason in status.reasons:
        print(f"  {reason}")
    if status.decision != "unreviewed":
        from medllm.review.record import record_decision

        record_decision(folder, status)
        write_report(make_report(load_review(review_folder(folder, name)), folder))
    if status.decision != "approved":
        raise SystemExit(1)


def place(arguments: list[str], others: str) -> tuple[Path, str]:
    """The artifact's folder and the review's name; nothing else may be left."""
    from medllm.config.review import name_faults
    from medllm.locate import find_artifact

    arguments, artifact = pop_option(arguments, "artifact", "")
    arguments, name = pop_option(arguments, "name", "")
    faults = [Fault("", "no such option", a, allowed=f"artifact=, name=, {others}") for a in arguments]
    for key, value in (("artifact", artifact), ("name", name)):
        if not value:
            faults.append(Fault(key, "needs a value", fix=f"give it one: {key}=..."))
    faults += name_faults(name) if name else []
    if faults:
        raise ConfigError(faults)
    return find_artifact(artifact), name


def chosen(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuses what is none of these."""
    if value not in allowed:
        raise ConfigError(Fault(key, "no such value", value, allowed=", ".join(allowed)))


def store_of(folder: Path) -> str:
    """The tracking store of the artifact's run."""
    from medllm.artifact import load_artifact
    from medllm.config.tracking import MlflowConf

    tracking = load_artifact(folder).conf.tracking
    if not isinstance(tracking, MlflowConf):
        raise ConfigError(
            Fault("tracking_uri", "the run has no record", fix="tracking_uri=sqlite:///FILE or a server's")
        )
    return tracking.tracking_uri


def main(arguments: list[str]) -> None:
    """Does what the first word says."""
    verbs: dict[str, Callable[[list[str]], None]] = dict(
        zip(VERBS, (create, export, import_, report, approve), strict=True)
    )
    if not arguments or arguments[0] not in verbs:
        raise ConfigError(Fault("", "no such command", arguments[0] if arguments else "", allowed=", ".join(VERBS)))
    verbs[arguments[0]](arguments[1:])


if __name__ == "__main__":
    run_script(main, __doc__)
