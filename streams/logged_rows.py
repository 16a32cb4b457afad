"""Rows of a logged file to impressions and outcomes, each checked as the learner would check it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from streams.events import Impression, Outcome
from streams.logged import BadRow
from streams.logged_values import category, milliseconds, number, probability, text, truth, version

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streams.mapping import Columns, Row


@dataclass(frozen=True, slots=True)
class Event:
    """What a row says: an impression, and what followed it, if anything did. ``row`` counts from 1."""

    row: int
    impression: Impression
    outcome: Outcome | None


class RowReader:
    """Rows to events.

    Args:
        columns: from `fit_columns`.
        categories: for each one-hot column its values in the order of their entries; an unknown value is a bad row.
        kinds: outcome kinds that the policy lists.
        latest_ms: event times above this are refused, as the learner would refuse them.
    """

    def __init__(
        self,
        columns: Columns,
        *,
        categories: Mapping[str, Sequence[str]],
        kinds: Sequence[str],
        latest_ms: int,
    ) -> None:
        self._columns = columns
        self._categories = {name: {value: i for i, value in enumerate(found)} for name, found in categories.items()}
        self._kinds = kinds
        self._latest_ms = latest_ms

    def event(self, number: int, row: Row) -> Event:
        """What one row says. Raises BadRow with what is wrong."""
        try:
            return self._event(number, row)
        except ValueError as error:
            raise BadRow(number, str(error)) from error

    def _event(self, number: int, row: Row) -> Event:
        read = self._columns.read
        decision_id = text("decision_id", read["decision_id"](row)) if "decision_id" in read else str(number)
        slot = text("slot", read["slot"](row))
        ts = self._time("ts", read["ts"](row))
        impression = Impression(
            decision_id=decision_id,
            slot=slot,
            policy=self._columns.policy,
            snapshot=version(read["snapshot"](row)),
            arm=text("arm", read["arm"](row)),
            propensity=probability(read["propensity"](row)),
            context=self._context(row),
            ts=ts,
        )
        value = self._value(row)
        if value is None:
            return Event(number, impression, None)
        kind = text("kind", read["kind"](row))
        if kind not in self._kinds:
            raise ValueError(
                f"kind is {kind!r}; the policy's outcomes are {', '.join(self._kinds)}; map kind to one of them"
            )
        when = self._time("click_ts", read["click_ts"](row)) if "click_ts" in read else ts
        outcome_id = text("outcome_id", read["outcome_id"](row)) if "outcome_id" in read else kind
        outcome = Outcome(decision_id=decision_id, slot=slot, outcome_id=outcome_id, kind=kind, value=value, ts=when)
        return Event(number, impression, outcome)

    def _value(self, row: Row) -> float | None:
        """The outcome's value; None if nothing followed."""
        read = self._columns.read
        if self._columns.click_given and not truth("click", read["click"](row)):
            return None
        if not self._columns.value_given:
            return 1.0 if self._columns.click_given else None
        given = read["value"](row)
        if given is None or given == "":
            return 1.0 if self._columns.click_given else None
        value = number("value", given)
        return None if value == 0 and not self._columns.click_given else value

    def _context(self, row: Row) -> list[float]:
        x: list[float] = []
        for term in self._columns.context:
            if term.kind == "intercept":
                x.append(1.0)
            elif term.kind == "onehot":
                x.extend(self._one_hot(term.column, row))
            else:
                value = row.get(term.column)
                values = value if isinstance(value, list) else [value]
                x.extend(number(term.column, entry) for entry in values)
        return x

    def _one_hot(self, column: str, row: Row) -> list[float]:
        places = self._categories[column]
        place = places.get(category(row.get(column)))
        if place is None:
            raise ValueError(f"{column} is {row.get(column)!r}, which is none of {', '.join(places)}")
        return [float(i == place) for i in range(len(places))]

    def _time(self, name: str, value: object) -> int:
        ts = milliseconds(name, value)
        if not 0 <= ts <= self._latest_ms:
            raise ValueError(
                f"{name} is {value!r}, which is {ts} ms; allowed: 0 to {self._latest_ms}, five minutes from now"
            )
        return ts
