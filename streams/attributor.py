"""The attributor's role in a worker: sessions in a thread of its own, one after the other until the worker ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from streams.attributor_session import FAILURES, Session
from streams.checkpoint import FencedError, UnknownOutcomeError
from streams.failpoints import failpoints
from streams.logs import get_logger

if TYPE_CHECKING:
    from streams.metrics import Metrics
    from streams.settings import Settings

log = get_logger(__name__)

RETRY_S = 1.0
DEAF_S = 60.0
"""Silence after which the thread counts as hanging; each of its calls has a timeout far below."""


class Attributor:
    """Started and stopped by the worker as a Faust app is; ``crash_reason`` is what it ended by, if it did by itself.

    Args:
        settings: with a policy that attributes.
        metrics: where conversions are counted.
    """

    def __init__(self, settings: Settings, *, metrics: Metrics) -> None:
        self.crash_reason: BaseException | None = None
        self._settings = settings
        self._metrics = metrics
        self._passing = failpoints(settings.fail_at)
        self._stop = threading.Event()
        self._ended = asyncio.Event()
        self._tell: Callable[[], object] = lambda: None
        self._turned = monotonic()
        self._trouble = "starting"
        self._session: Session | None = None
        self._thread = threading.Thread(target=self._run, name="attributor", daemon=True)

    async def start(self) -> None:
        """Begin."""
        loop = asyncio.get_running_loop()
        self._tell = partial(loop.call_soon_threadsafe, self._ended.set)
        self._turned = monotonic()
        self._thread.start()

    async def wait_until_stopped(self) -> None:
        """Return when it has ended, however that came."""
        await self._ended.wait()

    async def stop(self) -> None:
        """A last checkpoint, then the end. May be called twice, and before `start`."""
        self._stop.set()
        if self._thread.ident is not None:
            await self._ended.wait()

    def live(self) -> tuple[bool, str]:
        """False when its thread has not turned for a minute."""
        silent = monotonic() - self._turned
        return silent < DEAF_S, "alive" if silent < DEAF_S else f"the attributor has not turned for {silent:.0f} s"

    def ready(self) -> tuple[bool, str]:
        """Whether every partition of this worker flows."""
        session = self._session
        return (False, f"the attributor: {self._trouble}") if session is None else session.status

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._one_session()
        except Exception as error:  # noqa: BLE001 - whatever it is ends the process, with the reason
            self.crash_reason = error
        finally:
            self._tell()

    def _one_session(self) -> None:
        try:
            with Session(
                self._settings, metrics=self._metrics, passing=self._passing, beat=self._beat, stop=self._stop
            ) as session:
                self._session = session
                session.run()
        except (FencedError, UnknownOutcomeError, *FAILURES) as error:
            self._trouble = str(error)
            result = "fenced" if isinstance(error, FencedError) else "unknown"
            self._metrics.checkpoints.labels(result=result).inc()
            log.warning("attribution failed: beginning again from the last checkpoint", error=str(error))
            self._session = None
            self._beat()
            self._stop.wait(RETRY_S)
        finally:
            self._session = None

    def _beat(self) -> None:
        self._turned = monotonic()
