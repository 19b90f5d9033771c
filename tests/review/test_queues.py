"""The way by MLflow's review queues, on a database and through a server."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medllm.errors import ReviewError, TrackingError
from medllm.review.plan import Review, load_review
from medllm.review.queues import export_queues, read_queues
from medllm.review.ratings import RatingsError, keep, load_ratings
from medllm.review.report import make_report
from tests.review.made import made_review, run_folder

# All that a trace may hold beside its text; a run, a model or a source of the answers would unblind.
ALLOWED = ("mlflow.source.", "mlflow.trace", "mlflow.user", "mlflow.artifactLocation")


def satisfied(preferred: str, **values: str) -> dict[str, str]:
    """All that the short rubric asks."""
    return {"harm_extent_A": "none", "harm_extent_B": "none", "preferred": preferred, **values}


def answer(uri: str, review: Review, rater: str, pair: str, values: dict[str, str], by: str = "default") -> None:
    """As the web interface does: feedback at the trace, then the item complete."""
    import mlflow
    from mlflow.entities import AssessmentSource
    from mlflow.genai import review_queues

    mlflow.set_tracking_uri(uri)
    name = f"review-first-{review.plan.key_sha256[:8]}"
    experiment = mlflow.MlflowClient(uri).get_experiment_by_name(name).experiment_id
    queue = review_queues.get_review_queue(name=f"first--{rater}", experiment_id=experiment)
    for item in review_queues.list_review_queue_items(queue.queue_id):
        trace = mlflow.MlflowClient(uri).get_trace(item.item_id)
        if trace.data.spans[0].name == pair:
            for column, value in values.items():
                source = AssessmentSource("HUMAN", by)
                mlflow.log_feedback(trace_id=item.item_id, name=column, value=value, source=source)
            review_queues.set_review_queue_item_status(
                queue.queue_id, item_id=item.item_id, status="complete", completed_by=by
            )


def traces(uri: str, review: Review) -> list[Any]:
    """Everything in the review's experiment, whose tags are looked at too."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    name = f"review-first-{review.plan.key_sha256[:8]}"
    experiment = client.get_experiment_by_name(name)
    assert set(experiment.tags) - {"mlflow.experimentKind"} == {
        "review.name",
        "review.key_sha256",
        "review.pairs_sha256",
    }
    return [client.get_trace(t.info.trace_id) for t in client.search_traces(locations=[experiment.experiment_id])]


def walk_through(uri: str, run: Path) -> None:
    """Export twice, look for what would unblind, answer, import twice."""
    review = load_review(run / "review" / "first")
    addresses = export_queues(review, uri)
    assert set(addresses) == {"dr_a", "dr_b"} and all("selectedQueueId=" in a for a in addresses.values())
    export_queues(review, uri)
    found = traces(uri, review)
    assert len(found) == 4  # two pairs, two raters: nothing is made twice
    for trace in found:
        metadata = {**trace.info.trace_metadata, **trace.info.tags}
        assert not [name for name in metadata if not name.startswith(ALLOWED)]
        (span,) = trace.data.spans
        text = str(span.inputs) + str(span.outputs)
        pair = next(p for p in review.pairs if p.id == span.name)
        assert pair.prompt in span.inputs["messages"][0]["content"]
        content = span.outputs["choices"][0]["message"]["content"]
        assert content.index(pair.answers["A"]) < content.index(pair.answers["B"])
        assert "base" not in text and "tuned" not in text
    answer(uri, review, "dr_a", "p001", satisfied("B", comment="good"))
    answer(uri, review, "dr_b", "p001", satisfied("A"), by="dr_b")
    kept = keep(review, read_queues(review, uri))
    assert (kept.new, kept.changed, kept.same) == (2, 0, 0)
    assert keep(review, read_queues(review, uri)).same == 2
    said = {(r.rater, r.pair): r.values["preferred"] for r in load_ratings(review)}
    assert said == {("dr_a", "p001"): "B", ("dr_b", "p001"): "A"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a review of two pairs."""
    made_review(run := run_folder(tmp_path / "run", 2), "review=preference")
    return run


@pytest.mark.slow
def test_on_a_database(run: Path, tmp_path: Path) -> None:
    """No queues yet; there and back on sqlite; what others wrote, or what is no option, is refused whole."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with pytest.raises(TrackingError, match=r"has no queue of dr_a\n    fix: review.py export"):
        read_queues(load_review(run / "review" / "first"), uri)
    walk_through(uri, run)
    review = load_review(run / "review" / "first")
    answer(uri, review, "dr_a", "p002", {"preferred": "C"}, by="dr_x")
    with pytest.raises(RatingsError) as caught:
        read_queues(review, uri)
    told = str(caught.value)
    assert "dr_a, p002, column preferred=C: is not allowed" in told
    assert "dr_a, p002, preferred=dr_x: is by somebody else" in told
    assert "dr_a, p002, column harm_extent_A: is empty" in told
    make_report(review, run / "artifact", unblind_now=True)
    with pytest.raises(ReviewError, match="sides have been told"):
        export_queues(review, uri)


@pytest.mark.slow
def test_a_server_that_is_gone(run: Path) -> None:
    """Within seconds, in one message."""
    with pytest.raises(TrackingError, match="cannot be used"):
        export_queues(load_review(run / "review" / "first"), "http://127.0.0.1:9")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """`mlflow server` on a database of its own; ended with all its processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path, env=environment)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.slow
def test_through_a_server(run: Path, server: str) -> None:
    """The same over HTTP."""
    walk_through(server, run)
