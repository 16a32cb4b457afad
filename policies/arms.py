"""Arms that come and go: what was said of each by hand, and which sums a snapshot is made of because of it.

The sums are never touched. A renamed arm's sums count for its new name, over chains of renames; a removed arm is left out; an
arm that was added has sums of no rows, so that it starts from the prior; a paused arm keeps learning and is not shown.
Everything can be taken back by saying something else, because it is only read here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from policies.sums import Model, Sums

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

State = Literal["active", "paused", "removed"]


class Control(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was said last of one arm.

    Attributes:
        state: "active", "paused" (learns, is not shown) or "removed" (neither shown nor in snapshots).
        renamed_to: the name that its sums count for; the arm itself does not exist any more. None if it was not renamed.
        changed_ms: time of the last announced change, ms UTC, None if there was none.
        reason: in words, why.
        time_ms: the clock of who said it, ms UTC.
    """

    state: State = "active"
    renamed_to: str | None = None
    changed_ms: int | None = None
    reason: str = ""
    time_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """What a snapshot is made of.

    Attributes:
        sums: of every arm that it has, paused ones included.
        paused: those of them that are not shown.
        gone: names that do not exist any more, removed or renamed away, although somebody may still give them.
        renamed: name that the sums of each renamed arm count for.
        announced: time of the last announced change of each arm that has had one, ms UTC.
    """

    sums: dict[str, Sums]
    paused: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    renamed: dict[str, str] = field(default_factory=dict)
    announced: dict[str, int] = field(default_factory=dict)


class Shown(Protocol):
    """Of a snapshot, what `reasons` compares: its arms, and which are paused or gone."""

    @property
    def names(self) -> tuple[str, ...]: ...  # noqa: D102  # see `policies.snapshot.Snapshot`
    @property
    def paused(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def gone(self) -> tuple[str, ...]: ...  # noqa: D102


def renames(controls: Mapping[str, Control]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The last name of each renamed arm, and the arms whose renames never end, which stand as they were.

    >>> renames({"a": Control(renamed_to="b"), "b": Control(renamed_to="c"), "x": Control(renamed_to="x")})
    ({'a': 'c', 'b': 'c'}, ('x',))
    """
    last: dict[str, str] = {}
    circular: list[str] = []
    for arm in sorted(controls):
        passed = [arm]
        while (control := controls.get(passed[-1])) is not None and control.renamed_to is not None:
            if control.renamed_to in passed:
                circular.append(arm)
                break
            passed.append(control.renamed_to)
        else:
            if len(passed) > 1:
                last[arm] = passed[-1]
    return last, tuple(circular)


def roster(model: Model, merged: Mapping[str, Sums], controls: Mapping[str, Control], *, arms: Iterable[str]) -> Roster:
    """What a snapshot is made of.

    Args:
        model: of the sums.
        merged: sums by arm, under the names that impressions were logged with.
        controls: what was said of the arms.
        arms: that exist before any impression.

    >>> from policies.model import make_model
    >>> made = roster(make_model("beta", dimension=0), {}, {"a": Control(state="paused"), "b": Control(renamed_to="c")}, arms=())
    >>> list(made.sums), made.paused, made.gone
    (['a', 'c'], ('a',), ('b',))
    """
    last, _ = renames(controls)
    removed = {arm for arm, control in controls.items() if control.state == "removed" and arm not in last}
    gone = removed | set(last)
    parts: dict[str, list[Sums]] = {}
    for arm in dict.fromkeys((*arms, *sorted(merged.keys() | controls.keys()))):
        name = last.get(arm, arm)
        if name not in removed:
            parts.setdefault(name, []).extend([merged[arm]] if arm in merged else [])
    sums: dict[str, Sums] = {arm: reduce(model.merge, some) if some else model.zero() for arm, some in parts.items()}
    return Roster(
        sums=sums,
        paused=tuple(sorted(arm for arm in sums if arm in controls and controls[arm].state == "paused")),
        gone=tuple(sorted(gone)),
        renamed=last,
        announced={
            arm: control.changed_ms
            for arm, control in sorted(controls.items())
            if control.changed_ms is not None and arm in sums
        },
    )


def reasons(controls: Mapping[str, Control], before: Shown | None, after: Roster) -> tuple[str, ...]:
    """What happened to the arms since a snapshot, in words.

    >>> reasons({"a": Control(state="paused", reason="budget spent")}, None, Roster(sums={}, paused=("a",)))
    ("arm 'a' paused: budget spent",)
    """
    told = []
    for arm in sorted({*controls, *(() if before is None else (*before.paused, *before.gone))}):
        what = _what(arm, controls.get(arm), before, after)
        if what is not None:
            why = controls[arm].reason if arm in controls else ""
            told.append(f"arm {arm!r} {what}" + (f": {why}" if why else ""))
    return tuple(told)


def _what(arm: str, control: Control | None, before: Shown | None, after: Roster) -> str | None:
    paused, gone, names = ((), (), ()) if before is None else (before.paused, before.gone, before.names)
    if arm in after.gone:
        if arm in gone:
            return None
        return "removed" if control is None or control.renamed_to is None else f"renamed to {control.renamed_to!r}"
    if arm in after.paused:
        return None if arm in paused else "paused"
    if arm in paused and arm in after.sums:
        return "resumed"
    if arm in gone:
        return "is an arm again" if arm in after.sums else "forgotten"
    return "added" if arm in after.sums and arm not in names else None


def showable(candidates: Collection[str], hidden: Collection[str]) -> tuple[str, ...]:
    """The candidates that may be shown, in their order.

    >>> showable(("a", "b", "c"), {"b"})
    ('a', 'c')
    """
    return tuple(name for name in candidates if name not in hidden)
