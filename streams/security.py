"""How each Kafka client spells the same connection: addresses, TLS and SASL."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streams.settings import Settings


def librdkafka(settings: Settings) -> dict[str, Any]:
    """Return the settings of a confluent-kafka client. They hold the password in clear: never log them."""
    config: dict[str, Any] = {
        "bootstrap.servers": settings.bootstrap,
        "security.protocol": settings.security_protocol.lower(),
        "sasl.mechanism": settings.sasl_mechanism,
        "sasl.username": settings.sasl_username,
        "sasl.password": _password(settings),
        "ssl.ca.location": _path(settings.ssl_cafile),
        "ssl.certificate.location": _path(settings.ssl_certfile),
        "ssl.key.location": _path(settings.ssl_keyfile),
    }
    return {key: value for key, value in config.items() if value is not None}


def kafka_python(settings: Settings) -> dict[str, Any]:
    """Return the keyword arguments of a kafka-python client. They hold the password in clear: never log them."""
    config: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap.split(","),
        "security_protocol": settings.security_protocol,
        "sasl_mechanism": settings.sasl_mechanism,
        "sasl_plain_username": settings.sasl_username,
        "sasl_plain_password": _password(settings),
        "ssl_cafile": _path(settings.ssl_cafile),
        "ssl_certfile": _path(settings.ssl_certfile),
        "ssl_keyfile": _path(settings.ssl_keyfile),
    }
    return {key: value for key, value in config.items() if value is not None}


def aiokafka(settings: Settings) -> dict[str, Any]:
    """Return the keyword arguments of an aiokafka client. They hold the password in clear: never log them."""
    config: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap.split(","),
        "security_protocol": settings.security_protocol,
        "sasl_mechanism": settings.sasl_mechanism,
        "sasl_plain_username": settings.sasl_username,
        "sasl_plain_password": _password(settings),
        "ssl_context": ssl_context(settings),
    }
    return {key: value for key, value in config.items() if value is not None}


def ssl_context(settings: Settings) -> ssl.SSLContext | None:
    """Return the TLS context that the settings describe, or None when the protocol is without TLS."""
    if "SSL" not in settings.security_protocol.split("_"):
        return None
    context = ssl.create_default_context(cafile=_path(settings.ssl_cafile))
    if settings.ssl_certfile is not None:
        context.load_cert_chain(str(settings.ssl_certfile), _path(settings.ssl_keyfile))
    return context


def _password(settings: Settings) -> str | None:
    return None if settings.sasl_password is None else settings.sasl_password.get_secret_value()


def _path(path: object | None) -> str | None:
    return None if path is None else str(path)
