"""`clickloop replay`: logged decisions through the topics, and what the learner made of them.

Nothing is sent before the whole file was read once and every row found usable. Event time stays the file's; the time of
the Kafka records is the producer's clock, so that retention does not delete an old log while it is sent.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streams import topics
from streams.checkpoints import Checkpoints, behind, total
from streams.delivery import NotDelivered
from streams.local_loop import LocalLoop
from streams.logged import LoggedError, open_logged
from streams.logged_rows import Event
from streams.mapping import fit_columns
from streams.replay_report import Learned, learned, show
from streams.replay_send import Sender, Sent
from streams.settings import PolicySettings
from streams.settings_policy import UnknownPolicyError
from streams.survey import Context, Log, Survey, make_log, read_context, survey

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from streams.settings import Settings

AHEAD_MS = 5 * 60 * 1000
"""How far event time may lie ahead of the clock; the learner refuses more."""


class ReplayError(RuntimeError):
    """The log could not be replayed; the text says why and what to do."""

    retriable = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What a replay did: rows of the file, what was sent, and the change of the learner's counts by it."""

    survey: Survey
    sent: Sent
    counts: Mapping[str, int]
    impressions: Mapping[str, int]
    seconds: float
    learned: Learned


def run_replay(
    settings: Settings,
    file: str | Path,
    *,
    policy: str,
    columns: Mapping[str, str] | None = None,
    speed: float | None = None,
    limit: int | None = None,
    skip_bad: bool = False,
    local: bool = False,
    wait_s: float = 60.0,
    json: bool = False,
    clock: Callable[[], float] = time.time,
) -> Replayed:
    """Send a file, wait until the learner has committed all of it, print what was learned, and return it.

    Args:
        settings: where the topics are, and the policy's settings.
        file: see `streams.logged`.
        policy: name of the policy that learns from the log.
        columns: field -> column, see `streams.mapping`.
        speed: seconds of event time in a second; 0 or None is as fast as it goes.
        limit: rows to read at most.
        skip_bad: leave bad rows out instead of refusing the file.
        local: use a broker and a learner of its own, for as long as it takes. A policy that the settings do not have is
            then linear, with the dimension of the mapped context.
        wait_s: seconds without progress of the learner after which waiting ends.
        json: print one JSON object instead of tables.
        clock: seconds since the epoch.

    Raises:
        UnknownPolicyError: there is no such policy.
        LoggedError: the file, the mapping or a row cannot be used; nothing was sent.
        ReplayError: the topics are not right, or the learner does not come along.
    """
    opened = open_logged(file)
    fitted = fit_columns(columns or {}, opened.columns, policy=policy)
    context = read_context(opened, fitted, limit=limit)
    rules = policy_for(settings, policy, context if local else None)
    latest_ms = int(clock() * 1000) + AHEAD_MS
    log = make_log(opened, fitted, context, policy=rules, limit=limit, latest_ms=latest_ms)
    found = survey(log, context.features)
    refuse_bad(found, file, skip_bad=skip_bad, undone="sent")
    with ExitStack() as stack:
        if local:
            alone = settings.model_copy(update={"policies": {policy: rules}})
            settings = stack.enter_context(LocalLoop(alone, own_broker=True, roles=("learner",))).settings
        replayed = _through(settings, log, found, policy=policy, speed=speed or 0.0, wait_s=wait_s, quiet=json)
    show(replayed, policy=policy, json=json, kept=not local)
    return replayed


def policy_for(settings: Settings, policy: str, context: Context | None) -> PolicySettings:
    """The policy's settings; made for the context if there are none and a context is given. Raises UnknownPolicyError."""
    rules = settings.policies.get(policy)
    if rules is not None:
        return rules
    if context is not None:
        d = len(context.features)
        return PolicySettings(model="linear" if d else "beta", dimension=d, intercept=context.intercept)
    raise UnknownPolicyError(policy, known=settings.policies)


