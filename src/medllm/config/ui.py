"""Schema of `scripts/ui.py`: which run record is shown, and where."""

from dataclasses import dataclass

from omegaconf import MISSING

from medllm.config.conf import Conf, ranged
from medllm.config.tracking import MlflowConf, TrackingConf
from medllm.errors import Fault


@dataclass
class UiConf(Conf):
    """What a command line of `scripts/ui.py` composes. It listens at 127.0.0.1 alone: MLflow asks nobody who they are.

    Attributes:
        port: 0 takes a free one.
        tracking: Whose runs are shown.
    """

    port: int = ranged(5000, ge=0, le=65535)
    tracking: TrackingConf = MISSING

    def faults(self) -> list[Fault]:
        """Only a database needs somebody to show it."""
        if not isinstance(self.tracking, MlflowConf):
            return [Fault("tracking", "keeps no runs", "none", allowed="mlflow")]
        uri = self.tracking.tracking_uri
        if uri.startswith(("http:", "https:")):
            return [
                Fault(
                    "tracking.tracking_uri", "is a server, which shows its runs itself", uri, fix="open it in a browser"
                )
            ]
        return []
