"""The controls topic: what people, or their programs, said of arms. Whoever may write to it may say something.

Key: MessagePack ``[policy, arm]``; compacted, so the last word on each arm counts, and a tombstone takes it back. Value: one map,
JSON (it begins with ``{``) or MessagePack::

    v            1
    state        "active", "paused" or "removed"
    renamed_to   the arm's new name; left out if it has none
    changed_ms   when the last announced change was, ms UTC; left out if there was none
    reason       in words
    time_ms      the clock of who said it, ms UTC

Of a budget: key ``[policy, null, "budget", name]``; programs that know no budgets pass over it. Value::

    v            1
    amount       what may be spent in a period; left out for what the settings say
    paused       whether nothing may draw on it; left out if it may
    reason, time_ms  as above

Words about a policy as a whole have keys of three elements (streams/policy_words.py). Unknown fields are ignored. What cannot be
read is logged and passed over: the word before it stands.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import structlog
from confluent_kafka import OFFSET_BEGINNING, KafkaException, Producer, TopicPartition

from policies.arms import Control, renames
from policies.meta_records import read_key
from policies.terms import BudgetControl
from streams.events import LARGEST
from streams.following import names
from streams.policy_words import Words
from streams.reading import QUIET, ReadError, bounds, read, reader

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from policies.trials import Word
    from streams.settings import Settings

log = structlog.get_logger(__name__)

VERSION = 1
BUDGET = "budget"
TIMEOUT_S = 10.0
LOOK_S = 3.0
"""Less than closing waits for the thread."""


class BadControl(ValueError):  # noqa: N818 - reads as what it says
    """A record that says nothing that could be done."""

    retriable = False


class NotWritten(RuntimeError):  # noqa: N818 - reads as what it says
    """The broker did not take a control in time."""

    retriable = True


def encode(control: Control) -> bytes:
    """Value of a record.

    >>> decode(encode(Control(state="paused", reason="budget spent"))).state
    'paused'
    """
    return msgspec.msgpack.encode({"v": VERSION, "state": control.state, **msgspec.to_builtins(control)})


def decode(value: bytes) -> Control:
    """Control from a record's value. Raises BadControl.

    >>> decode(b'{"v": 1, "state": "paused", "reason": "too loud"}').reason
    'too loud'
    """
    codec: Any = msgspec.json if value[:1] == b"{" else msgspec.msgpack
    try:
        found = codec.decode(value)
        version = found.get("v") if isinstance(found, dict) else None
        if version != VERSION:
            raise BadControl(f"a control must be a map with v = {VERSION}, this has v = {version!r}: {value[:80]!r}")
        control = msgspec.convert(found, Control)
    except msgspec.MsgspecError as error:
        raise BadControl(f"a control cannot be read: {error}; its first bytes are {value[:80]!r}") from error
    if control.renamed_to == "":
        raise BadControl("renamed_to is empty; give the new name or leave it out")
    return control


def budget_key(policy: str, budget: str) -> bytes:
    """Key of what is said of a budget.

    >>> budget_of(budget_key("p", "spring")), budget_of(msgspec.msgpack.encode(["p", "a"]))
    (('p', 'spring'), None)
    """
    return msgspec.msgpack.encode([policy, None, BUDGET, budget])


def budget_of(key: bytes | None) -> tuple[str, str] | None:
    """Policy and name of the budget that a key names, None if it names none."""
    try:
        policy, _, _, budget = msgspec.msgpack.decode(key or b"", type=tuple[str, None, Literal["budget"], str])
    except msgspec.MsgspecError:
        return None
    return policy, budget


def encode_budget(control: BudgetControl) -> bytes:
    """Value of a record on a budget.

    >>> decode_budget(encode_budget(BudgetControl(amount=150.0))).amount
    150.0
    """
    return msgspec.msgpack.encode({"v": VERSION, **msgspec.to_builtins(control)})


def decode_budget(value: bytes) -> BudgetControl:
    """What was said of a budget, from a record's value. Raises BadControl.

    >>> decode_budget(b'{"v": 1, "paused": true, "reason": "fraud"}').paused
    True
    """
    codec: Any = msgspec.json if value[:1] == b"{" else msgspec.msgpack
    try:
        found = codec.decode(value)
        version = found.get("v") if isinstance(found, dict) else None
        if version != VERSION:
            raise BadControl(f"a control must be a map with v = {VERSION}, this has v = {version!r}: {value[:80]!r}")
        control = msgspec.convert(found, BudgetControl)
    except msgspec.MsgspecError as error:
        raise BadControl(f"a control cannot be read: {error}; its first bytes are {value[:80]!r}") from error
    if control.amount is not None and not 0.0 <= control.amount <= LARGEST:
        raise BadControl(f"amount is {control.amount}; allowed: 0 to {LARGEST:g}, or none for what the settings say")
    return control


class Collected:
    """The last word on each arm, and on each budget, by policy."""

    def __init__(self) -> None:
        self.policies: dict[str, dict[str, Control]] = {}
        self.budgets: dict[str, dict[str, BudgetControl]] = {}

    def add(self, key: bytes | None, value: bytes | None) -> str:
        """Take one record; returns its policy. Raises ValueError if it is not what the topic should hold."""
        named = budget_of(key)
        if named is not None:
            return self._add_budget(*named, value)
        policy, arm = names(key)
        if not arm:
            raise BadControl(f"key {key!r} names no arm")
        before = self.policies.get(policy, {})
        after = {name: control for name, control in before.items() if name != arm}
        if value is not None:
            after[arm] = decode(value)
        _, circular = renames(after)
        if circular:
            log.warning("renames in a circle are not followed", policy=policy, arms=circular)
        self.policies[policy] = after
        return policy

    def _add_budget(self, policy: str, budget: str, value: bytes | None) -> str:
        after = {name: control for name, control in self.budgets.get(policy, {}).items() if name != budget}
        if value is not None:
            after[budget] = decode_budget(value)
        self.budgets[policy] = after
        return policy


class Controls:
    """Follows the topic in a thread. `error` is None once all that was there has been read."""

    def __init__(self, settings: Settings) -> None:
        self.error: str | None = "the controls have not been read yet"
        self._settings = settings
        self._lock = threading.Lock()
        self._found = Collected()
        self._words = Words()
        self._fresh: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="controls", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def take(self, policy: str) -> tuple[Mapping[str, Control], bool]:
        """What was said of a policy's arms, and whether something came since the last call."""
        with self._lock:
            fresh = policy in self._fresh
            self._fresh.discard(policy)
            return self._found.policies.get(policy, {}), fresh

    def budgets(self, policy: str) -> Mapping[str, BudgetControl]:
        """What was said of a policy's budgets."""
        with self._lock:
            return self._found.budgets.get(policy, {})

    def words(self, policy: str, heard: int) -> Sequence[tuple[int, Word]]:
        """What was said of the policy as a whole from an offset on, in order (streams/policy_words.py)."""
        with self._lock:
            return self._words.since(policy, heard)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except (ReadError, KafkaException) as error:
                if self._stop.is_set():
                    return
                self.error = f"cannot follow the controls: {error}"
                log.warning("cannot follow the controls; trying again", error=str(error))
                self._stop.wait(1.0)

    def _follow(self) -> None:
        topic = self._settings.topics.controls
        with reader(self._settings.librdkafka()) as consumer:
            _, self._words.end = bounds(consumer, topic, 0, timeout_s=LOOK_S)  # says so if the topic is not there
            consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
            while not self._stop.is_set():
                for message in consumer.consume(1_000, timeout=0.1):
                    error = message.error()
                    if error is None:
                        self._add(message)
                    elif error.fatal():
                        raise ReadError(error.str())
                    else:
                        self.error = None

    def _add(self, message: Any) -> None:
        with self._lock:
            try:
                if not self._words.add(message.key(), message.value(), message.offset()):
                    self._fresh.add(self._found.add(message.key(), message.value()))
            except ValueError as error:
                log.warning("a control was passed over", offset=message.offset(), why=str(error))


