"""Schema of `scripts/publish.py`: which artifact goes where on the hub, who sees it, and what its user accepts."""

import re
from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from medllm.config.conf import Conf
from medllm.config.hub import repo_id_faults
from medllm.config.tracking import TrackingConf
from medllm.errors import Fault

# Of a branch or a tag: what git takes and a shell leaves alone.
REF = re.compile(r"[A-Za-z0-9](?:[\w-]|[./](?![./]|$))*")


class Risk(Enum):
    """What stands against publishing, and is published with `accept=[...]` all the same.

    unreviewed: no expert review has approved the artifact.
    rejected: one has rejected it.
    gate: no evaluation's gate says ship.
    license: the base's licence is not known, or a licence forbids what is asked.
    data_rights: nobody has stated by what right the dialogues were used.
    """

    unreviewed = "unreviewed"
    rejected = "rejected"
    gate = "gate"
    license = "license"
    data_rights = "data_rights"


@dataclass
class PublishConf(Conf):
    """What a command line of `scripts/publish.py` composes. The token comes from the environment (`HF_TOKEN`) alone.

    Attributes:
        artifact: A run's folder, its `artifact/` folder, the id of its run record, models:/name@alias, or a merged model.
        repo_id: OWNER/NAME on the hub; made where it does not exist.
        private: Whether only its owner, or the members of its organization, see it.
        revision: Branch; made where it does not exist.
        tag: Given to the commit; null is none. A tag does not move.
        accept: What is published in spite of, by name.
        tracking: Where names of artifacts are looked up and the commit is recorded.
    """

    artifact: str = MISSING
    repo_id: str = MISSING
    private: bool = True
    revision: str = "main"
    tag: str | None = None
    accept: list[Risk] = field(default_factory=list)
    tracking: TrackingConf = MISSING

    def faults(self) -> list[Fault]:
        """Names that the hub would refuse."""
        names = {"revision": self.revision, "tag": self.tag}
        return [
            *repo_id_faults("repo_id", self.repo_id),
            *(
                Fault(key, "is no name of a branch or tag", name, allowed="letters, digits, . _ - and / between")
                for key, name in names.items()
                if name is not None and not REF.fullmatch(name)
            ),
        ]
