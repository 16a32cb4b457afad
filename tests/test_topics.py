"""Topics: created as they must be on both brokers, checked in words that help, no broker told quickly."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from kafka.admin import ConfigResource, ConfigResourceType

from streams import topics
from streams.admin import BrokerUnreachable, connect
from streams.settings import Settings
from streams.topic_specs import LARGE, leader_topic, least_retention_s
from tests.broker import free_port_pair

if TYPE_CHECKING:
    from tests.broker import ApacheKafka


def settings_at(bootstrap: str, prefix: str, **values: Any) -> Settings:
    return Settings(bootstrap=bootstrap, prefix=prefix, policies={"home": {"dimension": 2}}, **values)


def configs(settings: Settings, topic: str) -> dict[str, str]:
    with connect(settings) as admin:
        found = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)], config_filter="all")
    return {key: entry["value"] for key, entry in found["topic"][topic].items()}


def test_specs_pair_the_inputs() -> None:
    """Impressions, clicks and posteriors have the same partitions; the publisher's leader topic is among the topics."""
    settings = settings_at("127.0.0.1:1", "x-", partitions=7)
    found = {spec.name: spec for spec in topics.specs(settings)}
    assert {found[f"x-{name}"].partitions for name in ("impressions", "clicks", "posteriors")} == {7}
    compacted = {spec.name for spec in found.values() if spec.cleanup == "compact"}
    assert compacted == {"x-posteriors", "x-policies", "x-controls"}
    assert leader_topic(settings) == "x-clickloop-publisher-__assignor-__leader"
    assert found[leader_topic(settings)].partitions == 1


def test_an_encoder_has_topics_of_its_own() -> None:
    """Without an encoder there are none; with one, texts expire and vectors are compacted."""
    without = {spec.name for spec in topics.specs(settings_at("127.0.0.1:1", "x-"))}
    settings = settings_at("127.0.0.1:1", "x-", partitions=3, encoder={"model": "/m"})
    found = {spec.name: spec for spec in topics.specs(settings) if spec.name not in without}
    assert {name: (spec.cleanup, spec.partitions) for name, spec in found.items()} == {
        "x-embedding-requests": ("delete", 3),
        "x-embeddings": ("compact", 3),
    }


def test_input_is_kept_for_twice_the_longest_window() -> None:
    """A window of days lengthens the retention beyond its default of a day."""
    day_s = 86_400.0
    policies: Any = {"a": {"dimension": 2, "window_s": 3 * day_s, "grace_s": 60}, "b": {"dimension": 2}}
    settings = Settings(policies=policies)
    assert least_retention_s(settings) == 2 * (3 * day_s + 60)
    impressions = topics.specs(settings)[0]
    assert impressions.configs["retention.ms"] == str(2 * (3 * 86_400 + 60) * 1000)
    assert topics.specs(Settings())[0].configs["retention.ms"] == "86400000"


def test_create_then_create_again(both_brokers: str, prefix: str) -> None:
    """The first time makes every topic, the second none, and the check is content."""
    settings = settings_at(both_brokers, prefix, partitions=3)
    names = {spec.name for spec in topics.specs(settings)}
    assert {problem.topic for problem in topics.check(settings)} == names
    first = topics.create(settings)
    assert (set(first.created), first.existing, first.problems) == (names, (), ())
    second = topics.create(settings)
    assert (second.created, set(second.existing), second.problems) == ((), names, ())
    assert topics.check(settings) == []
    assert configs(settings, settings.topics.posteriors)["cleanup.policy"] == "compact"
    assert configs(settings, settings.topics.impressions)["retention.ms"] == "86400000"


def test_other_partition_counts_are_told_with_the_way_out(both_brokers: str, prefix: str) -> None:
    """Topics that exist with another number of partitions stay as they are and are reported."""
    topics.create(settings_at(both_brokers, prefix, partitions=3))
    report = topics.create(settings_at(both_brokers, prefix, partitions=4))
    told = {problem.topic: str(problem) for problem in report.problems if problem.error}
    assert set(told) == {f"{prefix}{name}" for name in ("impressions", "clicks", "posteriors", "feedback")}
    assert "has 3 partitions, and the settings want 4; set partitions = 3" in told[f"{prefix}clicks"]
    assert report.created == ()


def test_wrong_topic_settings_are_told(both_brokers: str, prefix: str) -> None:
    """Compacted inputs, expiring sums and a retention below the window are errors; a size limit is a warning."""
    settings = settings_at(both_brokers, prefix, partitions=1)
    wrong = {
        settings.topics.impressions: {"cleanup.policy": "compact"},
        settings.topics.clicks: {"retention.ms": "60000", "retention.bytes": "1000000"},
        settings.topics.posteriors: {"cleanup.policy": "delete", "max.message.bytes": str(LARGE)},
    }
    with connect(settings) as admin:
        admin.create_topics(
            {name: {"num_partitions": 1, "replication_factor": 1, "configs": extra} for name, extra in wrong.items()},
            wait_for_metadata=True,
        )
    topics.create(settings)
    found = topics.check(settings)
    told = "\n".join(str(problem) for problem in found)
    assert f"{prefix}impressions: has cleanup.policy=compact" in told
    assert f"{prefix}posteriors: has cleanup.policy=delete" in told
    assert (
        f"{prefix}clicks: keeps records for 60000 ms, less than twice the longest window and grace, 1320000 ms" in told
    )
    assert f"--entity-name {prefix}clicks --add-config retention.ms=1320000" in told
    assert [problem.topic for problem in found if not problem.error] == [f"{prefix}clicks"]
    assert len(found) == 4


