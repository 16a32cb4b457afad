"""Creating the topics, and finding what is wrong with those that exist."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError

from streams.admin import connect
from streams.topic_specs import TopicSpec, leader_topic, specs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from streams.settings import Settings

__all__ = [
    "Problem",
    "Report",
    "TopicMissing",
    "TopicSpec",
    "check",
    "create",
    "leader_topic",
    "partition_count",
    "specs",
]

_ALREADY_EXISTS = 36
_INVALID_CONFIG = 40


class TopicMissing(RuntimeError):  # noqa: N818 - reads as what it says
    """A topic does not exist. Not worth a retry: nobody but an operator creates it."""

    retriable = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something wrong with a topic and the way out; `error` is False where clickloop still works."""

    topic: str
    what: str
    fix: str
    error: bool = True

    def __str__(self) -> str:
        return f"{self.topic}: {self.what}; {self.fix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What `create` did: names of topics created, names of those that were there, and what is wrong with them."""

    created: tuple[str, ...] = ()
    existing: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = field(default=())


def create(settings: Settings, *, timeout_s: float = 8.0) -> Report:
    """Create what is missing and check what is there; doing it again changes nothing.

    Raises:
        BrokerUnreachable: no broker answered in time.
    """
    wanted = specs(settings)
    with connect(settings, timeout_s=timeout_s) as admin:
        there = _described(admin, [spec.name for spec in wanted])
        missing = [spec for spec in wanted if spec.name not in there]
        created, problems = _create_missing(admin, missing, settings)
        if created:
            admin.wait_for_topics(created, timeout_ms=int(timeout_s * 1000))
        failed = {problem.topic for problem in problems if problem.error}
        found = _problems(admin, [spec for spec in wanted if spec.name not in failed])
    existing = tuple(spec.name for spec in wanted if spec.name not in failed and spec.name not in created)
    return Report(created=tuple(created), existing=existing, problems=(*problems, *found))


def check(settings: Settings, *, timeout_s: float = 8.0) -> list[Problem]:
    """Return what is wrong with the topics, an empty list when nothing is.

    Raises:
        BrokerUnreachable: no broker answered in time.
    """
    with connect(settings, timeout_s=timeout_s) as admin:
        return _problems(admin, specs(settings))


def partition_count(settings: Settings, topic: str, *, timeout_s: float = 8.0) -> int:
    """Return how many partitions the topic of that full name has.

    Raises:
        TopicMissing: there is no such topic.
        BrokerUnreachable: no broker answered in time.
    """
    with connect(settings, timeout_s=timeout_s) as admin:
        found = _described(admin, [topic]).get(topic)
    if found is None:
        raise TopicMissing(f"{topic} does not exist at {settings.bootstrap}; run clickloop topics create")
    return found


def require(settings: Settings, *names: str, timeout_s: float = 8.0) -> None:
    """Return if all topics of these full names exist.

    Raises:
        TopicMissing: one does not.
        BrokerUnreachable: no broker answered in time.
    """
    with connect(settings, timeout_s=timeout_s) as admin:
        there = _described(admin, list(names))
    missing = [name for name in names if name not in there]
    if missing:
        raise TopicMissing(f"{', '.join(missing)} does not exist at {settings.bootstrap}; run clickloop topics create")


def _create_missing(admin: Any, missing: list[TopicSpec], settings: Settings) -> tuple[list[str], list[Problem]]:
    created: list[str] = []
    problems: list[Problem] = []
    for spec in missing:
        code, message = _create_one(admin, spec, settings, configs=spec.configs)
        if code == _INVALID_CONFIG:
            why = f"this broker refused the settings {spec.configs} ({message}), so it was created without them"
            problems.append(Problem(topic=spec.name, what=why, fix="set them by hand", error=False))
            code, message = _create_one(admin, spec, settings, configs={})
        if code == 0:
            created.append(spec.name)
        elif code != _ALREADY_EXISTS:  # somebody else created it in between
            what = f"cannot be created with {spec.partitions} partitions and {settings.replication} replicas: {message}"
            fix = "change partitions or replication in the settings, or ask for the right to create topics"
            problems.append(Problem(topic=spec.name, what=what, fix=fix))
    return created, problems


