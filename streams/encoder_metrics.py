"""What the encoder tells Prometheus, after the metrics of text-embeddings-inference, in base units."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from encoders.worker import Watch

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
TOKENS = (16, 64, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768, 65_536)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 4_096)
FILL = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class EncoderMetrics(Watch):
    """Every metric of one encoder process, in a registry of its own.

    >>> metrics = EncoderMetrics(CollectorRegistry(), budget_tokens=2048)
    >>> metrics.tokenised(8, 0.002)
    >>> metrics.registry.get_sample_value("clickloop_encoder_tokenize_seconds_count")
    1.0
    """

    def __init__(self, registry: CollectorRegistry, *, budget_tokens: int) -> None:
        self.registry = registry
        self._requests(registry)
        self._batches(registry, budget_tokens)

    def _requests(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "clickloop_encoder_requests_total",
            "Requests by what became of them: encoded, cached (the vector was there), joined (waited for an equal text), failed.",
            ["outcome"],
            registry=registry,
        )
        self.failures = Counter(
            "clickloop_encoder_failures_total",
            "Requests that went to the dead letters, by reason: event (no request), text (its own fault), forward (the model failed on it).",
            ["reason"],
            registry=registry,
        )
        self.queue_texts = Gauge("clickloop_encoder_queue_texts", "Texts that wait for a vector.", registry=registry)
        self.queue_bytes = Gauge(
            "clickloop_encoder_queue_bytes", "What requests without a safe answer take.", registry=registry
        )
        self.publish_seconds = Histogram(
            "clickloop_encoder_publish_seconds",
            "Time from a vector to the brokers' acknowledgement.",
            buckets=SECONDS,
            registry=registry,
        )
        self.device_failed = Counter(
            "clickloop_encoder_device_failures_total", "Times that the device was found broken.", registry=registry
        )

    def _batches(self, registry: CollectorRegistry, budget_tokens: int) -> None:
        def histogram(name: str, told: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"clickloop_encoder_{name}", told, buckets=buckets, registry=registry)

        self.queue_seconds = histogram("queue_seconds", "Wait of a batch's oldest text for the device.", SECONDS)
        self.tokenize_seconds = histogram("tokenize_seconds", "Tokenising of a chunk of texts.", SECONDS)
        self.forward_seconds = histogram("forward_seconds", "Computing of a batch.", SECONDS)
        self.batch_tokens = histogram("batch_tokens", "Tokens of a batch, without padding.", TOKENS)
        self.batch_texts = histogram("batch_texts", "Texts of a batch.", TEXTS)
        self.batch_fill = histogram("batch_fill_ratio", "Tokens of a batch as a share of the budget.", FILL)
        self.budget_tokens = Gauge("clickloop_encoder_budget_tokens", "Tokens of a batch at most.", registry=registry)
        self.budget_tokens.set(budget_tokens)

    def tokenised(self, texts: int, took_s: float) -> None:  # noqa: ARG002 - Watch's hook
        """A thread tokenised so many texts."""
        self.tokenize_seconds.observe(took_s)

    def computed(self, *, texts: int, tokens: int, fill: float, waited_s: float, took_s: float) -> None:
        """A batch was computed."""
        self.queue_seconds.observe(waited_s)
        self.forward_seconds.observe(took_s)
        self.batch_tokens.observe(tokens)
        self.batch_texts.observe(texts)
        self.batch_fill.observe(fill)

    def budget(self, tokens: int) -> None:
        """Memory ran out, and the budget is so many tokens now."""
        self.budget_tokens.set(tokens)
