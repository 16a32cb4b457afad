"""The whole loop on this machine for a while: a broker if none is given, topics, a learner and a publisher."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

from streams import topics
from streams.admin import connect
from streams.local_broker import LocalBroker
from streams.processes import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from streams.settings import Settings

READY_S = 60.0


class LoopError(RuntimeError):
    """The loop could not be set up; the text says why and what to do."""

    retriable = False


class LocalLoop:
    """Broker, topics and workers from `__enter__` to `__exit__`.

    Args:
        settings: of the workers. `bootstrap` is replaced by the broker's own if `own_broker`.
        own_broker: start a local broker, and end it with everything else. If not, the topics are made on the cluster of
            `settings` and deleted at the end: `settings.prefix` must be one that nobody else uses.
        roles: the workers to start; None is a learner, a publisher, and an attributor where a policy attributes conversions.

    Raises:
        LoopError: some of the topics exist already, or cannot be created.
        LocalBrokerError, BrokerUnreachable: there is no broker.
        WorkerDied: a worker did not become ready.
    """

    def __init__(self, settings: Settings, *, own_broker: bool, roles: Sequence[str] | None = None) -> None:
        self.settings = settings
        self.workers: list[WorkerProcess] = []
        self._own_broker = own_broker
        everything = ("learner", "publisher", *(("attributor",) if settings.attributing else ()))
        self._roles = everything if roles is None else roles
        self._closing = ExitStack()
        self._broker: LocalBroker | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._closing.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def _start(self) -> None:
        if self._own_broker:
            self._broker = self._closing.enter_context(LocalBroker())
            self.settings = self.settings.model_copy(update={"bootstrap": self._broker.bootstrap, "replication": 1})
        self._create_topics()
        folder = Path(tempfile.mkdtemp(prefix="clickloop-"))
        self._closing.callback(shutil.rmtree, folder, ignore_errors=True)
        for role in self._roles:
            worker = WorkerProcess(self.settings, role, folder=folder)
            self._closing.callback(worker.stop)
            self.workers.append(worker)
        for worker in self.workers:
            worker.wait_ready(READY_S)

    def _create_topics(self) -> None:
        report = topics.create(self.settings)
        problems = [str(problem) for problem in report.problems if problem.error]
        if report.existing:
            problems.append(f"topics exist already: {', '.join(report.existing)}; choose another prefix")
        if not self._own_broker:
            self._closing.callback(_delete, self.settings, report.created)
        if problems:
            raise LoopError("\n".join(problems))

    def check(self) -> None:
        """Raise WorkerDied if a worker has ended, with the end of its log; LoopError if the local broker has."""
        if self._broker is not None and not self._broker.alive:
            raise LoopError(
                "the local broker has ended by itself; is there enough memory? Try again, or use --bootstrap"
            )
        for worker in self.workers:
            worker.check()


def _delete(settings: Settings, names: Sequence[str]) -> None:
    with connect(settings) as admin:
        admin.delete_topics(list(names))
