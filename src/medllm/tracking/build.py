"""Opens the run record that the `tracking` group asks for."""

import contextlib
from collections.abc import Iterator

from medllm.config.tracking import MlflowConf, NoTrackingConf, TrackingConf
from medllm.errors import TrackingError
from medllm.tracking.record import Opening, Record


@contextlib.contextmanager
def open_record(conf: TrackingConf, opening: Opening) -> Iterator[Record]:
    """Opens a run's record and closes it with the truth: FINISHED, FAILED with the traceback, or KILLED.

    A point that a search gave up was killed.

    Raises:
        TrackingError: if the store cannot be opened.
    """
    if isinstance(conf, NoTrackingConf):
        yield Record()
    elif isinstance(conf, MlflowConf):
        from medllm.tracking.mlflow_record import open_mlflow_record  # imports mlflow, which takes a second

        with open_mlflow_record(conf, opening) as record:
            yield record
    else:
        raise TrackingError(f"tracking: no builder for {type(conf).__name__}")
