"""Schema of `scripts/serve.py`: where an artifact is served, to whom, and how much at once."""

from dataclasses import dataclass, field

from medllm.config.chat import TalkConf
from medllm.config.conf import ranged


@dataclass
class ServeConf(TalkConf):
    """What a command line of `scripts/serve.py` composes.

    Attributes:
        host: Address to listen at. Beyond this machine, a token in MEDLLM_SERVE_TOKEN is needed.
        allowed_hosts: Names by which a proxy on this machine is called, as `chat.example.org`; else only localhost is one.
        port: 0 takes a free one.
        web: Whether there is a page to chat on beside the API.
        compare: Whether the base is there too, beside the tuned model, where both are one model in memory.
        max_batch: Answers under way at once, at most.
        max_queue: Requests that wait, at most; one more is refused with 429.
        max_tokens: Longest answer that a request may ask for, and never more than half of what the model reads.
        max_bytes: Largest body of a request; a larger one is refused with 413.
        timeout_seconds: Seconds from a request's arrival to its end, at most; later it is refused or cut off.
        feedback: Whether thumbs and comments on the page are recorded, with the conversation that they are about: health data.
    """

    host: str = "127.0.0.1"
    allowed_hosts: list[str] = field(default_factory=list)
    port: int = ranged(8000, ge=0, le=65535)
    web: bool = True
    compare: bool = True
    max_batch: int = ranged(8, ge=1)
    max_queue: int = ranged(32, ge=0)
    max_tokens: int = ranged(1024, ge=1)
    max_bytes: int = ranged(262_144, ge=1024)
    timeout_seconds: float = ranged(300.0, gt=0)
    feedback: bool = False
