"""Schema of the `hub` group: upload of the finished artifact; names are those of `transformers.TrainingArguments`."""

from dataclasses import dataclass

from medllm.config.conf import Conf
from medllm.errors import Fault


@dataclass
class HubConf(Conf):
    """Upload on request. The token comes from the environment (`HF_TOKEN`) or from `hf auth login`, never from here."""

    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_private_repo: bool = True

    def faults(self) -> list[Fault]:
        """An upload needs a place to go."""
        if self.push_to_hub and not self.hub_model_id:
            return [Fault("hub_model_id", "is missing", allowed="OWNER/NAME", fix="hub.hub_model_id=OWNER/NAME")]
        return []
