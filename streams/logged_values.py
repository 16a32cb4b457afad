"""Values of logged files, texts or typed, as what events need; ValueError with the value and what is allowed if not."""

from __future__ import annotations

from datetime import UTC, datetime
from math import isfinite

from streams.events import LARGEST

_FALSE = {"", "0", "0.0", "false", "no", "none", "null"}
_TRUE = {"1", "1.0", "true", "yes"}


def category(value: object) -> str:
    """A categorical value as the text that names it; missing is the empty text."""
    return "" if value is None else str(value)


def text(name: str, value: object) -> str:
    """A name that must not be empty."""
    found = "" if value is None else str(value)
    if not found:
        raise ValueError(f"{name} is empty; it needs at least one character")
    return found


def number(name: str, value: object) -> float:
    """A finite number of a size that sums can hold."""
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        found = float("nan")
    if not isfinite(found):
        raise ValueError(f"{name} is {value!r}; it must be a finite number")
    if not -LARGEST <= found <= LARGEST:
        raise ValueError(f"{name} is {value!r}; allowed: from {-LARGEST:g} to {LARGEST:g}")
    return found


def truth(name: str, value: object) -> bool:
    """Whether something followed: any of the usual words for yes and no."""
    word = "" if value is None else str(value).strip().lower()
    if word in _FALSE:
        return False
    if word in _TRUE:
        return True
    raise ValueError(f"{name} is {value!r}; allowed: 1, true, yes; 0, false, no or nothing. Map amounts to value")


def milliseconds(name: str, value: object) -> int:
    """A time as ms UTC, from ms, ISO 8601 or a datetime.

    >>> milliseconds("ts", "2019-11-24 00:00:34.762830+00:00"), milliseconds("ts", "1574553634762")
    (1574553634762, 1574553634762)
    """
    when = value
    if isinstance(when, str):
        try:
            when = float(when) if when.strip().replace(".", "", 1).isdigit() else datetime.fromisoformat(when.strip())
        except ValueError:
            when = None
    if isinstance(when, datetime):
        zoned = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
        since = zoned - datetime(1970, 1, 1, tzinfo=UTC)
        return since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000
    if isinstance(when, int | float) and not isinstance(when, bool) and isfinite(when):
        return int(when)
    raise ValueError(f"{name} is {value!r}; it must be ms UTC or ISO 8601, like 2024-05-01T12:00:00Z")


def probability(value: object) -> float:
    """A propensity."""
    found = number("propensity", value)
    if not 0 < found <= 1:
        raise ValueError(f"propensity is {value!r}; allowed: above 0, at most 1")
    return found


def version(value: object) -> int | None:
    """A snapshot's version, None where there is none."""
    if value is None or value == "":
        return None
    found = number("snapshot", value)
    if found != int(found) or not 0 <= found < 2**31:
        raise ValueError(f"snapshot is {value!r}; allowed: empty, or a whole number from 0 to {2**31 - 1}")
    return int(found)
