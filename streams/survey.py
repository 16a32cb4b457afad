"""Reading a logged file once before anything is sent: is every row usable, what does the file hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from streams.events import LARGEST_RECORD, encode
from streams.logged import BadRow, LoggedError, LoggedFile
from streams.logged_rows import Event, RowReader
from streams.logged_values import category

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from streams.mapping import Columns
    from streams.settings import PolicySettings

SHOWN = 5
"""Bad rows that are shown; the others are counted."""


@dataclass(slots=True)
class ArmLog:
    """What the file says of one arm: its impressions, and the outcomes among them."""

    impressions: int = 0
    outcomes: int = 0


@dataclass(slots=True, kw_only=True)
class Survey:
    """What a file holds, bad rows left out.

    Attributes:
        features: (d,) names of the context's entries.
        mean_context: (d,) mean over the rows.
        bad: the first `SHOWN` bad rows; `bad_rows` counts all.
        first_ms, last_ms: smallest and largest event time, None without a row.
    """

    features: tuple[str, ...]
    mean_context: npt.NDArray[np.float64]
    rows: int = 0
    outcomes: int = 0
    bad_rows: int = 0
    bad: list[BadRow] = field(default_factory=list)
    arms: dict[str, ArmLog] = field(default_factory=dict)
    first_ms: int | None = None
    last_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A file, how its rows are read, and how many of them: `events` can be asked any number of times."""

    file: LoggedFile
    reader: RowReader
    limit: int | None
    back_ms: int
    dimension: int  # 0: any

    def events(self) -> Iterator[Event | BadRow]:
        """Yield each row's event in the file's order, or what is wrong with it.

        A row that lies more than `back_ms` of event time before one above it is bad: it might reach the learner after
        its window has closed.
        """
        latest: int | None = None
        for number, row in self.file.rows():
            if self.limit is not None and number > self.limit:
                return
            event = row if isinstance(row, BadRow) else self._event(number, row)
            if isinstance(event, Event):
                ts = event.impression.ts
                if latest is not None and ts < latest - self.back_ms:
                    why = f"ts {ts} lies {latest - ts} ms before a row above; allowed: {self.back_ms} ms"
                    event = BadRow(number, f"{why}. Sort the file by time")
                else:
                    latest = ts if latest is None else max(latest, ts)
            yield event

    def _event(self, number: int, row: Mapping[str, object]) -> Event | BadRow:
        try:
            event = self.reader.event(number, row)
        except BadRow as error:
            return error
        if _takes(event) > LARGEST_RECORD:
            return BadRow(number, f"the event takes {_takes(event)} bytes; a Kafka record may take {LARGEST_RECORD}")
        size = len(event.impression.context)
        if self.dimension in (0, size):
            return event
        return BadRow(number, f"the context has {size} values; the policy has dimension {self.dimension}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """How the context of a file is made: the values of each one-hot column in order, and the features' names (d,)."""

    categories: Mapping[str, Sequence[str]]
    features: tuple[str, ...]

    @property
    def intercept(self) -> int | None:
        """Index of the constant, None without one."""
        return self.features.index("intercept") if "intercept" in self.features else None


def read_context(file: LoggedFile, columns: Columns, *, limit: int | None = None) -> Context:
    """Read what the context's length depends on: all rows for one-hot columns, else the first."""
    categories: dict[str, set[str]] = {name: set() for name in columns.categorical}
    first: Mapping[str, object] | None = None
    for number, row in file.rows():
        if (limit is not None and number > limit) or (first is not None and not categories):
            break
        if not isinstance(row, BadRow):
            first = row if first is None else first
            for name, found in categories.items():
                found.add(category(row.get(name)))
    ordered = {name: sorted(found) for name, found in categories.items()}
    return Context(categories=ordered, features=_features(columns, ordered, first or {}))


def make_log(
    file: LoggedFile,
    columns: Columns,
    context: Context,
    *,
    policy: PolicySettings,
    limit: int | None = None,
    latest_ms: int,
) -> Log:
    """Put together what is needed to read events.

    Raises:
        LoggedError: the context does not have the policy's dimension; says what it is made of.
    """
    if policy.model != "beta" and len(context.features) != policy.dimension:
        raise LoggedError(_dimension_words(columns, context, policy.dimension))
    return Log(
        file=file,
        reader=RowReader(columns, categories=context.categories, kinds=sorted(policy.kinds), latest_ms=latest_ms),
        limit=limit,
        back_ms=round(policy.grace_s * 1000),
        dimension=policy.dimension if policy.model != "beta" else 0,
    )


def _takes(event: Event) -> int:
    """Bytes of the event's largest record; an estimate from above where it is far from the limit."""
    shown = event.impression
    names = (shown.decision_id, shown.slot, shown.arm, event.outcome.outcome_id if event.outcome is not None else "")
    roughly = 6 * sum(map(len, names)) + 32 * len(shown.context) + 1000
    return (
        roughly
        if roughly < LARGEST_RECORD
        else max(len(encode(one)) for one in (shown, event.outcome) if one is not None)
    )


def _features(
    columns: Columns, categories: Mapping[str, Sequence[str]], first: Mapping[str, object]
) -> tuple[str, ...]:
    names: list[str] = []
    for term in columns.context:
        value = first.get(term.column)
        if term.kind == "intercept":
            names.append("intercept")
        elif term.kind == "onehot":
            names.extend(f"{term.column}={value}" for value in categories[term.column])
        elif isinstance(value, list):
            names.extend(f"{term.column}[{i}]" for i in range(len(value)))
        else:
            names.append(term.column)
    return tuple(names)


def _dimension_words(columns: Columns, context: Context, dimension: int) -> str:
    parts = [
        f"{term.column} one-hot {len(context.categories[term.column])}"
        if term.kind == "onehot"
        else term.column or "intercept"
        for term in columns.context[:8]
    ]
    made = ", ".join(parts) + (", ..." if len(columns.context) > len(parts) else "")
    d = len(context.features)
    return (
        f"the context has {d} values ({made or 'no context is mapped'}); policy {columns.policy!r} has dimension "
        f"{dimension}. Set dimension = {d} in its settings, or map another context"
    )


def survey(log: Log, features: tuple[str, ...], *, tell: Callable[[Event], None] | None = None) -> Survey:
    """Read all rows and tell what they are; bad ones are counted, not raised. Each good one is told to ``tell``."""
    found = Survey(features=features, mean_context=np.zeros(len(features)))
    for event in log.events():
        if isinstance(event, Event):
            _add(found, event)
            if tell is not None:
                tell(event)
            continue
        found.bad_rows += 1
        if len(found.bad) < SHOWN:
            found.bad.append(event)
    if found.rows:
        found.mean_context /= found.rows
    return found


def _add(found: Survey, event: Event) -> None:
    ts = event.impression.ts
    found.rows += 1
    found.first_ms = ts if found.first_ms is None else min(found.first_ms, ts)
    found.last_ms = ts if found.last_ms is None else max(found.last_ms, ts)
    if len(found.mean_context):
        found.mean_context += np.array(event.impression.context, np.float64)
    arm = found.arms.setdefault(event.impression.arm, ArmLog())
    arm.impressions += 1
    if event.outcome is not None:
        found.outcomes += 1
        arm.outcomes += 1
