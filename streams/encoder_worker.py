"""The encoder's process: its parts, its health, and how it ends.

Exit codes: 0 after SIGTERM or SIGINT, 1 after an error that needs a person (it is logged).

On SIGTERM
    1. /readyz says no; nothing is read any more.
    2. What was read is encoded, and its answers wait for the brokers, `DRAIN_S` at most.
    3. What is settled is committed. What is not is read again by the next worker.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from streams import logs, topics
from streams.embedding_events import Announcement
from streams.encoder_input import Input
from streams.metrics_server import serve
from streams.settings_errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from encoders.model import Encoder
    from streams.settings import Settings
    from streams.topics import Problem

DRAIN_S = 20.0
DEAF_S = 60.0
STUCK_S = 120.0
UNREADY_S = 15.0
SPINS = "3000"
"""How often torch's threads look for work before they sleep; at libgomp's 300,000 they hold the processor against our own."""

log = logs.get(__name__)


class ExtraMissingError(RuntimeError):
    """A package of an extra is not installed; the text names the extra."""

    retriable = False


def check_settings(settings: Settings, *, alone: bool) -> None:
    """Return if an encoder can be run here.

    Raises:
        SettingsError: there is no encoder in the settings, or this process was to have another role, too.
        ExtraMissingError: torch or transformers is not installed.
    """
    if not alone:
        raise SettingsError("worker encoder: takes a process of its own; start the other roles in another one")
    if settings.encoder.model is None:
        raise SettingsError(
            "encoder.model is not set; name a folder or a Hugging Face id there or by CLICKLOOP_ENCODER__MODEL"
        )
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise ExtraMissingError(f"the encoder needs {' and '.join(missing)}; run pip install 'clickloop[encoder]'")


def problems(settings: Settings) -> list[Problem]:
    """What is wrong with the encoder's topics. Raises BrokerUnreachable."""
    names = settings.topics
    own = {names.embedding_requests, names.embeddings, names.dead_letters}
    return [problem for problem in topics.check(settings) if problem.topic in own]


def run_encoder(settings: Settings) -> int:
    """Run the encoder in this process until a signal or a fatal error; the exit code. Raises ModelError."""
    return EncoderWorker(settings, load_encoder(settings)).run()


def load_encoder(settings: Settings) -> Encoder:
    """The model of the settings, warm. Raises ModelError."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # threads of ours tokenise
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    import torch

    from encoders.heap import keep_memory
    from encoders.model import load

    keep_memory()
    given, began = settings.encoder, time.monotonic()
    if given.threads:
        torch.set_num_threads(given.threads)
    encoder = load(
        str(given.model),
        revision=given.revision,
        dtype=given.dtype,
        max_length=given.max_length,
        pooling=given.pooling,
        device=given.device,
        try_compile=given.compile,
    )
    log.info(
        "model loaded",
        took_s=round(time.monotonic() - began, 1),
        model=given.model,
        fingerprint=encoder.fingerprint,
        precision=encoder.precision,
        device=str(encoder.device),
        padded=encoder.padded,
        compiled=encoder.compiled,
    )
    return encoder


class EncoderWorker:
    """One process: the consumer in the main thread, the pipeline's and the producer's threads beside it."""

    def __init__(self, settings: Settings, encoder: Encoder) -> None:
        from encoders.worker import Pipeline
        from streams.encoder_flow import Flow
        from streams.encoder_known import Known
        from streams.encoder_metrics import EncoderMetrics
        from streams.encoder_output import Output

        given, mark = settings.encoder, encoder.fingerprint
        self._settings = settings
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self.metrics = EncoderMetrics(CollectorRegistry(), budget_tokens=given.budget_tokens)
        self._announcement = Announcement(
            fingerprint=mark,
            dimension=encoder.dimension,
            precision=encoder.precision,
            max_length=encoder.max_length,
            model=str(given.model),
        )
        self._output = Output(settings, fingerprint=mark, dimension=encoder.dimension, fatal=self.fatal)
        self._known = Known(settings, fingerprint=mark)
        self._flow = Flow(
            fingerprint=mark,
            topic=settings.topics.embedding_requests,
            most_text_bytes=given.max_text_bytes,
            seen=self._known.seen,
            output=self._output,
            metrics=self.metrics,
        )
        self._pipeline = Pipeline(
            encoder,
            budget_tokens=given.budget_tokens,
            window_tokens=given.window_tokens,
            threads=given.tokenizer_threads,
            on_done=self._flow.answered,
            on_fatal=self._device_broken,
            watch=self.metrics,
        )
        self._input = Input(
            settings, self._flow, self._pipeline, catch_up=self._catch_up, ended=self._ended, fatal=self.fatal
        )
        self.metrics.queue_texts.set_function(lambda: self._pipeline.texts)
        self.metrics.queue_bytes.set_function(lambda: self._flow.octets)

    def live(self) -> tuple[bool, str]:
        """False when the main loop or the device hangs."""
        deaf, stuck = time.monotonic() - self._input.beat, self._pipeline.silent_s
        if deaf > DEAF_S and not self._ended.is_set():
            return False, f"the main loop has not turned for {deaf:.0f} s"
        if stuck > STUCK_S:
            return False, f"the device has done nothing for {stuck:.0f} s"
        return True, "alive"

    def ready(self) -> tuple[bool, str]:
        """Whether requests are being answered, and if not, why."""
        if self._ended.is_set():
            return False, "ending: nothing is read any more"
        if self._input.why:
            return False, self._input.why
        if self._output.silent_s > UNREADY_S:
            return False, f"the brokers have not acknowledged what was written {self._output.silent_s:.0f} s ago"
        return True, "ready"

    def fatal(self, error: BaseException) -> None:
        """End the process with an error, once."""
        if self._error is None:
            self._error = error
            log.critical(str(error) or repr(error), error=type(error).__name__)
        self._ended.set()

    def run(self) -> int:
        """Read and answer until a signal or an error; then drain. Returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._ended.set())
        gc.freeze()
        host = self._settings.metrics_host
        with serve(
            self.metrics, host=host, port=self._settings.metrics_port, live=self.live, ready=self.ready
        ) as server:
            log.info("metrics", url=f"http://{host}:{server.port}/metrics", roles=["encoder"])
            try:
                self._input.follow()
                log.info("stopping")
                if self._error is None:
                    self._drain()
            finally:
                self._input.close()
                self._output.close()
                self._pipeline.close()
        return 0 if self._error is None else 1

    def _catch_up(self, goes_on: Callable[[], bool]) -> None:
        """Read which vectors there are, and say which encoder is at work if the topic does not."""
        came = self._known.catch_up(goes_on)
        if self._ended.is_set():
            return
        log.info("read what is encoded already", keys=came)
        if self._known.announced != self._announcement:
            self._output.announce(self._announcement)
            self._known.announced = self._announcement

    def _device_broken(self, error: BaseException) -> None:
        self.metrics.device_failed.inc()
        self.fatal(error)

    def _drain(self) -> None:
        until = time.monotonic() + DRAIN_S
        self._flow.wait(0, DRAIN_S)
        left = self._output.flush(max(0.1, until - time.monotonic()))
        if left or self._flow.octets:
            log.warning("ending with requests unanswered; they are read again", records=left)
        self._input.commit(wait=True)
