"""What the service tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class ServeMetrics:
    """Every metric of one serving process, in a registry of its own.

    >>> metrics = ServeMetrics(CollectorRegistry())
    >>> metrics.events.labels(what="lost").inc(2)
    >>> metrics.registry.get_sample_value("clickloop_serve_events_total", {"what": "lost"})
    2.0
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter(
            "clickloop_serve_requests", "Requests by path and status.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "clickloop_serve_request_seconds",
            "Time from a request's head to its answer, of decisions and outcomes.",
            buckets=SECONDS,
            registry=registry,
        )
        self.decisions = Counter(
            "clickloop_serve_decisions",
            "Decisions by what made them: policy, or the fallback for a reason.",
            ["by"],
            registry=registry,
        )
        self.events = Counter(
            "clickloop_serve_events",
            "Impressions and outcomes: taken, refused, spilled (to disk), resent (from disk), lost.",
            ["what"],
            registry=registry,
        )
        self.repeated = Counter(
            "clickloop_serve_repeated", "Answers given again to an idempotency key.", registry=registry
        )

    def watch(self, name: str, help_: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read when somebody scrapes."""
        Gauge(f"clickloop_serve_{name}", help_, registry=self.registry).set_function(read)
