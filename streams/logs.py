"""Logging: structlog for our own lines, and the lines of Faust, aiokafka and kafka-python in the same form."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, TextIO

import structlog

if TYPE_CHECKING:
    from structlog.typing import Processor

    from streams.settings import Settings

_QUIET = {
    "kafka": logging.CRITICAL,
    "aiokafka": logging.WARNING,
    "faust": logging.WARNING,
    "mode": logging.WARNING,
    "matplotlib": logging.WARNING,
}
"""Loggers of libraries that tell more than their users want, and the least level that passes unless we debug."""


REPEAT_S = 10.0
"""Seconds in which a library's line of the same wording is logged once."""


class Repeats(logging.Filter):
    """Lets one line of each wording of a library pass in `REPEAT_S`, and says then how many were left out.

    Without brokers aiokafka logs a hundred lines a second that differ in nothing but their time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[tuple[str, str], float] = {}
        self._left_out: dict[tuple[str, str], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is logged."""
        if record.name.split(".")[0] not in _QUIET or record.exc_info:
            return True
        wording = (record.name, str(record.msg))
        if record.created - self._passed.get(wording, float("-inf")) < REPEAT_S:
            self._left_out[wording] = self._left_out.get(wording, 0) + 1
            return False
        self._passed[wording] = record.created
        left_out = self._left_out.pop(wording, 0)
        if left_out:
            record.msg, record.args = f"{record.getMessage()} (and {left_out} more like it)", None
        return True


def configure(settings: Settings, *, stream: TextIO | None = None) -> None:
    """Send all log lines to `stream` (stderr if None) as `log_format` and `log_level` say. Call once, at the start.

    Standard output stays free for what a command prints.
    """
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    target = sys.stderr if stream is None else stream
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(settings, target)],
        )
    )
    if level > logging.DEBUG:
        handler.addFilter(Repeats())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(level if level <= logging.DEBUG else max(level, least))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _rendering(settings: Settings, target: TextIO) -> list[Processor]:
    if settings.log_format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return [structlog.dev.ConsoleRenderer(colors=target.isatty(), exception_formatter=structlog.dev.plain_traceback)]


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of the module `name`; it takes an event and its values: `log.info("joined", rows=3)`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


get = get_logger
