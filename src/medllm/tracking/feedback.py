"""What people say of answers on the page: a trace per answer, with their thumbs and comments at it.

A trace holds the conversation, which is health data. Nothing is recorded unless the operator has switched it on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from medllm.config.tracking import MlflowConf
from medllm.conversation import Message
from medllm.tracking.mlflow_store import connect, told

EXPERIMENT_SUFFIX = "-feedback"
THUMBS, COMMENT = "helpful", "comment"
# Nobody signs in to the page.
SOURCE = "page"


class FeedbackStore:
    """Where feedback goes: an experiment of its own, named after that of the runs.

    Args:
        conf: Of the store.

    Raises:
        TrackingError: if it cannot be opened.
    """

    def __init__(self, conf: MlflowConf):
        self._conf = replace(conf, experiment_name=conf.experiment_name + EXPERIMENT_SUFFIX)
        import mlflow

        with told(self._conf):
            mlflow.set_tracking_uri(conf.tracking_uri)  # feedback knows no other way
            self._client, self._experiment_id = connect(self._conf)

    def record(
        self,
        messages: Sequence[Message],
        answer: str,
        tags: Mapping[str, str],
        *,
        helpful: bool | None,
        comment: str,
        trace_id: str = "",
    ) -> str:
        """Records what somebody said of an answer; later words on the same answer go to the same trace.

        Args:
            messages: Up to the question.
            answer: As it was shown.
            tags: Which artifact answered, and what the guard said.
            helpful: Thumb up or down; None where there is only a comment.
            comment: May be empty.
            trace_id: Of this answer's trace; empty for the first word on it.

        Returns:
            Id of the trace.

        Raises:
            TrackingError: if it cannot be written.
        """
        import mlflow
        from mlflow.entities import AssessmentSource

        with told(self._conf):
            if not trace_id:
                inputs: dict[str, Any] = {"messages": [{"role": m.role, "content": m.content} for m in messages]}
                span = self._client.start_trace(
                    "answer", inputs=inputs, tags=dict(tags), experiment_id=self._experiment_id
                )
                trace_id = str(span.trace_id)
                outputs = {"choices": [{"message": {"role": "assistant", "content": answer}}]}
                self._client.end_trace(trace_id, outputs=outputs)
                mlflow.flush_trace_async_logging()  # what is still on its way cannot be assessed
            source = AssessmentSource(source_type="HUMAN", source_id=SOURCE)
            values = {THUMBS: helpful, COMMENT: comment or None}
            for name, value in values.items():
                if value is not None:
                    mlflow.log_feedback(trace_id=trace_id, name=name, value=value, source=source)
        return trace_id
