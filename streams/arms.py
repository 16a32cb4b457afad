"""What ``clickloop arm`` does: each verb is a new last word on an arm, made from the one before."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from policies.arms import Control, renames
from policies.snapshot_records import BetaArm
from streams.controls import read_controls, write_controls
from streams.published import read_snapshots
from streams.settings_policy import UnknownPolicyError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policies.snapshot import Snapshot
    from streams.settings import Settings


class ArmRefused(ValueError):  # noqa: N818 - reads as what it says
    """What was asked for makes no sense for this arm as it stands."""

    retriable = False


def say(settings: Settings, policy: str, verb: str, arm: str, *, new: str = "", reason: str = "") -> dict[str, Any]:
    """Write what a verb makes of an arm, and return the arm's row of `listed`.

    Args:
        settings: with the policy.
        policy: its name.
        verb: "add", "pause", "resume", "remove", "rename" or "reset".
        arm: its name.
        new: the new name, for "rename".
        reason: in words; it comes with the snapshot.

    Raises:
        UnknownPolicyError: the settings have no such policy.
        ArmRefused: the arm's state does not allow it.
    """
    controls = _controls(settings, policy)
    said = words(controls, verb, arm, new=new, reason=reason, time_ms=int(time.time() * 1000))
    write_controls(settings, policy, said)
    return _row(arm, {**controls, **said}, None, settings, policy)


def words(
    controls: Mapping[str, Control], verb: str, arm: str, *, new: str = "", reason: str = "", time_ms: int
) -> dict[str, Control]:
    """The new last words, by arm, in the order to write them. Raises ArmRefused.

    >>> words({}, "pause", "a", reason="budget spent", time_ms=7)["a"].state
    'paused'
    >>> words({"a": Control(renamed_to="b")}, "rename", "b", new="a", time_ms=7)
    Traceback (most recent call last):
    streams.arms.ArmRefused: arm 'b' cannot be renamed to 'a': ...
    """
    before = controls.get(arm, Control())
    if not arm:
        raise ArmRefused("an arm's name must not be empty")
    if verb == "add":
        return {arm: Control(changed_ms=before.changed_ms, reason=reason, time_ms=time_ms)}
    if before.renamed_to is not None:
        raise ArmRefused(
            f"arm {arm!r} was renamed to {before.renamed_to!r}: name that one, or make {arm!r} an arm of its own by arm add"
        )
    if before.state == "removed":
        raise ArmRefused(f"arm {arm!r} was removed; bring it back by arm add")
    if verb == "rename":
        return _renamed(controls, arm, new, before, reason, time_ms)
    after = {
        "pause": replace(before, state="paused"),
        "resume": replace(before, state="active"),
        "remove": replace(before, state="removed"),
        "reset": replace(before, changed_ms=time_ms),
    }[verb]
    return {arm: replace(after, reason=reason, time_ms=time_ms)}


def _renamed(
    controls: Mapping[str, Control], arm: str, new: str, before: Control, reason: str, time_ms: int
) -> dict[str, Control]:
    target = controls.get(new)
    renamed = Control(renamed_to=new, changed_ms=before.changed_ms, reason=reason, time_ms=time_ms)
    if not new or arm in renames({**controls, arm: renamed})[1]:
        raise ArmRefused(f"arm {arm!r} cannot be renamed to {new!r}: a name that leads back to itself, or an empty one")
    if target is not None and target.state == "removed":
        raise ArmRefused(f"arm {new!r} was removed; bring it back by arm add before {arm!r} is renamed to it")
    first = {new: Control(state=before.state, reason=reason, time_ms=time_ms)} if before.state == "paused" else {}
    return (first if target is None else {}) | {arm: renamed}


def listed(settings: Settings, policy: str) -> list[dict[str, Any]]:
    """Each arm that is known: its state, and its count and mean reward in the newest snapshot.

    The mean is that of a Beta arm, or the weight of the context's constant; None where the policy names none.
    """
    controls = _controls(settings, policy)
    snapshot = read_snapshots(settings).get(policy)
    known = {*settings.policies[policy].arms, *controls, *(() if snapshot is None else snapshot.names)}
    return [_row(arm, controls, snapshot, settings, policy) for arm in sorted(known)]


def _controls(settings: Settings, policy: str) -> dict[str, Control]:
    if policy not in settings.policies:
        raise UnknownPolicyError(policy, known=settings.policies)
    return read_controls(settings).get(policy, {})


def _row(
    arm: str, controls: Mapping[str, Control], snapshot: Snapshot | None, settings: Settings, policy: str
) -> dict[str, Any]:
    control = controls.get(arm, Control())
    record = None if snapshot is None else snapshot.arms.get(arm)
    intercept = settings.policies[policy].intercept
    mean = None
    if isinstance(record, BetaArm):
        mean = record.a / (record.a + record.b)
    elif record is not None and intercept is not None:
        mean = float(record.mean[intercept])
    return {
        "arm": arm,
        "state": "renamed" if control.renamed_to is not None else control.state,
        "renamed_to": control.renamed_to,
        "changed_ms": control.changed_ms,
        "count": None if record is None else record.count,
        "mean": mean,
        "reason": control.reason,
    }
