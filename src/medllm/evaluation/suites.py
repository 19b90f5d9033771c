"""The suites there are: the one place that builds them."""

from collections.abc import Mapping
from dataclasses import dataclass

from medllm.config.evaluation import EvaluationConf
from medllm.config.guard import GuardConf
from medllm.config.run import RunConf
from medllm.conversation import Renderer
from medllm.errors import ConfigError, Fault
from medllm.evaluation import conversation, knowledge, rubric, safety
from medllm.evaluation.lexicons import Lexicon
from medllm.evaluation.suite import Suite


@dataclass(frozen=True)
class Around:
    """What suites may need to know of the artifact.

    Attributes:
        run: How it was trained.
        renderer: Of inference.
        fingerprint: Of the data that it was trained on and that were held out.
        lexicons: By name.
        guard: Of the guarded side.
    """

    run: RunConf
    renderer: Renderer
    fingerprint: str
    lexicons: Mapping[str, Lexicon]
    guard: GuardConf


def build_suites(conf: EvaluationConf, around: Around) -> list[Suite]:
    """The enabled suites.

    Raises:
        ConfigError: if none is enabled, or one cannot be run as asked.
    """
    suites: list[Suite] = []
    if conf.conversation.enabled:
        suites.append(
            conversation.build_suite(
                conf.conversation, around.run, around.renderer, around.fingerprint, around.lexicons
            )
        )
    if conf.safety.enabled:
        suites.append(safety.build_suite(conf.safety, around.guard))
    if conf.knowledge.enabled:
        suites.append(knowledge.build_suite(conf.knowledge))
    if conf.rubric.enabled:
        suites.append(rubric.build_suite(conf.rubric))
    if not suites:
        raise ConfigError(Fault("evaluation", "has no suite enabled", fix="evaluation.conversation.enabled=true"))
    return suites
