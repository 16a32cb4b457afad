"""Impressions and outcomes on their way from the service to Kafka: room is asked for before anybody is answered.

What finds no room in the client's buffer is refused (the caller tries again), or goes to disk where a folder is set. What
was taken and could not be delivered goes to disk too; without a folder it is lost, counted, and logged.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from streams import logs
from streams.conversions import Conversion
from streams.delivery import Delivery, NotDelivered, QueueFull, Stats
from streams.events import Impression
from streams.serve_spill import Event

if TYPE_CHECKING:
    from streams.serve_spill import Spill

RESEND_S = 1.0
"""Seconds between two looks at what is on disk."""

RESEND_TIMEOUT_S = 60.0
"""Seconds after which a file whose events were not delivered is left for later."""

_log = logs.get(__name__)


class NoRoom(RuntimeError):  # noqa: N818 - reads as what it says
    """Events cannot be taken now; nothing was. Try again a little later."""

    retriable = True


class Sender(Protocol):
    """What takes events: a `PolicyClient`, or a stand-in."""

    @property
    def stats(self) -> Stats: ...  # noqa: D102
    def log_page(self, page: Sequence[Impression]) -> bool: ...  # noqa: D102
    def log_event(self, event: Event, *, tag: object = None) -> None: ...  # noqa: D102
    def flush(self, timeout_s: float = 30.0) -> None: ...  # noqa: D102


class Journal:
    """Sends events and keeps count of them; `reserve` and `write` are for the event loop alone.

    Args:
        queue_rows: bound of the sender's buffer.
        spill: where events go that it has no room for; None refuses them.
        count: called with "spilled", "lost" or "resent" and a number of events, from any thread.

    Give `settled` to the client as `on_delivery`, and the client to `start`.
    """

    def __init__(self, *, queue_rows: int, spill: Spill | None, count: Callable[[str, int], None]) -> None:
        self._queue_rows = queue_rows
        self._spill = spill
        self._count = count
        self._sender: Sender | None = None
        self._reserved = 0
        self._open: dict[int, Event] = {}  # with a folder: what was sent and is not settled, by its id()
        self._stop = threading.Event()
        self._resending: _Resending | None = None
        self._thread: threading.Thread | None = None

    def start(self, sender: Sender) -> None:
        """Send by that from now on, first what a process before left on disk."""
        self._sender = sender
        if self._spill is not None:
            self._thread = threading.Thread(target=self._resend, name="clickloop-resend", daemon=True)
            self._thread.start()

    def reserve(self, events: int) -> None:
        """Keep room for so many events that `write` will bring. Raises NoRoom if there is none, on disk neither."""
        queued = self._to().stats.queued + self._reserved + events
        if queued > self._queue_rows and (self._spill is None or self._spill.full):
            raise NoRoom(
                f"{queued - events} events wait for Kafka, {self._queue_rows} may, and nothing was taken; try again later, "
                "see whether the brokers are reachable, or set serve_spill_dir"
            )
        self._reserved += events

    def release(self, events: int) -> None:
        """Give back room that will not be needed."""
        self._reserved -= events

    def write(self, events: Sequence[Event]) -> None:
        """Send events that room was reserved for."""
        self._reserved -= len(events)
        for event in events:
            if self._spill is not None:
                self._open[id(event)] = event
            try:
                self._to().log_event(event, tag=event)
            except (QueueFull, NotDelivered) as error:
                self._open.pop(id(event), None)
                self._keep([event], str(error))

    def write_pages(self, pages: Sequence[Sequence[Impression]]) -> None:
        """`write` for impressions of decisions, one page each: all of a page have one policy and one dimension."""
        for page in pages:
            if len(page) < 2:
                self.write(page)
                continue
            if self._spill is not None:
                self._open.update((id(event), event) for event in page)
            if self._to().log_page(page):
                self._reserved -= len(page)
            else:
                self.write(page)

    def settled(self, delivery: Delivery) -> None:
        """Take note of what became of a record; called in the sender's thread."""
        resending = self._resending
        mine = [] if resending is None else [tag for tag in delivery.tags if isinstance(tag, _Resending)]
        if resending is not None and mine:
            resending.settled(len(mine), failed=delivery.error is not None)
        if self._spill is not None:
            for tag in delivery.tags:
                self._open.pop(id(tag), None)
        if delivery.error is not None:
            self._keep([tag for tag in delivery.tags if isinstance(tag, Event)], delivery.error)

    def close(self, timeout_s: float) -> None:
        """Deliver what is queued and stop. What is not delivered goes to disk; without a folder, NotDelivered."""
        self._stop.set()
        try:
            self._to().flush(timeout_s)
        except NotDelivered as error:
            if self._spill is None:
                raise
            self._keep(list(self._open.values()), str(error))
        finally:
            if self._thread is not None:
                self._thread.join(timeout=5)

    def _to(self) -> Sender:
        if self._sender is None:
            raise RuntimeError("the journal has no sender before start; this is a bug")
        return self._sender

    def _keep(self, events: Sequence[Event], why: str) -> None:
        for event in events:
            if self._spill is not None and self._spill.add(event):
                self._count("spilled", 1)
            else:
                self._count("lost", 1)
                _log.error("an event is lost", **_names(event), why=why)

    def _resend(self) -> None:
        while not self._stop.wait(RESEND_S):
            if self._to().stats.queued > self._queue_rows // 2:
                continue
            try:
                self._resend_file()
            except Exception as error:  # noqa: BLE001 - whatever it is, the file stays and is tried again
                _log.warning("cannot send what is on disk; trying again", why=f"{type(error).__name__}: {error}")

    def _resend_file(self) -> None:
        taken = None if self._spill is None else self._spill.take()
        if self._spill is None or taken is None:
            return
        path, events = taken
        self._resending = resending = _Resending()
        until = time.monotonic() + RESEND_TIMEOUT_S
        for event in events:
            while not self._stop.is_set():
                try:
                    self._to().log_event(event, tag=resending)
                except QueueFull:
                    if time.monotonic() > until:
                        return
                    self._stop.wait(0.05)
                else:
                    break
        while resending.open_of(len(events)) and time.monotonic() < until and not self._stop.is_set():
            time.sleep(0.02)
        if not resending.failed and not resending.open_of(len(events)):
            self._spill.done(path)
            self._count("resent", len(events))


class _Resending:
    """How far the events of one file are; each of them has this as its tag."""

    def __init__(self) -> None:
        self._settled = 0
        self.failed = False

    def settled(self, rows: int, *, failed: bool) -> None:
        self._settled += rows
        self.failed = self.failed or failed

    def open_of(self, rows: int) -> int:
        return rows - self._settled


def _names(event: Event) -> dict[str, str]:
    if isinstance(event, Conversion):
        return {"unit": event.unit, "conversion_id": event.conversion_id}
    return {"decision_id": event.decision_id, "slot": event.slot}
