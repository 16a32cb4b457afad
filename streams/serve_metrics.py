"""What the service tells Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Tally(Collector):
    """What is counted with each request, by the one thread that serves, and read when somebody scrapes: a tenth of the work of a `Counter`.

    >>> tally = Tally()
    >>> tally.answered("/livez", 200)
    >>> [sample.value for family in tally.collect() for sample in family.samples if "path" in sample.labels]
    [1]
    """

    def __init__(self) -> None:
        self._answers: dict[tuple[str, int], int] = {}
        self._decisions: dict[str, int] = {"policy": 0}
        self._slots, self._seconds = [0] * (len(SECONDS) + 1), 0.0

    def answered(self, path: str, status: int) -> None:
        """Count an answer."""
        self._answers[path, status] = self._answers.get((path, status), 0) + 1

    def decided(self, by: str, number: int = 1) -> None:
        """Count decisions by what made them."""
        self._decisions[by] = self._decisions.get(by, 0) + number

    def took(self, seconds: float) -> None:
        """Count how long a request took."""
        self._slots[bisect_left(SECONDS, seconds)] += 1
        self._seconds += seconds

    def collect(self) -> Iterator[Metric]:
        """As Prometheus has it."""
        answers = CounterMetricFamily(
            "clickloop_serve_requests", "Requests by path and status.", labels=["path", "status"]
        )
        for (path, status), number in dict(self._answers).items():
            answers.add_metric([path, str(status)], number)
        decisions = CounterMetricFamily(
            "clickloop_serve_decisions",
            "Decisions by what made them: policy, or the fallback for a reason.",
            labels=["by"],
        )
        for by, number in dict(self._decisions).items():
            decisions.add_metric([by], number)
        names = [*map(str, map(float, SECONDS)), "+Inf"]
        seconds = HistogramMetricFamily(
            "clickloop_serve_request_seconds",
            "Time from a request's head to its answer, of decisions and outcomes.",
            buckets=list(zip(names, map(float, accumulate(self._slots)), strict=True)),
            sum_value=self._seconds,
        )
        yield from (answers, decisions, seconds)


class ServeMetrics:
    """Every metric of one serving process, in a registry of its own.

    >>> metrics = ServeMetrics(CollectorRegistry())
    >>> metrics.events.labels(what="lost").inc(2)
    >>> metrics.registry.get_sample_value("clickloop_serve_events_total", {"what": "lost"})
    2.0
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.tally = Tally()
        registry.register(self.tally)
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
