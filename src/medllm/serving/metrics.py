"""What a server counts, for Prometheus: no word of what was written."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)


class Metrics:
    """Counters of one server.

    Attributes:
        registry: Holds them all.
        requests: By model and how it ended: `stop`, `length`, `cancelled`, `timeout`, `refused` or `failed`.
        tokens: By kind: `prompt` or `completion`.
        urgencies: What the guard said, by level.
        first_token: Seconds from a request's arrival to its first token.
        whole: Seconds from its arrival to its end.
        waiting: Requests in the queue.
        running: Answers under way.
    """

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter("medllm_requests", "Requests that ended", ["model", "outcome"], registry=own)
        self.tokens = Counter("medllm_tokens", "Tokens", ["kind"], registry=own)
        self.urgencies = Counter("medllm_guard_urgency", "Requests by the guard's urgency", ["urgency"], registry=own)
        self.first_token = Histogram(
            "medllm_first_token_seconds", "Arrival to first token", registry=own, buckets=SECONDS
        )
        self.whole = Histogram("medllm_request_seconds", "Arrival to end", registry=own, buckets=SECONDS)
        self.waiting = Gauge("medllm_requests_waiting", "Requests in the queue", registry=own)
        self.running = Gauge("medllm_requests_running", "Answers under way", registry=own)
