"""The way by MLflow's review queues: each rater answers the questions of a queue of their own in the web interface.

Every rater gets traces of their own, in an experiment that holds nothing else: an item's state is shared by all users of its
queue, and answers stand at their trace for everybody to read. A trace holds the pair's name, the prompt and the answers A and B;
no run, no model. Who answered follows from the queue, since without authentication MLflow calls every user `default`.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from medllm.config.review import LETTERS, Scale
from medllm.config.tracking import MlflowConf
from medllm.errors import Fault, TrackingError
from medllm.review.create import now
from medllm.review.plan import Column, Pair, Review
from medllm.review.ratings import Rating, normalised, refuse, refuse_unblinded, value_faults
from medllm.tracking.mlflow_store import connect

# What MLflow calls a user who has not signed in.
NOBODY = "default"

PAGE_SIZE = 500


def export_queues(review: Review, tracking_uri: str) -> dict[str, str]:
    """Makes the queues that are missing, and fills those that an interruption left half full.

    Args:
        review: The review.
        tracking_uri: `sqlite:///...` or a server's address.

    Returns:
        The page of each rater's queue; of a database as `make ui` would show it.

    Raises:
        ReviewError: if the sides have been told.
        TrackingError: if the store cannot be used.
    """
    refuse_unblinded(review)
    with _store(review, tracking_uri) as (client, experiment_id):
        from mlflow.genai import review_queues

        schemas = _schemas(review, experiment_id)
        for tag in ("name", "key_sha256", "pairs_sha256"):
            client.set_experiment_tag(experiment_id, f"review.{tag}", getattr(review.plan, tag))
        there = {queue.name: queue for queue in review_queues.list_review_queues(experiment_id=experiment_id)}
        base = tracking_uri.rstrip("/") if tracking_uri.startswith("http") else "http://127.0.0.1:5000"
        addresses = {}
        for rater in review.plan.raters:
            queue = there.get(_queue_name(review, rater.id)) or review_queues.create_review_queue(
                _queue_name(review, rater.id),
                queue_type="custom",
                users=[rater.id],
                schema_ids=schemas,
                experiment_id=experiment_id,
            )
            _fill(client, experiment_id, queue.queue_id, review.pairs)
            page = f"#/experiments/{experiment_id}/review-queue?selectedQueueId={queue.queue_id}"
            addresses[rater.id] = f"{base}/{page}"
    return addresses


def read_queues(review: Review, tracking_uri: str) -> list[Rating]:
    """The ratings of all items that raters have marked complete.

    Raises:
        RatingsError: with every value that is not allowed; nothing is to be kept then.
        TrackingError: if the store cannot be used, or holds no queues of this review.
    """
    with _store(review, tracking_uri) as (client, experiment_id):
        from mlflow.genai import review_queues

        there = {queue.name: queue for queue in review_queues.list_review_queues(experiment_id=experiment_id)}
        found, faults = [], []
        for rater in review.plan.raters:
            queue = there.get(_queue_name(review, rater.id))
            if queue is None:
                raise TrackingError(
                    f"{tracking_uri} has no queue of {rater.id}\n    fix: review.py export ... to=mlflow"
                )
            for item in _items(queue.queue_id):
                if item.status.value == "complete":
                    trace = client.get_trace(item.item_id)
                    rating, wrong = _rating(review, rater.id, trace)
                    found.append(rating)
                    faults += wrong
    refuse(faults, "review queues")
    return found


def _queue_name(review: Review, rater: str) -> str:
    return f"{review.plan.name}--{rater}"


def _schemas(review: Review, experiment_id: str) -> list[str]:
    """Ids of the label schemas, one per column."""
    from mlflow.genai import label_schemas as labels

    there = {s.name: s for s in labels.list_label_schemas(experiment_id, max_results=PAGE_SIZE)}
    ids = []
    for column in reversed(review.plan.columns):  # the interface asks the newest first
        schema = there.get(column.name) or labels.create_label_schema(
            column.name,
            type="feedback",
            input=labels.InputText()
            if column.conf.scale is Scale.text
            else labels.InputCategorical(column.conf.options),
            instruction=_instruction(column),
            experiment_id=experiment_id,
        )
        ids.append(schema.schema_id)
    return ids


def _instruction(column: Column) -> str:
    text = f"Answer {column.letter}. {column.conf.asks}" if column.letter else column.conf.asks
    return text if column.conf.required else f"{text} (May stay empty.)"


def _fill(client: Any, experiment_id: str, queue_id: str, pairs: tuple[Pair, ...]) -> None:
    """Adds the pairs that a queue does not hold, last one first: the interface shows the newest item at the top."""
    import mlflow
    from mlflow.genai import review_queues

    there = {_pair_of(client.get_trace(item.item_id)) for item in _items(queue_id)}
    traces = []
    for pair in reversed(pairs):
        if pair.id not in there:
            span = client.start_trace(pair.id, inputs=_chat("user", pair.prompt), experiment_id=experiment_id)
            client.end_trace(span.trace_id, outputs=_answers(pair))
            traces.append(span.trace_id)
    mlflow.flush_trace_async_logging()  # a trace that is still on its way cannot be added
    for trace_id in traces:
        review_queues.add_items_to_review_queue(queue_id, item_ids=[trace_id])


def _items(queue_id: str) -> Iterator[Any]:
    from mlflow.genai import review_queues

    token = None
    while True:
        page = review_queues.list_review_queue_items(queue_id, max_results=PAGE_SIZE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _pair_of(trace: Any) -> str:
    return str(trace.data.spans[0].name)


def _chat(role: str, text: str) -> dict[str, Any]:
    """A message as the interface knows how to show it: other values appear as JSON, their line breaks escaped.

    It renders Markdown. An image would be fetched from wherever an answer names, so none is left one.
    """
    return {"messages": [{"role": role, "content": text.replace("![", "!\\[")}]}


def _answers(pair: Pair) -> dict[str, Any]:
    """Both in one message: of several the interface shows one only."""
    text = "\n\n---\n\n".join(f"**ANSWER {letter}**\n\n{pair.answers[letter]}" for letter in LETTERS)
    return {"choices": [{"message": _chat("assistant", text)["messages"][0]}]}


def _rating(review: Review, rater: str, trace: Any) -> tuple[Rating, list[Fault]]:
    """What stands at a trace, the newest answer to each question."""
    pair, columns = _pair_of(trace), {column.name: column for column in review.plan.columns}
    where, faults, values = f"{rater}, {pair or trace.info.trace_id}", [], {}
    if pair not in {p.id for p in review.pairs}:
        faults.append(Fault(where, "is no pair of the review"))
    for assessment in sorted(trace.info.assessments, key=lambda a: a.last_update_time_ms or 0):
        if assessment.name not in columns or assessment.valid is False or assessment.feedback is None:
            continue
        if assessment.source.source_id not in (rater, NOBODY):
            allowed = f"{rater}, or {NOBODY} where nobody signs in"
            faults.append(
                Fault(f"{where}, {assessment.name}", "is by somebody else", assessment.source.source_id, allowed)
            )
        if assessment.feedback.value not in (None, ""):
            values[assessment.name] = normalised(columns[assessment.name], str(assessment.feedback.value))
    values = {name: values[name] for name in columns if name in values}
    return Rating(rater, pair, values, "mlflow", now()), [*faults, *value_faults(review.plan, values, where)]


@contextlib.contextmanager
def _store(review: Review, tracking_uri: str) -> Iterator[tuple[Any, str]]:
    """The store, with MLflow's global address set to it for as long: schemas and queues have no other way."""
    import mlflow
    from mlflow.exceptions import MlflowException

    before, known = mlflow.get_tracking_uri(), os.environ.get("MLFLOW_TRACKING_URI")
    name = f"review-{review.plan.name}-{review.plan.key_sha256[:8]}"
    client, experiment_id = connect(MlflowConf(tracking_uri=tracking_uri, experiment_name=name))
    logging.getLogger("mlflow.tracing").setLevel(logging.ERROR)
    mlflow.set_tracking_uri(tracking_uri)
    try:
        yield client, experiment_id
    except (MlflowException, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        fix = "a sqlite:/// address or a server of MLflow 3.14 or newer"
        raise TrackingError(f"{tracking_uri}: review queues cannot be used: {reason}\n    fix: {fix}") from None
    finally:
        mlflow.set_tracking_uri(before)
        if known is None:
            os.environ.pop("MLFLOW_TRACKING_URI", None)  # set_tracking_uri leaves it for child processes