def test_a_topic_that_cannot_be_created_is_told(both_brokers: str, prefix: str) -> None:
    """More replicas than brokers is an error for every topic, and nothing is created."""
    report = topics.create(settings_at(both_brokers, prefix, replication=3))
    assert report.created == ()
    assert len([problem for problem in report.problems if "3 replicas" in problem.what and problem.error]) == 9


class Refusing:
    """An admin client of a broker that refuses every topic setting."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def create_topics(self, wished: dict[str, dict[str, Any]], **_: object) -> dict[str, Any]:
        ((name, wish),) = wished.items()
        if wish["configs"]:
            return {"topics": [{"name": name, "error_code": 40, "error_message": "Unknown topic config"}]}
        self.made.append(name)
        return {"topics": [{"name": name, "error_code": 0, "error_message": None}]}


def test_refused_topic_settings_are_left_out_with_a_warning() -> None:
    """A broker that does not know a topic setting still gets the topic."""
    settings = settings_at("127.0.0.1:1", "")
    admin = Refusing()
    created, problems = topics._create_missing(admin, list(topics.specs(settings)), settings)
    assert created == admin.made
    assert len(created) == 9
    assert {problem.error for problem in problems} == {False}
    assert "Unknown topic config" in problems[0].what


@pytest.mark.parametrize("bootstrap", ["127.0.0.1:{port}", "nosuchhost.invalid:9092"])
def test_dead_broker_is_told_soon(bootstrap: str) -> None:
    """Nobody at the address: one clear error, worth a retry, well within ten seconds."""
    settings = Settings(bootstrap=bootstrap.format(port=free_port_pair()))
    began = time.monotonic()
    with pytest.raises(BrokerUnreachable, match="CLICKLOOP_BOOTSTRAP") as caught:
        topics.check(settings)
    assert caught.value.retriable
    assert settings.bootstrap in str(caught.value)
    assert time.monotonic() - began < 10


def test_silent_broker_is_told_soon(apache_kafka: ApacheKafka) -> None:
    """A broker that takes connections and says nothing is told in time, and works again afterwards."""
    settings = settings_at(apache_kafka.bootstrap, "")
    assert topics.create(settings).problems == ()
    apache_kafka.pause()
    began = time.monotonic()
    with pytest.raises(BrokerUnreachable, match="waited 2 s"):
        topics.check(settings, timeout_s=2.0)
    assert time.monotonic() - began < 10
    apache_kafka.resume()
    assert topics.check(settings) == []
    apache_kafka.kill()
    with pytest.raises(BrokerUnreachable, match="Connection refused"):
        topics.check(settings)
    apache_kafka.start()
    assert topics.check(settings) == []


def test_partition_count_of_a_topic(both_brokers: str, prefix: str) -> None:
    """A topic's partitions are counted; one that does not exist is an error with the way out."""
    settings = settings_at(both_brokers, prefix, partitions=3)
    with pytest.raises(topics.TopicMissing, match="run clickloop topics create"):
        topics.partition_count(settings, settings.topics.posteriors)
    topics.create(settings)
    assert topics.partition_count(settings, settings.topics.posteriors) == 3
    assert topics.partition_count(settings, settings.topics.policies) == 1


def test_topics_that_refuse_large_records_are_told(apache_kafka: ApacheKafka, prefix: str) -> None:
    """What a checkpoint writes may be larger than Kafka's default limit: a topic made by hand is an error until it is altered."""
    settings = settings_at(apache_kafka.bootstrap, prefix, partitions=1)
    letters = settings.topics.dead_letters
    with connect(settings) as admin:
        admin.create_topics({letters: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
    topics.create(settings)
    (problem,) = topics.check(settings)
    assert problem.error
    assert "max.message.bytes=1048588" in problem.what
    assert problem.fix.endswith(f"--entity-name {letters} --add-config max.message.bytes={LARGE}")


def test_required_topics_that_are_missing_are_named(both_brokers: str, prefix: str) -> None:
    """All that are missing are in one message, with the way out."""
    settings = settings_at(both_brokers, prefix)
    names = settings.topics
    with pytest.raises(topics.TopicMissing, match=f"{names.policies}, {names.history} does not exist.*topics create"):
        topics.require(settings, names.policies, names.history)
    topics.create(settings)
    topics.require(settings, names.policies, names.history)