def _create_one(admin: Any, spec: TopicSpec, settings: Settings, *, configs: Mapping[str, str]) -> tuple[int, str]:
    wish = {"num_partitions": spec.partitions, "replication_factor": settings.replication, "configs": dict(configs)}
    answer = admin.create_topics({spec.name: wish}, raise_errors=False)["topics"][0]
    code = int(answer["error_code"])
    return code, str(answer.get("error_message") or f"Kafka error code {code}")


def _described(admin: Any, names: list[str]) -> dict[str, int]:
    """Return the number of partitions by name of those topics that exist."""
    listed = set(admin.list_topics())  # describing a missing topic would create it where brokers auto-create
    there = [name for name in names if name in listed]
    topics = admin.describe_topics(there) if there else []
    return {topic["name"]: len(topic["partitions"]) for topic in topics if topic["error_code"] == 0}


def _problems(admin: Any, wanted: Iterable[TopicSpec]) -> list[Problem]:
    wanted = list(wanted)
    partitions = _described(admin, [spec.name for spec in wanted])
    problems: list[Problem] = []
    for spec in wanted:
        if spec.name not in partitions:
            problems.append(Problem(topic=spec.name, what="does not exist", fix="run clickloop topics create"))
            continue
        problems += _partition_problems(spec, partitions[spec.name])
        found = _configs(admin, spec.name)
        problems += [*_config_problems(spec, found), *_size_problems(spec, found)]
    return problems


def _partition_problems(spec: TopicSpec, found: int) -> list[Problem]:
    if found == spec.partitions:
        return []
    what = f"has {found} partitions, and the settings want {spec.partitions}"
    fix = "delete the topic with all it holds and run clickloop topics create"
    if spec.partitions > 1:
        fix = f"set partitions = {found} if all topics have that many, or {fix}"
    return [Problem(topic=spec.name, what=what, fix=f"{fix} (adding partitions would move keys away from their state)")]


def _configs(admin: Any, name: str) -> dict[str, str]:
    """Return the topic's settings, or nothing where the broker does not tell them."""
    try:
        resource = ConfigResource(ConfigResourceType.TOPIC, name)
        found = admin.describe_configs([resource], config_filter="all")["topic"][name]
    except (KafkaError, KeyError) as error:
        if isinstance(error, KafkaError) and error.retriable:
            raise
        return {}
    return {key: str(entry["value"]) for key, entry in found.items()}


def _config_problems(spec: TopicSpec, found: Mapping[str, str]) -> list[Problem]:
    problems = []
    cleanup = found.get("cleanup.policy", spec.cleanup)
    if set(cleanup.replace(" ", "").split(",")) != {spec.cleanup}:
        lost = "impressions with the same key" if spec.cleanup == "delete" else "the newest record of a quiet key"
        what = f"has cleanup.policy={cleanup}, which loses {lost}"
        problems.append(Problem(topic=spec.name, what=what, fix=_alter(spec.name, f"cleanup.policy={spec.cleanup}")))
    retention_ms = int(found.get("retention.ms", "-1"))
    least_ms = int(spec.least_retention_s * 1000)
    if 0 <= retention_ms < least_ms:
        what = f"keeps records for {retention_ms} ms, less than twice the longest window and grace, {least_ms} ms"
        problems.append(Problem(topic=spec.name, what=what, fix=_alter(spec.name, f"retention.ms={least_ms}")))
    size = int(found.get("retention.bytes", "-1"))
    if spec.least_retention_s > 0 and size >= 0:
        what = f"has retention.bytes={size}: under load it may drop records inside their window"
        problems.append(Problem(topic=spec.name, what=what, fix=_alter(spec.name, "retention.bytes=-1"), error=False))
    return problems


def _size_problems(spec: TopicSpec, found: Mapping[str, str]) -> list[Problem]:
    size = int(found.get("max.message.bytes", str(spec.max_message_bytes or 0)))
    if spec.max_message_bytes is None or size >= spec.max_message_bytes:
        return []
    what = f"has max.message.bytes={size}: a checkpoint that holds a larger record would fail for ever"
    return [Problem(topic=spec.name, what=what, fix=_alter(spec.name, f"max.message.bytes={spec.max_message_bytes}"))]


def _alter(topic: str, setting: str) -> str:
    return f"run kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config {setting}"
