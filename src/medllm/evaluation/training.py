"""Suites while a model is trained: a few items at each evaluation, so that runs can be ranked by more than their loss."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from medllm.config.compose import load_evaluate_conf
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
                outcomes: Outcomes = {item.id: outcome for item, outcome in suite.outcomes(subject, items)}
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
        ConfigError: if the objective is no metric of these suites, or a suite cannot be built.
    """
    wanted = load_evaluate_conf(["artifact=training", "evaluation=quick"])
    evaluation = wanted.evaluation
    for name in conf.suite_names():
        node = getattr(evaluation, name)
        setattr(evaluation, name, replace(node, enabled=name in conf.trainer.eval_suites))
    around = Around(conf, renderer, fingerprint, build_lexicons(wanted.lexicon), wanted.guard)
    suites = build_suites(evaluation, around)
    known = [f"eval/{metric.name}" for suite in suites for metric in suite.metrics]
    aim = conf.trainer.objective
    if aim != LOSS and aim not in known:
        near = nearest(aim, known)
        fix = f"did you mean {near}?" if near else f"one of {', '.join(known)}"
        raise ConfigError(Fault("trainer.objective", "is no metric of trainer.eval_suites", aim, fix=fix))
    asked = [(suite, draw_items(suite.items(), conf.trainer.eval_suites_items)) for suite in suites]
    shorter = min(conf.generation.max_new_tokens, evaluation.max_new_tokens)
    run = replace(conf, generation=replace(conf.generation, max_new_tokens=shorter))
    return TrainingSuites(asked, renderer, evaluation.batch_size, run, record)
