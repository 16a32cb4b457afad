"""Metrics: the names people build dashboards on, a page that promtool accepts, probes that answer."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from streams.metrics import Metrics, Server, serve
from tests.waiting import assert_ended

if TYPE_CHECKING:
    from collections.abc import Iterator

LABELS = {
    "clickloop_events": {"topic", "outcome"},
    "clickloop_join_delay_seconds": set(),
    "clickloop_lag_records": {"topic", "partition"},
    "clickloop_lag_seconds": {"topic", "partition"},
    "clickloop_checkpoint_seconds": set(),
    "clickloop_checkpoints": {"result"},
    "clickloop_pending_rows": {"partition"},
    "clickloop_pending_bytes": {"partition"},
    "clickloop_remembered_outcomes_bytes": {"partition"},
    "clickloop_tokens": {"outcome"},
    "clickloop_pending_file_bytes": {"partition"},
    "clickloop_waiting_clicks": {"partition"},
    "clickloop_watermark_seconds": {"partition"},
    "clickloop_snapshot_version": {"policy"},
    "clickloop_snapshot_age_seconds": {"policy"},
    "clickloop_ctr": {"policy"},
    "clickloop_half_life_seconds": {"policy"},
    "clickloop_contest_share": {"policy", "contender"},
    "clickloop_exploration_rate": {"policy"},
    "clickloop_position_effect_ratio": {"policy", "slot"},
    "clickloop_audit_alarms": {"policy"},
    "clickloop_drift_alarms": {"policy"},
    "clickloop_click_delay_seconds": {"policy"},
    "clickloop_judged_rows": {"policy", "outcome"},
    "clickloop_budget_amount": {"policy", "budget"},
    "clickloop_budget_spent": {"policy", "budget"},
    "clickloop_budget_overspent": {"policy", "budget"},
    "clickloop_budget_late": {"policy", "budget"},
    "clickloop_budget_price": {"policy", "budget"},
    "clickloop_misplaced_keys": {"topic"},
    "clickloop_dead_letters": {"topic", "reason"},
    "clickloop_recoveries": {"reason"},
    "clickloop_lost_records": {"topic"},
    "clickloop_conversions": {"outcome"},
    "clickloop_waiting_conversions": {"partition"},
    "clickloop_kept_touches": {"partition"},
    "clickloop_attribution_watermark_seconds": {"partition"},
}


def filled() -> Metrics:
    """Metrics with a sample of every kind."""
    metrics = Metrics(CollectorRegistry())
    for metric in vars(metrics).values():
        if not hasattr(metric, "labels"):
            continue
        child = metric.labels(*["0"] * len(metric._labelnames)) if metric._labelnames else metric
        (child.observe if hasattr(child, "observe") else child.inc)(1)
    return metrics


@pytest.fixture
def metrics() -> Metrics:
    return filled()


@pytest.fixture
def server(metrics: Metrics) -> Iterator[Server]:
    with serve(
        metrics, host="127.0.0.1", port=0, live=lambda: (True, "alive"), ready=lambda: (False, "partition 3 recovers")
    ) as running:
        yield running


def get(server: Server, path: str) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers["Content-Type"]


def test_names_and_labels_are_the_documented_ones(metrics: Metrics) -> None:
    """Every family has the name, the labels and a sentence of help that the README lists."""
    families = [
        family
        for family in text_string_to_metric_families(generate_latest(metrics.registry).decode())
        if not family.name.endswith("_created")
    ]
    labels = {family.name: {key for sample in family.samples for key in sample.labels} - {"le"} for family in families}
    assert labels == LABELS
    assert all(family.documentation.endswith(".") for family in families)


def test_two_processes_share_nothing() -> None:
    """Each registry has its own metrics, so that two workers fit into one process."""
    first, second = filled(), filled()
    first.events.labels("clicks", "joined").inc()
    assert second.registry.get_sample_value("clickloop_events_total", {"topic": "clicks", "outcome": "joined"}) is None


def test_promtool_accepts_the_page(server: Server) -> None:
    """Prometheus's own linter finds nothing wrong with the page."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    page = get(server, "/metrics")[1]
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_page_is_prometheus_text(server: Server) -> None:
    """A scrape gets the text format."""
    status, page, content_type = get(server, "/metrics")
    assert status == 200
    assert content_type.startswith("text/plain; version=")
    assert "clickloop_checkpoint_seconds_bucket" in page


def test_probes_answer_with_words(server: Server) -> None:
    """A probe's answer is the status and its reason is the body."""
    assert get(server, "/livez")[:2] == (200, "alive\n")
    assert get(server, "/readyz")[:2] == (503, "partition 3 recovers\n")
    assert get(server, "/readyz?verbose")[0] == 503
    assert get(server, "/")[0] == 404


def test_failing_probe_is_not_well(metrics: Metrics) -> None:
    """A probe that raises answers 503, and the server lives on."""

    def live() -> tuple[bool, str]:
        raise RuntimeError("no loop")

    with serve(metrics, host="127.0.0.1", port=0, live=live, ready=lambda: (True, "ready")) as running:
        status, words, _ = get(running, "/livez")
        assert (status, "no loop" in words) == (503, True)
        assert get(running, "/readyz")[0] == 200


def test_server_ends_with_close(metrics: Metrics) -> None:
    """After close nobody listens, and no thread is left."""
    before = set(threading.enumerate())
    running = serve(metrics, host="127.0.0.1", port=0, live=lambda: (True, ""), ready=lambda: (True, ""))
    assert get(running, "/livez")[0] == 200
    running.close()
    with pytest.raises(OSError, match="refused"):
        get(running, "/livez")
    assert_ended(set(threading.enumerate()) - before)


@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.1"])
def test_address_that_cannot_be_had_names_the_setting(server: Server, host: str) -> None:
    """A port that is taken, or an address of another machine, says what to set."""
    with pytest.raises(OSError, match="CLICKLOOP_METRICS_PORT"):
        serve(
            Metrics(CollectorRegistry()), host=host, port=server.port, live=lambda: (True, ""), ready=lambda: (True, "")
        )
