"""Which column of a file of logged decisions is which field of an impression and its outcome.

=============== ============================================================ =========================================
field           what it is                                                   without a mapping
=============== ============================================================ =========================================
``arm``         what was shown                                               column ``arm``
``propensity``  with what probability                                        column ``propensity``
``ts``          when: ms UTC, or ISO 8601 (UTC if it names no zone)          column ``ts``
``context``     terms separated by commas: a column (a list is as many as    column ``context``, else none
                it holds), a pattern (``affinity_*``), ``onehot:`` and a
                column or pattern (an entry for each value, sorted),
                ``intercept`` (a constant 1)
``slot``        where                                                        column ``slot``, else "main"
``decision_id`` unique with the slot                                         column ``decision_id``, else row number
``click``       0, false or empty: nothing followed                          column ``click``, else told by ``value``
``value``       of the outcome; without ``click``, 0 or empty: no outcome    column ``value``, else 1
``kind``        of the outcome                                               column ``kind``, else "click"
``outcome_id``  of the outcome                                               column ``outcome_id``, else the kind
``click_ts``    when the outcome was                                         column ``click_ts``, else ``ts``
``snapshot``    version decided from; empty: none                            column ``snapshot``, else 0
=============== ============================================================ =========================================

``field==text`` gives all rows the same value. Without a snapshot version 0 is logged: null with propensity 1 means a
fallback, which stays out of the sums.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from streams.logged import LoggedError

FIELDS = (
    "arm",
    "propensity",
    "ts",
    "context",
    "slot",
    "decision_id",
    "click",
    "value",
    "kind",
    "outcome_id",
    "click_ts",
    "snapshot",
)
REQUIRED = ("arm", "propensity", "ts")
_DEFAULTS = {"slot": "main", "kind": "click", "snapshot": "0"}

Row = Mapping[str, Any]
Read = Callable[[Row], Any]


@dataclass(frozen=True, slots=True)
class Term:
    """A part of the context: ``kind`` "column", "onehot" or "intercept"; ``column`` is empty for the last."""

    kind: str
    column: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """A mapping that fits a file: how to read each field that is there, and the context's terms."""

    policy: str
    read: Mapping[str, Read]
    context: tuple[Term, ...]
    click_given: bool
    value_given: bool

    @property
    def categorical(self) -> tuple[str, ...]:
        """Columns whose values become one-hot entries."""
        return tuple(term.column for term in self.context if term.kind == "onehot")


def fit_columns(mapping: Mapping[str, str], columns: Sequence[str], *, policy: str) -> Columns:
    """Find for every field its column.

    Raises:
        LoggedError: a field or a column that does not exist, or a required field without a column.
    """
    for name in mapping:
        if name not in FIELDS:
            raise LoggedError(f"map {name}={mapping[name]}: there is no field {name!r}{_close(name, FIELDS)}")
    read: dict[str, Read] = {}
    for name in FIELDS:
        spec = mapping.get(name, name if name in columns else f"={_DEFAULTS[name]}" if name in _DEFAULTS else None)
        if spec is None or name == "context":
            continue
        read[name] = _constant(spec[1:]) if spec.startswith("=") else _column(name, spec, columns)
    missing = [name for name in REQUIRED if name not in read]
    if missing:
        raise LoggedError(
            f"no column for {', '.join(missing)}; give --map {missing[0]}=COLUMN for each, of: {_list(columns)}"
        )
    context = mapping.get("context", "context" if "context" in columns else "")
    return Columns(
        policy=policy,
        read=read,
        context=tuple(term for part in context.split(",") if part.strip() for term in _terms(part.strip(), columns)),
        click_given="click" in read,
        value_given="value" in read,
    )


def _terms(text: str, columns: Sequence[str]) -> list[Term]:
    if text == "intercept":
        return [Term("intercept")]
    kind, name = ("onehot", text.removeprefix("onehot:")) if text.startswith("onehot:") else ("column", text)
    if name in columns:
        return [Term(kind, name)]
    found = [column for column in columns if fnmatchcase(column, name)]
    if not found:
        raise LoggedError(f"map context={text}: no column is called so{_close(name, columns)}")
    return [Term(kind, column) for column in found]


def _column(field: str, name: str, columns: Sequence[str]) -> Read:
    if name not in columns:
        raise LoggedError(f"map {field}={name}: there is no column {name!r}{_close(name, columns)}")
    return lambda row: row.get(name)


def _constant(value: str) -> Read:
    return lambda _: value


def _close(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {_list(names)}"


def _list(names: Sequence[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more
