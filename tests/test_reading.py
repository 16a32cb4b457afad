"""Where a partition begins and ends is asked again while its broker does not know yet, and not else."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from streams.reading import ReadError, bounds, of_message, reader


class Answers:
    """Stands in for a consumer: each call gets the next of these answers, the last one from then on."""

    def __init__(self, *answers: int | tuple[int, int]) -> None:
        self.answers = list(answers)

    def get_watermark_offsets(self, place: Any, *, timeout: float) -> tuple[int, int]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, int):
            raise KafkaException(KafkaError(answer))
        return answer

    def list_topics(self, topic: str, *, timeout: float) -> None: ...


def asked(*answers: int | tuple[int, int], timeout_s: float = 10.0) -> tuple[int, int]:
    consumer: Any = Answers(*answers)
    return bounds(consumer, "feedback", 2, timeout_s=timeout_s)


@pytest.mark.parametrize("code", [KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART])
def test_a_partition_whose_broker_does_not_know_yet_is_asked_for_again(code: int) -> None:
    """Its leader is being chosen, or it was made a moment ago."""
    assert asked(code, code, (3, 7)) == (3, 7)
    with pytest.raises(ReadError, match="feedback-2 cannot be read"):
        asked(code, timeout_s=0.0)


def test_a_topic_that_is_made_meanwhile_is_found(both_brokers: str, prefix: str) -> None:
    """By the consumer that had been told before that there is none."""
    admin = AdminClient({"bootstrap.servers": both_brokers})

    def made(topic: str) -> str:
        admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(10.0)
        return topic

    with reader({"bootstrap.servers": both_brokers}) as consumer:
        assert bounds(consumer, made(f"{prefix}early"), 0, timeout_s=10.0) == (0, 0)
        while True:
            with pytest.raises(ReadError) as caught:
                bounds(consumer, f"{prefix}late", 0, timeout_s=1.0)
            if "Timed out" not in str(caught.value):  # a broker that is busy says nothing yet
                break
        assert "Unknown partition" in str(caught.value)
        assert bounds(consumer, made(f"{prefix}late"), 0, timeout_s=10.0) == (0, 0)


def test_what_does_not_pass_by_itself_is_told_at_once() -> None:
    """With the partition and what to check."""
    with pytest.raises(ReadError, match=r"feedback-2 cannot be read: .*may read the topic"):
        asked(KafkaError.TOPIC_AUTHORIZATION_FAILED, (3, 7))


class Named:
    """Stands in for a message whose header has a name that is not UTF-8; a second look would find what the first one left."""

    def __init__(self, error: Exception) -> None:
        self.error, self.looks = error, 0

    def headers(self) -> Any:
        self.looks += 1
        raise self.error

    def offset(self) -> int:
        return 7

    def timestamp(self) -> tuple[int, int]:
        return 1, 3

    def key(self) -> bytes:
        return b"k"

    def value(self) -> bytes:
        return b"v"


@pytest.mark.parametrize(
    "error", [SystemError("returned NULL"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")], ids=repr
)
def test_a_header_whose_name_is_not_utf8_ends_nobody(error: Exception) -> None:
    """The record comes without headers, and they are asked for once."""
    message = Named(error)
    assert of_message(message) == (7, 3, b"k", b"v", [])
    assert message.looks == 1
