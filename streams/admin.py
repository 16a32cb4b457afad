"""A connection to the cluster for administration, with errors that say what to do."""

from __future__ import annotations

import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streams.settings import Settings


class BrokerUnreachable(RuntimeError):  # noqa: N818 - reads as what it says: except BrokerUnreachable
    """No broker answered in time, or it would not let us in. Worth a retry: brokers come back."""

    retriable = True


@contextmanager
def connect(settings: Settings, *, timeout_s: float = 8.0) -> Iterator[Any]:
    """Give a kafka-python admin client and close it afterwards.

    Every request of the client is bounded by `timeout_s` too.

    Raises:
        BrokerUnreachable: no broker answered within `timeout_s`, or one stopped answering later.
    """
    timeout_ms = max(1, int(timeout_s * 1000))
    _knock(settings, timeout_s)
    network: list[KafkaNetClient] = []

    def remembered(**config: Any) -> KafkaNetClient:
        network.append(KafkaNetClient(**config))
        return network[0]

    try:
        client = KafkaAdminClient(
            **settings.kafka_python(),
            client_id="clickloop-admin",
            bootstrap_timeout_ms=timeout_ms,
            request_timeout_ms=timeout_ms,
            kafka_client=remembered,
        )
    except (KafkaError, OSError) as error:
        for started in network:  # a constructor that fails leaves its thread behind, and that goes on connecting
            started.close()
            started._manager._net.stop()  # noqa: SLF001 - as the admin client's own close does
        raise BrokerUnreachable(_unreachable(settings, f"{error} (waited {timeout_s:g} s)")) from error
    try:
        yield client
    except KafkaError as error:
        if error.retriable:
            raise BrokerUnreachable(_unreachable(settings, f"{error} (waited {timeout_s:g} s)")) from error
        raise
    finally:
        client.close()


def _knock(settings: Settings, timeout_s: float) -> None:
    """Refuse at once, with the system's own reason, when no address takes a connection."""
    until = time.monotonic() + timeout_s
    reasons = []
    for address in settings.bootstrap.split(","):
        host, _, port = address.rpartition(":")
        try:
            left_s = max(0.1, until - time.monotonic())
            with socket.create_connection((host.strip("[]"), int(port)), timeout=left_s):
                return
        except OSError as error:
            reasons.append(f"{address} {error.strerror or error}")
    raise BrokerUnreachable(_unreachable(settings, ", ".join(reasons)))


def _unreachable(settings: Settings, reason: str) -> str:
    way_in = f"security_protocol {settings.security_protocol}"
    if settings.sasl_mechanism is not None:
        way_in += f", {settings.sasl_mechanism} as {settings.sasl_username!r}"
    return (
        f"Kafka does not answer at {settings.bootstrap} ({way_in}): {reason}; "
        "check that the brokers run, the address (--bootstrap or CLICKLOOP_BOOTSTRAP), and the security settings"
    )