def refuse_bad(found: Survey, file: str | Path, *, skip_bad: bool, undone: str) -> None:
    """Raise LoggedError with the first bad rows, if they are not to be left out, or if there is no other; nothing was `undone`."""
    if found.bad_rows and not skip_bad:
        more = f"{found.bad_rows} of {found.bad_rows + found.rows} rows cannot be used and nothing was {undone}"
        lines = [*map(str, found.bad), f"{more}; correct them, or leave them out with --skip-bad"]
        raise LoggedError("\n".join(f"{file}: {line}" for line in lines))
    if not found.rows:
        raise LoggedError(f"{file} has no usable row")


def _through(
    settings: Settings, log: Log, found: Survey, *, policy: str, speed: float, wait_s: float, quiet: bool
) -> Replayed:
    """Send, wait, and read what was learned."""
    wrong = [str(problem) for problem in topics.check(settings) if problem.error]
    if wrong:
        raise ReplayError("\n".join(wrong))
    rules = settings.policies[policy]
    begun = time.monotonic()
    with Checkpoints(settings) as checkpoints:
        before = checkpoints.read_all()
        _refuse_old(before, found, rules)
        sent = _send(settings, log, found, rules, speed=speed, quiet=quiet)
        after = wait_covered(checkpoints, sent, wait_s=wait_s)
    return Replayed(
        survey=found,
        sent=sent,
        counts=_difference(total(after, "counts"), total(before, "counts")),
        impressions=_difference(total(after, "impressions"), total(before, "impressions")),
        seconds=time.monotonic() - begun,
        learned=learned(settings, policy, mean_context=found.mean_context),
    )


def _refuse_old(before: Mapping[int, Mapping[str, Any]], found: Survey, rules: PolicySettings) -> None:
    marks = [record["watermark"] for record in before.values() if record.get("watermark") is not None]
    if found.first_ms is None or not marks or found.first_ms + round(rules.kept_s * 1000) > max(marks):
        return
    raise ReplayError(
        f"the topics have seen event time {max(marks)} ms and the log begins at {found.first_ms} ms: its windows have "
        "closed, and the learner would refuse it. Use topics of its own: another prefix (CLICKLOOP_PREFIX) for worker "
        "and replay"
    )


def _send(settings: Settings, log: Log, found: Survey, rules: PolicySettings, *, speed: float, quiet: bool) -> Sent:
    from rich.console import Console
    from rich.progress import Progress

    sender = Sender(settings, window_s=rules.window_s, speed=speed)
    try:
        with Progress(console=Console(stderr=True), disable=quiet, transient=True) as bar:
            task = bar.add_task("sending", total=found.rows)
            events = (event for event in log.events() if isinstance(event, Event))
            return sender.send(events, progress=lambda rows: bar.update(task, completed=rows))
    except NotDelivered as error:
        raise ReplayError(
            f"{error}; what was delivered before stays in the topics. When the brokers are back, replay the whole file into topics "
            "of its own: another prefix (CLICKLOOP_PREFIX) for worker and replay"
        ) from error
    finally:
        sender.close()


def wait_covered(checkpoints: Checkpoints, sent: Sent, *, wait_s: float) -> dict[int, dict[str, Any]]:
    """Wait until the committed offsets cover everything sent; return the checkpoints then.

    Raises:
        ReplayError: they did not move for `wait_s`.
    """
    now = checkpoints.poll()
    missing, moved_s = behind(now, sent.ends), time.monotonic()
    while missing:
        now = checkpoints.poll(0.1)
        left = behind(now, sent.ends)
        if left != missing:
            missing, moved_s = left, time.monotonic()
        elif time.monotonic() - moved_s > wait_s:
            where = ", ".join(f"{side}-{partition}" for side, partition in sorted(missing))
            raise ReplayError(
                f"everything was sent, but the learner has {sum(missing.values())} records to go ({where}) and has not "
                f"moved for {wait_s:g} s; is one running (clickloop worker learner)? It will take them when it does"
            )
    return now


def _difference(after: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    return {name: value - before.get(name, 0) for name, value in after.items()}
