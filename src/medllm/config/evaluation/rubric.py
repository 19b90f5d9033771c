"""Schema of `evaluation.rubric`: open answers graded against rubrics, and of the judge that may grade them."""

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from medllm.config.conf import Conf, ranged
from medllm.config.evaluation.unused import unused_faults
from medllm.errors import Fault


@dataclass
class RubricConf(Conf):
    """Conversations with rubrics; people grade the answers, by `scripts/grade.py`.

    Attributes:
        enabled: Whether the suite runs.
        shipped: Whether to ask the conversations that ship with medllm.
        files: JSONL in HealthBench's form (`prompt`, `rubrics` of `criterion`, `points`, `tags`) or K-QA's (`question`,
            `must_have`).
        limit: Conversations of each file, the first ones; null for all.
    """

    enabled: bool = False
    shipped: bool = True
    files: list[str] = field(default_factory=list)
    limit: int | None = ranged(None, ge=1)

    def faults(self) -> list[Fault]:
        """A suite that asks nothing, or that is off though something is named for it."""
        if self.enabled and not (self.shipped or self.files):
            fix = "shipped=true, or name files"
            return [Fault("shipped", "leaves the suite without a conversation", "false", fix=fix)]
        return unused_faults(self, "rubric", ("files",), enabled=self.enabled)


@dataclass
class JudgeConf(Conf):
    """A model behind an OpenAI-compatible server that grades. Its token, if it wants one, is `MEDLLM_JUDGE_TOKEN`.

    Attributes:
        base_url: Up to and including `/v1`.
        model: Its name there.
        allow_remote: Whether conversations may leave this machine.
        timeout_seconds: For one grade.
        attempts: At one grade, where the server fails or its answer cannot be read.
    """

    base_url: str = "http://localhost:8000/v1"
    model: str = ""
    allow_remote: bool = False
    timeout_seconds: float = ranged(120.0, gt=0)
    attempts: int = ranged(3, ge=1)

    def faults(self) -> list[Fault]:
        """An address that is none, or not on this machine though nothing allows it."""
        found = []
        try:
            parts = urlsplit(self.base_url)
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            parts, host = urlsplit(""), ""
        if parts.scheme not in ("http", "https") or not host or parts.username is not None:
            allowed = "http://HOST:PORT/v1, without a password"
            found.append(Fault("base_url", "is no address of a server", _without_secret(self.base_url), allowed))
        elif not self.allow_remote and not _is_here(host):
            problem = "is another machine, and conversations would be sent to it"
            fix = "a server on this one, or allow_remote=true if their text may leave it"
            found.append(Fault("base_url", problem, self.base_url, fix=fix))
        if not self.model:
            found.append(Fault("model", "names no model", fix="model=<as the server calls it>"))
        return found


def _without_secret(url: str) -> str:
    """As it was written, but for what may hold a password or a token."""
    return "..." if "@" in url else url.partition("?")[0]


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
