"""Schema of the `hub` group: upload of the finished artifact; names are those of `transformers.TrainingArguments`."""

import re
from dataclasses import dataclass

from medllm.config.conf import Conf
from medllm.errors import Fault

# What the hub takes (huggingface_hub.utils.validate_repo_id), with its owner.
REPO_ID = re.compile(r"\w[\w.-]*/\w(?:[\w.-]*\w)?", re.ASCII)


def repo_id_faults(key: str, repo_id: str) -> list[Fault]:
    """What is wrong with the name of a repository."""
    name = repo_id.rpartition("/")[2]
    wrong = "--" in repo_id or ".." in repo_id or name.endswith(".git") or len(repo_id) > 96
    if wrong or not REPO_ID.fullmatch(repo_id):
        allowed = "OWNER/NAME: letters, digits, - _ . with no two of - or . together, at most 96"
        return [Fault(key, "is no repository of the hub", repo_id, allowed=allowed)]
    return []


@dataclass
class HubConf(Conf):
    """Upload on request. The token comes from the environment (`HF_TOKEN`), never from here."""

    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_private_repo: bool = True

    def faults(self) -> list[Fault]:
        """An upload needs a place to go."""
        if not self.push_to_hub:
            return []
        if not self.hub_model_id:
            return [Fault("hub_model_id", "is missing", allowed="OWNER/NAME", fix="hub.hub_model_id=OWNER/NAME")]
        return repo_id_faults("hub_model_id", self.hub_model_id)
