"""An evaluation from an artifact to its results: suites ask each side item by item, and go on where they stopped."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from medllm.artifact import MANIFEST, Artifact, sha256
from medllm.config.compose import resolved
from medllm.config.evaluation import EvaluateConf, EvaluationConf
from medllm.config.guard import GuardConf, RedFlagGuardConf
from medllm.config.store import rooted
from medllm.config.tracking import MlflowConf
from medllm.console import console, say
from medllm.errors import Fault
from medllm.evaluation.figures import Measured, measure
from medllm.evaluation.gate import Decision, decide, rule_faults
from medllm.evaluation.items import IDENTITY, ITEMS, PAGE, RESULTS, Journal, Outcomes, draw_items, identity
from medllm.evaluation.lexicons import Validity, build_lexicons, validities
from medllm.evaluation.subject import ModelSubject
from medllm.evaluation.suite import Item, Metric, Side, Subject, Suite
from medllm.evaluation.suites import Around, build_suites
from medllm.guard.lexicon import load_lexicon
from medllm.inference.load import LoadedArtifact, open_artifact
from medllm.locate import find_artifact
from medllm.run_folder import lock_folder, require_writable
from medllm.tracking.build import find_record
from medllm.tracking.memory import explained_memory
from medllm.tracking.record import Record

# The settings that change nothing of what an item shows.
WITHOUT_EFFECT = ("name", "limit", "batch_size", "gate")


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation came to.

    Attributes:
        conf: What was asked.
        folder: Where its files go.
        artifact: Its folder.
        manifest_sha256: Of the artifact's manifest, which states every other file's.
        suites: That were run.
        prompts: Last question of each item, by suite and item.
        outcomes: By suite and side.
        measured: All metrics, suite by suite.
        decision: The gate's.
        lexicons: How far the lexicons can be trusted.
    """

    conf: EvaluateConf
    folder: Path
    artifact: Path
    manifest_sha256: str
    suites: list[Suite]
    prompts: dict[str, dict[str, str]]
    outcomes: dict[tuple[str, Side], Outcomes]
    measured: list[Measured]
    decision: Decision
    lexicons: dict[str, Validity]

    @property
    def sides(self) -> list[Side]:
        """That any suite asked, in the order of their columns."""
        return [side for side in Side if any(side in suite.sides for suite in self.suites)]

    @property
    def limited(self) -> bool:
        """Whether a setting left items out."""
        return bool(self.conf.evaluation.limits())


@contextmanager
def evaluating(conf: EvaluateConf) -> Iterator[tuple[Evaluation, Record]]:
    """Runs the enabled suites over an artifact, or goes on with what was interrupted.

    Other processes are kept out of the evaluation's folder until the block ends, which writes there what it came to.

    Yields:
        What it came to, and the record of the artifact's run.

    Raises:
        MedLLMError: of the kind that fits.
    """
    folder = find_artifact(conf.artifact, conf.tracking)
    loaded = open_artifact(folder, use_cpu=conf.evaluation.use_cpu)
    manifest_sha256 = sha256(folder / MANIFEST)
    lexicons = build_lexicons(conf.lexicon)
    around = Around(
        loaded.artifact.conf, loaded.renderer, loaded.artifact.manifest["data"]["fingerprint"], lexicons, conf.guard
    )
    suites = build_suites(conf.evaluation, around)
    rule_faults(conf.evaluation.gate, suites)
    items = {suite.name: suite.items() for suite in suites}
    asked = {name: draw_items(of, conf.evaluation.limit) for name, of in items.items()}
    for suite in suites:
        say("suite", f"{suite.name}: {len(asked[suite.name])} items, {', '.join(side.value for side in suite.sides)}")
    place = folder.parent / "evaluation" / conf.evaluation.name
    fix = "wait for its end; the same line then asks only what is left"
    lock = lock_folder(place, Fault("artifact", "is being evaluated by another process", conf.artifact, fix=fix))
    try:
        for name in (ITEMS, IDENTITY, RESULTS, PAGE):
            require_writable(place / name)
        journal = Journal.open(place, _identities(conf, suites, items, manifest_sha256))
        smaller = f"evaluation.batch_size below {conf.evaluation.batch_size}"
        with explained_memory(f"{smaller}; the same line goes on with what was answered so far"):
            run_suites(suites, asked, journal, lambda side: subject(loaded, conf.evaluation, side))
        shown = {key: {i.id: o[i.id] for i in asked[key[0]]} for key, o in journal.known.items() if key[0] in asked}
        measured = [
            one
            for suite in suites
            for one in measure(suite.metrics, {side: shown[(suite.name, side)] for side in suite.sides})
        ]
        evaluation = Evaluation(
            conf=conf,
            folder=place,
            artifact=folder,
            manifest_sha256=manifest_sha256,
            suites=suites,
            prompts={name: {i.id: i.conversation.messages[-1].content for i in of} for name, of in asked.items()},
            outcomes=shown,
            measured=measured,
            decision=decide(conf.evaluation.gate, measured, limits=conf.evaluation.limits()),
            lexicons=validities(lexicons),
        )
        yield evaluation, _record(conf, loaded.artifact)
    finally:
        lock.release()


