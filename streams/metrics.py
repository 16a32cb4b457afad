"""What clickloop tells Prometheus: names, labels and buckets, in base units.

Labels are bounded by the number of topics, partitions, policies and their budgets (100 of each); there is none per arm.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from streams.metrics_server import Server, serve

__all__ = ["Metrics", "Server", "serve"]

DELAY_BUCKETS_S = (0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1_800, 3_600, 21_600, 86_400)
CHECKPOINT_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """Every metric of one process, in a registry of its own.

    Args:
        registry: where they are registered; one registry holds them once.

    >>> metrics = Metrics(CollectorRegistry())
    >>> metrics.events.labels(topic="clicks", outcome="joined").inc(3)
    >>> metrics.registry.get_sample_value("clickloop_events_total", {"topic": "clicks", "outcome": "joined"})
    3.0
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._flow(registry)
        self._pending(registry)
        self._checkpoints(registry)
        self._attribution(registry)
        self._snapshots(registry)
        self._budgets(registry)

    def _flow(self, registry: CollectorRegistry) -> None:
        self.events = Counter(
            "clickloop_events_total",
            "Impressions and outcomes read, by what became of them (joined, duplicate, late, unmatched, dead, ...); limited ones are among the accepted.",
            ["topic", "outcome"],
            registry=registry,
        )
        self.dead_letters = Counter(
            "clickloop_dead_letters_total",
            "Rows that could not be used: dead, or expired (came after their window had closed).",
            ["topic", "reason"],
            registry=registry,
        )
        self.tokens = Counter(
            "clickloop_tokens_total",
            "Outcomes that came with a token, by what became of them (joined, duplicate, late, expired, forged, unknown_key, unusable).",
            ["outcome"],
            registry=registry,
        )
        self.misplaced_keys = Counter(
            "clickloop_misplaced_keys_total",
            "Sampled keys found on another partition than murmur2 names: set partitioner=murmur2_random in producers.",
            ["topic"],
            registry=registry,
        )
        self.lost_records = Counter(
            "clickloop_lost_records_total",
            "Records that retention deleted before they were read.",
            ["topic"],
            registry=registry,
        )
        self.lag_records = Gauge(
            "clickloop_lag_records", "Records not read yet.", ["topic", "partition"], registry=registry
        )
        self.lag_seconds = Gauge(
            "clickloop_lag_seconds",
            "Age of the last record read while there are more; since the assignment if none was read.",
            ["topic", "partition"],
            registry=registry,
        )

    def _pending(self, registry: CollectorRegistry) -> None:
        self.join_delay = Histogram(
            "clickloop_join_delay_seconds",
            "Event time from an impression to an outcome that counts; early ones fall into the first bucket.",
            buckets=DELAY_BUCKETS_S,
            registry=registry,
        )
        self.pending_rows = Gauge(
            "clickloop_pending_rows", "Impressions whose window is open.", ["partition"], registry=registry
        )
        self.pending_bytes = Gauge(
            "clickloop_pending_bytes", "Memory that pending impressions take.", ["partition"], registry=registry
        )
        self.pending_file_bytes = Gauge(
            "clickloop_pending_file_bytes",
            "Pending impressions in files, past the memory ceiling.",
            ["partition"],
            registry=registry,
        )
        self.waiting_clicks = Gauge(
            "clickloop_waiting_clicks", "Outcomes whose impression was not seen yet.", ["partition"], registry=registry
        )
        self.remembered_bytes = Gauge(
            "clickloop_remembered_outcomes_bytes",
            "Memory of the outcomes that are remembered for their tokens' life.",
            ["partition"],
            registry=registry,
        )
        self.watermark = Gauge(
            "clickloop_watermark_seconds",
            "Event time that is complete, since the epoch.",
            ["partition"],
            registry=registry,
        )

    def _checkpoints(self, registry: CollectorRegistry) -> None:
        self.checkpoint_seconds = Histogram(
            "clickloop_checkpoint_seconds",
            "Time that a checkpoint's transaction took.",
            buckets=CHECKPOINT_BUCKETS_S,
            registry=registry,
        )
        self.checkpoints = Counter(
            "clickloop_checkpoints_total",
            "Checkpoints by result (committed, unknown, fenced).",
            ["result"],
            registry=registry,
        )
        self.recoveries = Counter(
            "clickloop_recoveries_total",
            "Times that a partition was rebuilt, by reason.",
            ["reason"],
            registry=registry,
        )

    def _attribution(self, registry: CollectorRegistry) -> None:
        self.conversions = Counter(
            "clickloop_conversions_total",
            "Conversions of units by what became of them (attributed, unattributed, duplicate, late, dead).",
            ["outcome"],
            registry=registry,
        )
        self.waiting_conversions = Gauge(
            "clickloop_waiting_conversions", "Conversions whose grace is not over.", ["partition"], registry=registry
        )
        self.kept_touches = Gauge(
            "clickloop_kept_touches", "Touches that a conversion may still go to.", ["partition"], registry=registry
        )
        self.attribution_watermark = Gauge(
            "clickloop_attribution_watermark_seconds",
            "Event time up to which conversions, but for their grace, have been given out, since the epoch.",
            ["partition"],
            registry=registry,
        )

    def _snapshots(self, registry: CollectorRegistry) -> None:
        self.snapshot_version = Gauge(
            "clickloop_snapshot_version", "Version of the newest snapshot.", ["policy"], registry=registry
        )
        self.snapshot_age = Gauge(
            "clickloop_snapshot_age_seconds", "Time since the newest snapshot.", ["policy"], registry=registry
        )
        self.half_life = Gauge(
            "clickloop_half_life_seconds",
            "Half-life of the track that decides; 0 forgets nothing.",
            ["policy"],
            registry=registry,
        )
        self.exploration_rate = Gauge(
            "clickloop_exploration_rate",
            "The explorer's rate (alpha of thompson and ucb, epsilon, tau, ...) that decides.",
            ["policy"],
            registry=registry,
        )
        self.contest_share = Gauge(
            "clickloop_contest_share",
            "Share of a policy's decisions that another one makes by what it earns.",
            ["policy", "contender"],
            registry=registry,
        )
        self.position_effect = Gauge(
            "clickloop_position_effect_ratio",
            "Click rate of a slot against the first one's, as learned.",
            ["policy", "slot"],
            registry=registry,
        )
        self.audit_alarms = Counter(
            "clickloop_audit_alarms_total",
            "Times that logged propensities or the share of a group were found false.",
            ["policy"],
            registry=registry,
        )
        self.drift_alarms = Counter(
            "clickloop_drift_alarms_total",
            "Alarms that an arm's click rate has changed; the log names the arms.",
            ["policy"],
            registry=registry,
        )
        self.click_delay = Gauge(
            "clickloop_click_delay_seconds",
            "Mean delay of clicks, estimated from impressions whose window has closed.",
            ["policy"],
            registry=registry,
        )
        self.judged_rows = Counter(
            "clickloop_judged_rows_total",
            "Matured impressions that the tracks' predictions were scored by (scored), or came too late for it (unscored).",
            ["policy", "outcome"],
            registry=registry,
        )
        self.ctr = Gauge(
            "clickloop_ctr", "Reward for each impression, all arms together.", ["policy"], registry=registry
        )

    def _budgets(self, registry: CollectorRegistry) -> None:
        labels = ["policy", "budget"]
        self.budget_amount = Gauge(
            "clickloop_budget_amount", "What may be spent in a period.", labels, registry=registry
        )
        self.budget_spent = Gauge(
            "clickloop_budget_spent", "What is known to be spent in the present period.", labels, registry=registry
        )
        self.budget_overspent = Gauge(
            "clickloop_budget_overspent", "What was spent beyond the amount, in all periods.", labels, registry=registry
        )
        self.budget_late = Gauge(
            "clickloop_budget_late", "Spending that came for periods which were over.", labels, registry=registry
        )
        self.budget_price = Gauge(
            "clickloop_budget_price", "Dual price, value per cost, that paces the budget.", labels, registry=registry
        )
