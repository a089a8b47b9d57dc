"""What a server counts, in the text format of Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Measures:
    """Counters in a registry of their own, with the memory and the CPU time of the process."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("peftkit_requests", "Requests to /predict.", ["status"], registry=registry)
        self.examples = Counter("peftkit_examples", "Answered examples.", ["run"], registry=registry)
        self.abstained = Counter("peftkit_abstained", "Those left to a person.", ["run"], registry=registry)
        self.truncated = Counter("peftkit_truncated", "Those that were truncated.", ["run"], registry=registry)
        self.queue = Gauge("peftkit_queue", "Examples that wait or are computed.", registry=registry)
        self.batch_sizes = Histogram(
            "peftkit_batch_examples", "Examples of a batch.", buckets=BATCH_SIZES, registry=registry
        )
        self.seconds = Histogram(
            "peftkit_request_seconds", "Seconds from a request's headers to its answer.", buckets=SECONDS,
            registry=registry,
        )  # fmt: skip

    def text(self) -> bytes:
        """Return all values."""
        return generate_latest(self.registry)
