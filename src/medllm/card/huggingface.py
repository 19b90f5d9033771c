"""The model card of the Hugging Face hub: a YAML head with a model-index, and the text."""

from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from medllm.card.facts import Facts
from medllm.card.figures import evaluation_rows, held_out_on, measured_limits, number, review_figures, span
from medllm.config.compose import resolved
from medllm.config.store import schema_names

DEFAULT_USE = "Research. Not for patient care: not a medical device, and no substitute for a doctor."
FULL_LICENCES = {"apache-2.0", "mit", "llama3", "llama3.1", "llama3.2", "llama3.3"}


def model_card(facts: Facts) -> str:
    """README.md."""
    environment = Environment(autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = cell
    template = environment.from_string(files("medllm.card").joinpath("README.md.jinja").read_text("utf-8"))
    text = template.render(
        facts=facts,
        human=facts.human,
        conf=facts.artifact.conf,
        kinds=schema_names(facts.artifact.conf),
        method=_method(facts),
        evaluations={name: (results, evaluation_rows(results)) for name, results in facts.evaluations.items()},
        reviews={name: (review, review_figures(review)) for name, review in facts.reviews.items()},
        held_out_on=held_out_on(facts),
        limits=measured_limits(facts),
        default_use=DEFAULT_USE,
        number=number,
        span=span,
    )
    return f"---\n{metadata(facts)}\n---\n\n{text}"


def metadata(facts: Facts) -> str:
    """The YAML head. Limited evaluations stay out of its model-index, whose readers compare figures without their names."""
    from huggingface_hub import EvalResult, ModelCardData

    licence = facts.human.license or facts.licence.id
    known = licence in FULL_LICENCES
    figures = [(name, row.figures["tuned"]) for name, evaluation in facts.evaluations.items()
               if not evaluation.get("limited")
               for row in evaluation_rows(evaluation) if "tuned" in row.figures]  # fmt: skip
    figures += [(f"review {name}", figure) for name, review in facts.reviews.items()
                for figure in review_figures(review) if figure.side == "tuned"]  # fmt: skip
    results = [
        _result(EvalResult, name, f.name, f.title, f.value, f"{f.measured_on}{_interval(f)}") for name, f in figures
    ]
    results += [
        _result(EvalResult, "held out", "eval/loss", "held-out loss", figure.after, held_out_on(facts))
        for figure in facts.held_out
        if figure.name == "loss"
    ]
    data = ModelCardData(
        base_model=facts.base if "/" in facts.base and not facts.base.startswith(("/", ".", "~")) else None,
        license=licence if known else "other",
        license_name=None if known else licence or "unknown",
        license_link=facts.licence.link or None if licence == facts.licence.id else None,
        library_name="peft" if facts.artifact.is_adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["medllm", "medical", "research" if facts.is_reviewed else "unreviewed"],
        datasets=facts.data_sets or None,
        model_name=facts.name,
        eval_results=results or None,
        ignore_metadata_errors=False,
    )
    return str(data.to_yaml())


def cell(text: Any) -> str:
    """Text of others in a table of Markdown."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _result(kind: Any, name: str, metric: str, title: str, value: float, on: str) -> Any:
    return kind(
        task_type="text-generation",
        dataset_type="medllm",
        dataset_name=f"{name}: {on}",
        dataset_config=f"{name}: {metric}",  # results that share all but their name would be merged into one
        metric_type=metric,
        metric_name=title,
        metric_value=value,
    )


def _interval(figure: Any) -> str:
    return "" if figure.low is None else f"; 95 % interval {number(figure.low)} to {number(figure.high)}"


def _method(facts: Facts) -> dict[str, str]:
    """How it was trained, in the words of the configuration."""
    conf, names = facts.artifact.conf, schema_names(facts.artifact.conf)
    adapter = ", ".join(
        f"{k} {v}" for k, v in resolved(conf.lora).items() if k in ("r", "lora_alpha", "lora_dropout", "use_dora")
    )
    trainer = resolved(conf.trainer)
    keys = (
        "learning_rate",
        "lr_scheduler_type",
        "num_train_epochs",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
    )
    metrics = facts.metrics
    found = {
        "method": f"{names['lora']} ({adapter})" if adapter else names["lora"],
        "quantization of the base": names["quantization"],
        "precision": str(resolved(conf.model)["dtype"]),
        "settings": ", ".join(f"{key} {trainer[key]}" for key in keys),
        "seed": str(conf.seed),
    }
    for key, name, form in (
        ("train/steps", "optimizer steps", "{:,.0f}"),
        ("perf/train_seconds", "time in training steps", "{:,.0f} s"),
        ("perf/peak_memory_gib", "peak memory", "{:.2f} GiB"),
        ("model/trainable_parameters", "trained parameters", "{:,.0f}"),
        ("model/total_parameters", "all parameters", "{:,.0f}"),
    ):
        if key in metrics:
            found[name] = form.format(metrics[key])
    return found
