"""Suites while a model is trained: a few items at each evaluation, so that runs can be ranked by more than their loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from medllm.config.compose import load_conf
from medllm.config.evaluation import EvaluateConf, suite_names
from medllm.config.run import RunConf
from medllm.config.trainer import LOSS
from medllm.config.validate import nearest
from medllm.conversation import Renderer
from medllm.errors import ConfigError, Fault
from medllm.evaluation.figures import measure
from medllm.evaluation.items import Outcomes, draw_items
from medllm.evaluation.lexicons import build_lexicons
from medllm.evaluation.subject import ModelSubject
from medllm.evaluation.suite import Item, Side, Suite
from medllm.evaluation.suites import Around, build_suites
from medllm.stopping import stop
from medllm.tracking.record import Record


@dataclass
class TrainingSuites:
    """The suites of `trainer.eval_suites`, asked of the tuned side only.

    Attributes:
        asked: Suites with their items.
        renderer: Of inference.
        batch_size: Of answers.
        conf: The run's.
        record: Takes figures as `eval/<suite>/<metric>`.
        newest: Those of the newest step.
    """

    asked: Sequence[tuple[Suite, list[Item]]]
    renderer: Renderer
    batch_size: int
    conf: RunConf
    record: Record
    newest: dict[str, float] = field(default_factory=dict)

    def take(self, model: Any, step: int) -> None:
        """Asks every suite and records its figures; leaves the model's mode as it was."""
        subject = ModelSubject(Side.tuned, model, self.renderer, self.batch_size, self.conf.generation)
        was_training = model.training
        model.eval()
        self.newest = {}
        try:
            for suite, items in self.asked:
                outcomes: Outcomes = {}
                for item, outcome in suite.outcomes(subject, items):
                    stop.check()
                    outcomes[item.id] = outcome
                for one in measure(suite.metrics, {Side.tuned: outcomes}):
                    self.newest[f"eval/{one.metric.name}"] = one.figures[Side.tuned].value
        finally:
            model.train(was_training)
        self.record.log_metrics(self.newest, step)


def build_training_suites(conf: RunConf, renderer: Renderer, fingerprint: str, record: Record) -> TrainingSuites:
    """The suites that the run asks for, as `conf/evaluation/quick.yaml` has them but for their number of items.

    Args:
        conf: The run's.
        renderer: Of inference.
        fingerprint: Of the data drawn.
        record: The run's.

    Raises:
        ConfigError: if the objective is no metric of these suites or not shown by the items drawn, or a suite cannot be built.
    """
    wanted = load_conf(EvaluateConf, ["artifact=training", "evaluation=quick"])
    evaluation = wanted.evaluation
    for name in suite_names():
        node = getattr(evaluation, name)
        setattr(evaluation, name, replace(node, enabled=name in conf.trainer.eval_suites))
    around = Around(conf, renderer, fingerprint, build_lexicons(wanted.lexicon), wanted.guard)
    suites = build_suites(evaluation, around)
    items = {suite.name: suite.items() for suite in suites}
    asked = [(suite, draw_items(items[suite.name], conf.trainer.eval_suites_items)) for suite in suites]
    if conf.trainer.objective != LOSS:
        _require_objective(conf, asked, items)
    shorter = min(conf.generation.max_new_tokens, evaluation.max_new_tokens)
    run = replace(conf, generation=replace(conf.generation, max_new_tokens=shorter))
    return TrainingSuites(asked, renderer, evaluation.batch_size, run, record)


def _require_objective(
    conf: RunConf, asked: Sequence[tuple[Suite, list[Item]]], items: Mapping[str, Sequence[Item]]
) -> None:
    """An objective that nothing measures would be known after training only, as no number.

    Args:
        conf: The run's.
        asked: Suites with the items drawn.
        items: All there are, by suite.

    Raises:
        ConfigError: if the objective is no metric, or one that the items drawn cannot show.
    """
    aim, key, drawn = conf.trainer.objective, "trainer.objective", conf.trainer.eval_suites_items
    metrics = [f"eval/{metric.name}" for suite, _ in asked for metric in suite.metrics]
    shown = {f"eval/{name}" for suite, some in asked for name in suite.measurable(some)}
    known = [name for name in metrics if name in shown]
    if aim not in metrics:
        near = nearest(aim, known)
        fix = f"did you mean {near}?" if near else f"one of {', '.join([LOSS, *known])}"
        raise ConfigError(Fault(key, "is no metric of trainer.eval_suites", aim, fix=fix))
    if aim in known:
        return
    allowed = ", ".join([LOSS, *known])
    if any(aim.removeprefix("eval/") in suite.measurable(items[suite.name]) for suite, _ in asked):
        problem, fix = "is not shown by the few items drawn", f"a larger trainer.eval_suites_items than {drawn}"
    else:
        problem, fix = "cannot be measured while training", "name one that can, or leave trainer.objective out"
    raise ConfigError(Fault(key, problem, aim, allowed, fix))
