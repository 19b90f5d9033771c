"""The decision as tags of the artifact's run, where who compares runs sees it, and as a second witness of what was decided."""

from pathlib import Path

from medllm.artifact import load_artifact
from medllm.config.tracking import MlflowConf
from medllm.console import say
from medllm.review.approval import ReviewStatus, decision_sha256
from medllm.tracking.build import tag_record


def record_decision(artifact_folder: Path, status: ReviewStatus) -> None:
    """Sets the tags; says so where there is no record or it cannot be reached, for the decision on disk holds either way."""
    artifact = load_artifact(artifact_folder)
    tracking, run_id = artifact.conf.tracking, str(artifact.manifest.get("run_id") or "")
    if not isinstance(tracking, MlflowConf) or not run_id:
        say("record", "the artifact's run has none, so that the decision has no tags")
        return
    tags = {
        "review.decision": status.decision,
        "review.name": status.review,
        "review.time": status.time,
        "review.reasons": "; ".join(status.reasons)[:5000],
        "review.decision_sha256": decision_sha256(artifact_folder),
    }
    tag_record(tracking, run_id, tags)