def read_controls(settings: Settings) -> dict[str, dict[str, Control]]:
    """The last word on each arm now, by policy. Raises ReadError."""
    return read_said(settings).policies


def read_said(settings: Settings) -> Collected:
    """The last word on each arm and budget now. Raises ReadError."""
    found, topic = Collected(), settings.topics.controls
    with reader(settings.librdkafka()) as consumer:
        low, high = bounds(consumer, topic, 0, timeout_s=TIMEOUT_S)
        for batch in read(consumer, topic, 0, low, None, timeout_s=TIMEOUT_S) if high > low else ():
            for record in batch:
                if read_key(record.key) is not None:
                    continue  # of a policy as a whole
                try:
                    found.add(record.key, record.value)
                except ValueError as error:
                    log.warning("a control was passed over", offset=record.offset, why=str(error))
    return found


def write_controls(settings: Settings, policy: str, controls: Mapping[str, Control]) -> None:
    """Say something of arms, in order. Raises NotWritten."""
    write_records(settings, [(msgspec.msgpack.encode([policy, arm]), encode(one)) for arm, one in controls.items()])


def write_records(settings: Settings, records: Iterable[tuple[bytes, bytes]]) -> None:
    """Write keys and values in order. Raises NotWritten."""
    problems: list[str] = []
    config = settings.librdkafka() | {"enable.idempotence": True, "log_level": QUIET}
    producer = Producer(config | {"message.timeout.ms": int(TIMEOUT_S * 1000)})
    for key, value in records:
        producer.produce(
            settings.topics.controls,
            partition=0,
            key=key,
            value=value,
            on_delivery=lambda error, _: problems.append(error.str()) if error is not None else None,
        )
    left = producer.flush(TIMEOUT_S)
    if left or problems:
        raise NotWritten(
            f"{settings.topics.controls} at {settings.bootstrap} did not take it: {'; '.join(problems) or 'no answer in time'}"
        )
