"""What ``clickloop policy propose | promote | rollback | freeze | override | trials`` do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from policies.trial_records import KIND, decode_trials
from policies.trials import Exploring, Trials, Word, said, seen
from streams.policy_words import read_words, write_word
from streams.published import is_held, read_published
from streams.settings import Settings

if TYPE_CHECKING:
    from policies.snapshot import Snapshot


class WordRefused(ValueError):  # noqa: N818 - reads as what it says
    """What was said makes no sense as things stand."""

    retriable = False


def overrides(values: list[str]) -> tuple[str | None, dict[str, float]]:
    """Explorer, None if not given, and rates of ``name=value`` texts.

    >>> overrides(["explorer=softmax", "tau=0.01"])
    ('softmax', {'tau': 0.01})
    >>> overrides(["alpha"])
    Traceback (most recent call last):
    streams.promotion.WordRefused: --set 'alpha': must be NAME=VALUE, for example alpha=0.2
    """
    explorer: str | None = None
    rates: dict[str, float] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not (name and equals and value) or name in rates or (name == "explorer" and explorer is not None):
            raise WordRefused(
                f"--set {text!r}: must be NAME=VALUE, for example alpha=0.2" + (", once a name" if equals else "")
            )
        if name == "explorer":
            explorer = value
            continue
        try:
            rates[name] = float(value)
        except ValueError as error:
            raise WordRefused(f"--set {text!r}: {value!r} is no number; for example alpha=0.2") from error
    return explorer, rates


def say(settings: Settings, policy: str, word: Word) -> dict[str, Any]:
    """Write a word, if it makes sense as things stand; the publisher heeds it and tells in the history. Raises WordRefused."""
    mode = settings.policies[policy].mode
    if mode != "online" and word.kind in ("propose", "override"):
        raise WordRefused(
            f"policy {policy!r} has mode = {mode!r} and decides nothing that could be shared out; set it to 'online' first"
        )
    state, snapshot = _read(settings, policy)
    moved, sticky = (
        _exploring(settings, policy, state, snapshot, by="roll-outs"),
        settings.policies[policy].sticky_canaries,
    )
    for _, pending in read_words(settings).since(policy, state.heard):
        state, _ = said(state, pending, settings=moved, salt="", version=0, sticky=sticky)
    after, what = said(state, word, settings=moved, salt="", version=0, sticky=sticky)
    if after is state:
        raise WordRefused(f"policy {policy!r}: {what}")
    stamped = msgspec.structs.replace(word, time_ms=int(time.time() * 1000))
    write_word(settings, policy, stamped)
    return {
        "policy": policy,
        "said": word.kind,
        "meant": what,
        "next": f"clickloop policy history {policy} tells what came of it",
    }


def told(settings: Settings, policy: str) -> dict[str, Any]:
    """What is tried, and what audits found, as committed last."""
    state, snapshot = _read(settings, policy)
    now = state.exploring(_exploring(settings, policy, state, snapshot, by=settings.policies[policy].explore))
    trying = state.trying
    return {
        "policy": policy,
        "version": None if snapshot is None else snapshot.version,
        "explorer": now.explorer,
        "rates": now.rates,
        "promoted": len(state.adopted),
        "frozen": state.frozen,
        "candidates": state.candidates,
        "candidate": None
        if trying is None
        else {
            "number": trying.canary.number,
            "name": trying.canary.name,
            "share": trying.canary.share,
            "explorer": trying.canary.explorer,
            "rates": trying.canary.rates,
            **(
                {"sticky_s": sticky_s, "late_rows": trying.periods.late, "stray_rows": trying.periods.strays}
                if (sticky_s := trying.canary.sticky_s)
                else {}
            ),
            "evidence": seen(trying),
            "verdict": trying.test.verdict,
        },
        "alarms": state.audit.alarms,
        "audited_rows": state.audit.rows,
        "propensities": {arm: round(state.audit.mean(arm), 4) for arm in state.audit.arms},
        "shares": {
            group: {"meant": one.share, "got": one.inside, "of": one.inside + one.outside}
            for group, one in state.audit.shares.items()
        },
    }


def _exploring(settings: Settings, policy: str, state: Trials, snapshot: Snapshot | None, *, by: str) -> Exploring:
    """How the policy explores where nothing is adopted: as its settings say, or as published if what moves it is ``by``.

    Words start from the rate that roll-outs found, but from the policy's own way whatever choice the top layer drew.
    """
    known = settings.policies[policy]
    moved = known.explore == by != "fixed"
    if not moved or snapshot is None or state.adopted or is_held(snapshot):
        return Exploring(explorer=known.explorer, rates=known.rates)
    return Exploring(explorer=snapshot.explorer, rates=snapshot.rates)


def _read(settings: Settings, policy: str) -> tuple[Trials, Snapshot | None]:
    snapshots, others = read_published(settings)
    record = others.get(policy, {}).get((None, KIND))
    state = Trials() if record is None else decode_trials(record)
    return state, snapshots.get(policy)