def _identities(
    conf: EvaluateConf, suites: Sequence[Suite], items: dict[str, list[Item]], manifest_sha256: str
) -> dict[str, str]:
    """What decides over each suite's outcomes, see `identity`."""
    lexicon = {name: resolved(value) for name, value in conf.lexicon.items()}
    guard = guard_settings(conf.guard)
    return {
        suite.name: identity(
            suite,
            items[suite.name],
            [
                manifest_sha256,
                settings(conf.evaluation, suite.name),
                lexicon,
                guard if Side.guarded in suite.sides else None,
            ],
        )
        for suite in suites
    }


def _record(conf: EvaluateConf, artifact: Artifact) -> Record:
    """Of the artifact's run, to add to it."""
    tracking = artifact.conf.tracking
    if not isinstance(conf.tracking, MlflowConf):
        return Record()
    if isinstance(tracking, MlflowConf):  # who evaluates decides about texts
        tracking = replace(tracking, log_texts=conf.tracking.log_texts)
    return find_record(tracking, artifact.manifest["run_id"], conf.tracking.tracking_uri)


def settings(conf: EvaluationConf, suite: str) -> dict[str, Any]:
    """What decides over a suite's outcomes: what all suites share, and its own."""
    values = resolved(conf)
    shared = {k: v for k, v in values.items() if not isinstance(v, dict) and k not in WITHOUT_EFFECT}
    return {**shared, suite: values[suite]}


def guard_settings(conf: GuardConf) -> list[Any]:
    """What decides over a guard's words: its keys, and the vocabulary that they name."""
    if not isinstance(conf, RedFlagGuardConf):
        return [resolved(conf)]
    return [resolved(conf), load_lexicon(None if conf.lexicon is None else rooted(conf.lexicon)).sha256]


@contextmanager
def subject(loaded: LoadedArtifact, conf: EvaluationConf, side: Side) -> Iterator[Subject]:
    """A side of an artifact, to be asked. The guarded side answers as the tuned one: suites put their guard around it."""
    with loaded.model(tuned=side is not Side.base) as model:
        generation = replace(loaded.artifact.conf.generation, max_new_tokens=conf.max_new_tokens)
        yield ModelSubject(side, model, loaded.renderer, conf.batch_size, generation)


def run_suites(
    suites: Sequence[Suite],
    asked: dict[str, list[Item]],
    journal: Journal,
    open_subject: Callable[[Side], Any],
) -> None:
    """Asks what is not known yet. Side by side, so that a base that must be loaded in turn is loaded once.

    Args:
        suites: To run.
        asked: Items by suite.
        journal: Takes outcomes as they come.
        open_subject: A context that yields the subject of a side.
    """
    with Bars() as bars:
        for side in Side:
            left = {
                suite.name: [item for item in asked[suite.name] if item.id not in journal.of(suite.name, side)]
                for suite in suites
                if side in suite.sides
            }
            if not any(left.values()):
                continue
            with open_subject(side) as asking:
                was_training = asking.model.training
                asking.model.eval()
                try:
                    for suite in suites:
                        if left.get(suite.name):
                            _ask(suite, asking, left[suite.name], journal, bars)
                finally:
                    asking.model.train(was_training)


def _ask(suite: Suite, asking: Subject, items: list[Item], journal: Journal, bars: "Bars") -> None:
    bars.start(f"{suite.name} {asking.side.value}", len(items))
    names: set[Metric] = set(suite.metrics)
    for item, outcome in suite.outcomes(asking, items):
        unknown = set(outcome.values) - {metric.name for metric in names}
        assert not unknown, f"{suite.name} states no metric {unknown}"
        journal.add(suite.name, asking.side, item, outcome)
        bars.advance()
    missing = [item.id for item in items if item.id not in journal.of(suite.name, asking.side)]
    assert not missing, f"{suite.name} has no outcome of {missing[:3]}"


class Bars:
    """A progress bar for each suite and side on a terminal; elsewhere a line at the start and at every quarter."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal)

    def __enter__(self) -> "Bars":
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def start(self, name: str, total: int) -> None:
        """Begins a row."""
        self.name, self.total, self.done = name, total, 0
        self.task = self.progress.add_task(name, total=total)

    def advance(self) -> None:
        """One item more."""
        self.done += 1
        self.progress.advance(self.task)
        quarters = [self.total * part // 4 for part in (1, 2, 3, 4)]
        if self.progress.disable and self.done in quarters:
            console.print(f"{self.name}: {self.done} of {self.total}")
