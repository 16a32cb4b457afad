"""The worker process: Faust apps for the learner and the publisher, their HTTP server, and how they end.

Exit codes: 0 after SIGTERM or SIGINT, 1 after an error that needs a person (it is logged).
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import faust
import structlog
from faust.types import TP
from prometheus_client import CollectorRegistry
from threadpoolctl import threadpool_limits

from streams import logs, security
from streams.attributor import Attributor
from streams.blocks import NoRoomError
from streams.checkpoint import Writer
from streams.failpoints import failpoints
from streams.learner import Learner
from streams.lifecycle import StuckError
from streams.metrics import Metrics, serve
from streams.monitoring import Monitor
from streams.reading import partition_count
from streams.references import ReferenceReader
from streams.rules import rules
from streams.settings import Settings
from streams.transport import BatchSchema, BatchThread

log = structlog.get_logger(__name__)

COMMIT_TIMEOUT_S = 10.0
M_ARENA_MAX = -8  # malloc.h


def run_worker(settings: Settings, roles: tuple[str, ...]) -> None:
    """Run the roles (learner, publisher, attributor) in this process until a signal or a fatal error. Raises SystemExit(1) on the latter."""
    logs.configure(settings)
    _few_arenas()
    threadpool_limits(1)  # products of 32 columns gain nothing from threads, which spin while they wait for each other
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)  # a batch holds thousands of lists that are no garbage: 1.3 us an event
    raise SystemExit(asyncio.run(Worker(settings).run(roles)))


def _few_arenas() -> None:
    """Let all threads share two arenas of glibc: with one each, what they free stays theirs, 70 MB of it."""
    with suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


class Worker:
    """One process: the apps of its roles share a loop, an HTTP server and an end."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics(CollectorRegistry())
        self.ended = asyncio.Event()
        self.error: BaseException | None = None
        self.probes: list[tuple[Callable[[], tuple[bool, str]], Callable[[], tuple[bool, str]]]] = []
        self.closers: list[Callable[[], Any]] = []

    async def fatal(self, error: BaseException) -> None:
        """End the process with an error, once."""
        if self.error is None:
            self.error = error
            log.critical(str(error) or repr(error), error=type(error).__name__)
        self.ended.set()

    async def run(self, roles: tuple[str, ...]) -> int:
        """Start, wait for a signal or an error, stop. Returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.ended.set)
        apps = [getattr(self, f"_{role}")() for role in roles]
        server = serve(
            self.metrics,
            host=self.settings.metrics_host,
            port=self.settings.metrics_port,
            live=lambda: self._all(0),
            ready=lambda: self._all(1),
        )
        log.info(
            "metrics",
            url=f"http://{self.settings.metrics_host}:{server.port}/metrics",
            roles=list(roles),
            bootstrap=self.settings.bootstrap,
        )
        running = [loop.create_task(self._keep(app, role)) for app, role in zip(apps, roles, strict=True)]
        await self.ended.wait()
        if isinstance(self.error, StuckError):
            os._exit(1)  # an orderly end would wait for the thread that hangs; what is not committed is read again
        log.info("stopping")
        for closer in self.closers:
            await closer()
        stopping = asyncio.gather(*(app.stop() for app in apps), *running, return_exceptions=True)
        try:
            await asyncio.wait_for(stopping, timeout=10)
        except TimeoutError:
            log.warning("the stream processor did not stop within 10 s; leaving it")
        server.close()
        return 0 if self.error is None else 1

    async def _keep(self, app: faust.App | Attributor, role: str) -> None:
        try:
            await app.start()
            await app.wait_until_stopped()
        except Exception as error:  # noqa: BLE001 - whatever it is ends the process, with the reason
            await self.fatal(error)
            return
        if not self.ended.is_set():
            await self.fatal(app.crash_reason or RuntimeError(f"the {role} stopped by itself"))

    def _all(self, which: int) -> tuple[bool, str]:
        answers = [probe[which]() for probe in self.probes]
        return all(ok for ok, _ in answers), "; ".join(text for _, text in answers)

    # -- roles

    def _learner(self) -> faust.App:
        settings = self.settings
        working = rules(settings)
        if working.referring:
            working = replace(working, references=ReferenceReader(settings))
        topics, client = settings.topics, security.librdkafka(settings)
        partitions = partition_count(client, topics.impressions)
        monitor = Monitor(self.metrics, topics=working.topics, partitions=partitions)
        app = faust_app(settings, settings.learner_group, topic_disable_leader=True)
        passing = failpoints(settings.fail_at)
        names = {
            "posteriors": topics.posteriors,
            "feedback": topics.feedback,
            "dead_letters": topics.dead_letters,
            "touches": topics.touches,
        }

        def make_writer(number: int) -> Writer:
            identity = f"{settings.learner_group}-{number}"
            return Writer(
                client,
                transactional_id=identity,
                partition=number,
                topics=names,
                timeout_s=COMMIT_TIMEOUT_S,
                passing=passing,
            )

        def flow() -> BatchThread:
            return app.consumer.batches  # type: ignore[no-any-return, attr-defined]

        learner = Learner(
            working,
            flow=flow,
            make_writer=make_writer,
            client=client,
            monitor=monitor,
            fatal=self.fatal,
            interval_s=settings.checkpoint_interval_s,
        )
        self._attach(app, learner, app.topic(topics.impressions, topics.clicks, schema=BatchSchema(), acks=False))
        self.probes.append((monitor.live, monitor.ready))
        self.closers.append(learner.close)
        return app

    def _attach(self, app: faust.App, learner: Learner, inputs: Any) -> None:
        async def learn(stream: Any) -> None:
            async for batch in stream:
                try:
                    learner.take(batch)
                except NoRoomError as error:
                    await self.fatal(error)
                    raise
                except Exception as error:
                    log.exception("a batch could not be added: this is a bug")
                    await self.fatal(error)
                    raise

        async def assigned(_: Any, tps: set[TP], **__: Any) -> None:
            learner.on_assigned(tps)

        async def revoked(*_: Any, **__: Any) -> None:
            learner.on_revoked()

        app.agent(inputs, name="learn")(learn)
        app.on_partitions_assigned.connect(assigned, weak=False)  # type: ignore[arg-type]
        app.on_partitions_revoked.connect(revoked, weak=False)
        app.task(learner.run)

    def _publisher(self) -> faust.App:
        from streams.publisher import Publisher  # here: a learner does without it, 15 MB

        settings = self.settings
        app = faust_app(settings, settings.publisher_group, topic_disable_leader=False)
        publisher = Publisher(settings, metrics=self.metrics, leads=app.is_leader)
        app.task(publisher.follow)

        @app.timer(interval=settings.publish_interval_s, name="publish")  # type: ignore[untyped-decorator]
        async def publish() -> None:
            try:
                await publisher.tick()
            except Exception as error:
                log.exception("publishing failed: this is a bug")
                await self.fatal(error)

        self.probes.append((publisher.live, publisher.ready))
        self.closers.append(publisher.close)
        return app

    def _attributor(self) -> Attributor:
        attributor = Attributor(self.settings, metrics=self.metrics)
        self.probes.append((attributor.live, attributor.ready))
        return attributor


def faust_app(settings: Settings, group: str, *, topic_disable_leader: bool) -> faust.App:
    """A Faust app on the batch transport: no web server, no tables, no commits of its own, static membership if named."""
    instance = settings.instance_id
    app = faust.App(
        group,
        broker=[f"clickloop://{address}" for address in settings.bootstrap.split(",")],
        broker_credentials=None,
        web_enabled=False,
        datadir=Path(tempfile.gettempdir()) / f"{group}-{socket.gethostname()}",
        topic_disable_leader=topic_disable_leader,
        topic_partitions=1,
        topic_replication_factor=settings.replication,
        consumer_group_instance_id=None if instance is None else f"{group}-{instance}",
        consumer_max_fetch_size=1024 * 1024,
        broker_session_timeout=settings.session_timeout_s,
        broker_heartbeat_interval=min(3.0, settings.session_timeout_s / 4),
        broker_request_timeout=max(30.0, settings.session_timeout_s + 5),
        broker_rebalance_timeout=max(10.0, settings.session_timeout_s),
        broker_max_poll_interval=300.0,
        stream_wait_empty=False,
        stream_buffer_maxsize=16,
        stream_recovery_delay=0.0,
        producer_linger=0.0,
        loghandlers=[],
    )
    app.finalize()
    return app
