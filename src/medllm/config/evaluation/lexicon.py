"""Schema of the `lexicon` group: what is looked for in an answer, by regular expressions."""

import re
from dataclasses import dataclass, field

from omegaconf import MISSING

from medllm.config.conf import Conf, ranged
from medllm.errors import Fault


@dataclass
class LexiconConf(Conf):
    r"""Regular expressions that find one kind of thing in a text; case does not matter.

    Attributes:
        version: Raised at every change of `patterns` or `unless`, since figures of different versions do not compare.
        finds: What a match means, in words.
        patterns: Each match counts.
        unless: A match that overlaps one of these does not.
    """

    version: int = ranged(MISSING, ge=1)
    finds: str = MISSING
    patterns: list[str] = MISSING
    unless: list[str] = field(default_factory=list)

    def faults(self) -> list[Fault]:
        """Expressions must compile."""
        found = []
        if not self.patterns:
            found.append(Fault("patterns", "finds nothing", "[]", fix="give at least one regular expression"))
        for key, patterns in (("patterns", self.patterns), ("unless", self.unless)):
            for pattern in patterns:
                try:
                    re.compile(pattern)
                except re.error as error:
                    found.append(Fault(key, f"is no regular expression: {error}", pattern))
        return found
