"""Where a partition begins and ends is asked again while its broker does not know yet, and not else."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from streams.reading import ReadError, bounds


class Answers:
    """Stands in for a consumer: each call gets the next of these answers, the last one from then on."""

    def __init__(self, *answers: int | tuple[int, int]) -> None:
        self.answers = list(answers)

    def get_watermark_offsets(self, place: Any, *, timeout: float) -> tuple[int, int]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, int):
            raise KafkaException(KafkaError(answer))
        return answer


def asked(*answers: int | tuple[int, int], timeout_s: float = 10.0) -> tuple[int, int]:
    consumer: Any = Answers(*answers)
    return bounds(consumer, "feedback", 2, timeout_s=timeout_s)


@pytest.mark.parametrize("code", [KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART])
def test_a_partition_whose_broker_does_not_know_yet_is_asked_for_again(code: int) -> None:
    """Its leader is being chosen, or it was made a moment ago."""
    assert asked(code, code, (3, 7)) == (3, 7)
    with pytest.raises(ReadError, match="feedback-2 cannot be read"):
        asked(code, timeout_s=0.0)


def test_what_does_not_pass_by_itself_is_told_at_once() -> None:
    """With the partition and what to check."""
    with pytest.raises(ReadError, match=r"feedback-2 cannot be read: .*may read the topic"):
        asked(KafkaError.TOPIC_AUTHORIZATION_FAILED, (3, 7))
