"""Asks a base model, without an artifact: `python scripts/reproduce.py [OPTIONS] [OVERRIDES]`.

    anchors=llama3_8b_instruct     the harness's tasks with published results of this model, and whether they are met
    tasks=medqa_4options,medmcqa   tasks of the harness by name; their data come from the hub
    files=a.jsonl,b.jsonl          local multiple choice
    shipped=true|false             the shipped questions; those alone if nothing else is named
    scoring=auto|letters|cloze     of files and shipped questions
    apply_chat_template=true|false default: true, but false with anchors, which were measured in plain text
    limit=N  batch_size=8

Overrides choose the model, as with train.py: `model=llama3_8b_instruct quantization=none`. Exit code 1 if an anchor is missed.
"""

import time
from dataclasses import dataclass
from typing import Any

from medllm.command import pop_option, run_script
from medllm.config.compose import load_run_conf
from medllm.errors import ConfigError, Fault

OPTIONS = ("anchors", "tasks", "files", "shipped", "scoring", "apply_chat_template", "limit")


@dataclass
class Base:
    """A base model as a suite sees it."""

    side: Any
    model: Any
    renderer: Any
    batch_size: int


def main(arguments: list[str]) -> None:
    """Asks, prints, and compares."""
    given = {}
    for name in OPTIONS:
        arguments, given[name] = pop_option(arguments, name, "")
    arguments, batch_size = pop_option(arguments, "batch_size", 8)
    if batch_size < 1:
        raise ConfigError(Fault("batch_size", "is out of range", str(batch_size), allowed=">= 1", fix="batch_size=8"))
    run = load_run_conf(arguments)
    conf, anchors = _conf(given)
    from rich.progress import Progress

    from medllm.console import console
    from medllm.conversation import Renderer
    from medllm.evaluation.anchors import reproductions, standard_error
    from medllm.evaluation.knowledge import build_suite, metric_name
    from medllm.evaluation.suite import Side
    from medllm.models.base import build_base_model, build_tokenizer, pick_device

    suite = build_suite(conf)
    items = suite.items()
    tokenizer = build_tokenizer(run.model)
    model = build_base_model(run.model, run.quantization, tokenizer, pick_device(run.trainer.use_cpu)).eval()
    renderer = Renderer(tokenizer.tokenizer, run.generation.system_prompt)
    subject: Any = Base(Side.base, model, renderer, batch_size)
    counts: dict[str, tuple[float, float]] = {}
    with Progress(console=console, disable=not console.is_terminal) as bar:
        row = bar.add_task("asking", total=len(items))
        for part in dict.fromkeys(item.fields["part"] for item in items):
            some = [item for item in items if item.fields["part"] == part]
            started, hits = time.monotonic(), 0.0
            for _, outcome in suite.outcomes(subject, some):
                hits += outcome.values[metric_name()][0]
                bar.advance(row)
            counts[part] = (hits, len(some))
            error, seconds = standard_error(hits, len(some)), time.monotonic() - started
            print(
                f"{metric_name(part):<44}{hits / len(some):.3f} ± {error:.3f} of {len(some):,}, {seconds:.0f} s",
                flush=True,
            )
    if anchors:
        results = reproductions(anchors, counts)
        print("\n".join(map(str, results)))
        if not all(result.passed for result in results):
            raise SystemExit(1)


def _conf(given: dict[str, str]) -> tuple[Any, str]:
    """The suite's settings, and whose anchors are to be met."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from medllm.config.evaluation.knowledge import KnowledgeConf
    from medllm.config.validate import explain
    from medllm.evaluation.anchors import ANCHORS

    anchors = given["anchors"]
    if anchors and anchors not in ANCHORS:
        raise ConfigError(Fault("anchors", "no such model", anchors, allowed=", ".join(ANCHORS)))
    if anchors and given["limit"]:
        raise ConfigError(Fault("limit", "published results are of all questions", given["limit"]))
    tasks = [name for name in given["tasks"].split(",") if name]
    tasks += [task for task in (ANCHORS[anchors] if anchors else ()) if task not in tasks]
    files = [name for name in given["files"].split(",") if name]
    values: dict[str, Any] = {name: given[name] for name in ("scoring", "limit", "shipped") if given[name]}
    values["apply_chat_template"] = given["apply_chat_template"] or not anchors
    values.setdefault("shipped", not (tasks or files))
    try:
        schema = OmegaConf.structured(KnowledgeConf)
        given_values = OmegaConf.create({**values, "tasks": tasks, "files": files})
        return OmegaConf.to_object(OmegaConf.merge(schema, given_values)), anchors
    except OmegaConfBaseException as error:
        error.__context__ = None  # OmegaConf's draft of the message, which explain would take for the cause
        raise ConfigError(explain(error, [f"{name}={value}" for name, value in given.items() if value])) from None


if __name__ == "__main__":
    run_script(main, __doc__)
