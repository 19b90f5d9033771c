"""lm-evaluation-harness around a model that is in memory: tasks in, the likelihoods of their options out.

`lm_eval.simple_evaluate` runs a whole task at once; here its pieces (a task's contexts and requests, the model's
likelihoods, the task's own scoring) are called for a few questions at a time, so that what is known can be written down.
The figures are the same, and a test holds them to it. Its cache is never used: it does not know which adapter answered.
The harness takes seconds to import and is imported where it is needed.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from medllm.config.evaluation.knowledge import Scoring
from medllm.errors import ConfigError, DataError, Fault
from medllm.evaluation.suite import Subject

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Answered:
    """What a model made of one question.

    Attributes:
        hit: 1 where the option that counts is the right one.
        chosen: Index of that option.
        log_likelihoods: Of each option, natural logarithm.
    """

    hit: int
    chosen: int
    log_likelihoods: list[float]


def require_harness(key: str, value: str) -> None:
    """Raises ConfigError: if the harness is not installed, naming the key that wants it."""
    if find_spec("lm_eval") is None:
        fix = "pip install -e '.[eval]', or evaluation.knowledge.enabled=false"
        raise ConfigError(Fault(key, "needs lm-evaluation-harness, which is not installed", value, fix=fix))


def task_config(name: str, questions: Sequence[dict[str, Any]], scoring: Scoring) -> dict[str, Any]:
    """A task of the harness made of questions in memory.

    Args:
        name: Of the task.
        questions: Each with `prompt`, `choices` (texts) and `target` (index of the right one).
        scoring: `letters` or `cloze`: which metric counts, and whether the prompt shows the options is the caller's.
    """

    def custom_dataset(**_: Any) -> Any:
        from datasets import Dataset, DatasetDict

        return DatasetDict({"test": Dataset.from_list([dict(question) for question in questions])})

    metric = metric_of(scoring)
    return {
        "task": name,
        "custom_dataset": custom_dataset,
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "prompt",
        "doc_to_choice": "choices",
        "doc_to_target": "target",
        "num_fewshot": 0,
        "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True}],
    }


def metric_of(scoring: Scoring) -> str:
    """The harness's name of accuracy: by log-likelihood, or by log-likelihood per character."""
    return "acc_norm" if scoring is Scoring.cloze else "acc"


def build_task(config: dict[str, Any]) -> Any:
    """The harness's task."""
    with quiet():
        from lm_eval.api.task import ConfigurableTask

        return ConfigurableTask(config=config)


class Harness:
    """The harness's view of one side of the model.

    Args:
        subject: Whose model and tokenizer.
        apply_chat_template: Whether questions are turns of a chat, behind the artifact's system prompt.
    """

    def __init__(self, subject: Subject, *, apply_chat_template: bool):
        with quiet():
            from lm_eval.models.huggingface import HFLM

            subject.model.tie_weights = lambda *_, **__: None  # again, which an adapter may have trained apart
            try:
                with _evaluating(subject.model):
                    self.lm = HFLM(
                        pretrained=subject.model,
                        tokenizer=deepcopy(subject.renderer.tokenizer),  # which it gives a pad token
                        backend="causal",
                        batch_size=subject.batch_size,
                        softmax_dtype="float32",  # bfloat16 cannot tell options apart that differ by a hundredth
                    )
            finally:
                del subject.model.tie_weights
        self.system = subject.renderer.system_prompt if apply_chat_template else None
        self.chat = apply_chat_template

    def requests(self, task: Any, index: int) -> list[Any]:
        """What the harness would ask for a document: one request per option."""
        document = task.task_docs[index]
        render = self.lm.apply_chat_template if self.chat else None
        context = task.fewshot_context(
            document,
            num_fewshot=0,
            system_instruction=self.system,
            apply_chat_template=self.chat,
            fewshot_as_multiturn=self.chat,
            chat_template=render,
            gen_prefix=task.doc_to_prefix(document),
        )
        return list(
            task.construct_requests(
                doc=document,
                ctx=context,
                metadata=(task.config.task, index, 1),
                apply_chat_template=self.chat,
                chat_template=render,
            )
        )

    def ask(self, task: Any, indices: Sequence[int], scoring: Scoring) -> list[Answered]:
        """What the model makes of some documents of a task.

        Raises:
            DataError: if a question is longer than the model's context; the harness would cut its beginning off.
        """
        with quiet(), _evaluating(self.lm.model), torch.no_grad():
            groups = [self.requests(task, index) for index in indices]
            flat = [request for group in groups for request in group]
            self._refuse_too_long(task.config.task, flat)
            responses = iter(self.lm.loglikelihood(flat, disable_tqdm=True))
            results = [[next(responses) for _ in group] for group in groups]
            return [self._answered(task, index, found, scoring) for index, found in zip(indices, results, strict=True)]

    def _answered(self, task: Any, index: int, results: list[tuple[float, bool]], scoring: Scoring) -> Answered:
        document = task.task_docs[index]
        values = task.process_results(document, results)
        likelihoods = [float(likelihood) for likelihood, _ in results]
        lengths = [len(choice) if scoring is Scoring.cloze else 1 for choice in task.doc_to_choice(document)]
        scaled = [likelihood / length for likelihood, length in zip(likelihoods, lengths, strict=True)]
        return Answered(int(values[metric_of(scoring)]), scaled.index(max(scaled)), likelihoods)

    def _refuse_too_long(self, name: str, requests: Sequence[Any]) -> None:
        limit = self.lm.max_length
        for request in requests:
            context, continuation = request.args
            length = len(self.lm.tok_encode(context + continuation))
            if length > limit + 1:  # the last token is predicted, not read
                raise DataError(
                    f"{name}: question {request.doc_id + 1} has {length:,} tokens, the model reads {limit:,}\n"
                    "    fix: leave it out, or take a model with a longer context"
                )


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Without dropout; the mode is as it was afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the harness's advice to people who call it themselves."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
