"""One partition's transactions: a librdkafka producer whose transactional id belongs to the partition.

The order of a checkpoint, and what a crash after each step means:

1. *cut*: the state is frozen at the present positions: changed sums, feedback, dead letters, the checkpoint record. A crash loses
   what was added since the last commit; it is read again.
2. *begin* a transaction. A crash leaves it open; the successor's initialisation aborts it.
3. *produce* all records, the checkpoint record last. As after 2: nobody who reads committed sees any of them.
4. *flush*: the broker has every record. As after 2.
5. *commit*: from here the checkpoint is the truth, whether or not the answer arrives. A crash before the answer is an unknown
   outcome: the successor reads what the broker has.
6. *group offsets* follow, for lag monitors only. Nobody reads them back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, Producer

from streams.failpoints import Pass
from streams.messages import Message

UNPLACED = ("dead_letters", "clicks")

T = TypeVar("T")

_FENCED = {
    KafkaError._FENCED,
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
}


class FencedError(Exception):
    """Another producer has the partition's transactional id: the partition belongs to somebody else. Do not initialise again."""

    retriable = False


class UnknownOutcomeError(Exception):
    """A checkpoint failed or took too long and may have happened. Forget the state and read it back."""

    retriable = True


class Writer:
    """Transactions of one partition. Blocking: call it from a thread. Every call ends within ``timeout_s``.

    ``topics`` gives the names behind the roles of `Message`; the posteriors and feedback go to ``partition`` of their topics.
    """

    def __init__(
        self,
        client: Mapping[str, Any],
        *,
        transactional_id: str,
        partition: int,
        topics: Mapping[str, str],
        timeout_s: float,
        passing: Pass,
        transaction_timeout_s: float = 60.0,
    ) -> None:
        self.partition = partition
        self.topics = topics
        self.timeout_s = timeout_s
        self.passing = passing
        self.end: int | None = None
        self._producer = Producer(
            dict(client)
            | {
                "transactional.id": transactional_id,
                "transaction.timeout.ms": int(transaction_timeout_s * 1000),
                "delivery.timeout.ms": int(timeout_s * 1000),
                "linger.ms": 2,
                "message.max.bytes": 16_000_000,
                "partitioner": "murmur2_random",
                "log.connection.close": False,
                "log_level": 2,  # the learner tells what failed; a line for each attempt to connect is noise
            }
        )

    def initialise(self) -> None:
        """Fence the predecessor and end its open transaction. Raises FencedError or UnknownOutcomeError."""
        self._checked(lambda: self._producer.init_transactions(self.timeout_s))
        self.passing("recovery.initialised")

    def commit(self, messages: Sequence[Message]) -> None:
        """Steps 2 to 5. Raises FencedError, or UnknownOutcomeError for everything else that can go wrong."""
        self.passing("checkpoint.cut")
        self._checked(self._producer.begin_transaction)  # 2
        self.passing("checkpoint.begun")
        self._checked(lambda: self._produce(messages))  # 3
        self.passing("checkpoint.produced")
        left = self._checked(lambda: self._producer.flush(self.timeout_s))  # 4
        if left:
            raise UnknownOutcomeError(
                f"{left} of {len(messages)} records were not acknowledged within {self.timeout_s} s"
            )
        self.passing("checkpoint.flushed")
        self._checked(lambda: self._producer.commit_transaction(self.timeout_s))  # 5
        self.passing("checkpoint.committed")

    def _produce(self, messages: Sequence[Message]) -> None:
        until = time.monotonic() + self.timeout_s
        for message in messages:
            number = self.partition if message.partition is None else message.partition
            where: dict[str, Any] = {} if message.topic in UNPLACED else {"partition": number}
            if message.topic == "posteriors":
                where["on_delivery"] = self._delivered
            while True:
                try:
                    self._producer.produce(
                        self.topics[message.topic],
                        value=message.value,
                        key=message.key,
                        headers=list(message.headers),
                        **where,
                    )
                    break
                except BufferError:
                    self._producer.poll(0.05)
                    if time.monotonic() > until:
                        raise UnknownOutcomeError(f"the producer's queue stayed full for {self.timeout_s} s") from None

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        if error is None:
            self.end = message.offset() + 1

    def close(self) -> None:
        """Let go of the producer; an open transaction is left to the successor or to its timeout. Raises nothing."""
        with suppress(KafkaException, SystemError):  # a fatal error that nobody has been told yet, being fenced for one
            self._producer.purge(in_queue=True, in_flight=True, blocking=False)
            self._producer.poll(0)

    def _checked(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except (KafkaException, SystemError) as error:
            # A fatal error that surfaces while callbacks are served comes as a SystemError caused by the KafkaException.
            told = error if isinstance(error, KafkaException) else error.__cause__
            if not isinstance(told, KafkaException):
                raise UnknownOutcomeError(f"partition {self.partition}: {error!r}") from error
            cause = self._why_fatal(told.args[0])
            if cause.code() in _FENCED:
                raise FencedError(f"partition {self.partition}: {cause.str()}") from error
            raise UnknownOutcomeError(f"partition {self.partition}: {cause.str()} ({cause.name()})") from error

    def _why_fatal(self, cause: KafkaError) -> KafkaError:
        """What is behind an error that only says "fatal": the error itself waits among the producer's events."""
        if cause.code() == KafkaError._FATAL:
            try:
                self._producer.poll(0)
            except (KafkaException, SystemError) as error:
                told = error if isinstance(error, KafkaException) else error.__cause__
                if isinstance(told, KafkaException):
                    return told.args[0]  # type: ignore[no-any-return]
        return cause
