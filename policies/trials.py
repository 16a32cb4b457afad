"""What a policy tries, as a value: the candidate on canary, its test, what was promoted, what people said, and the audits.

A policy's settings say how it explores. A **candidate** is another explorer or other rates; it makes a share of the decisions until its test
(policies/promotion.py) promotes it, or rolls it back. What was promoted is **adopted**: it decides in place of the settings until it is
taken back. Everything that happens is told in words, which go into the head of the snapshot that it made, and so into the history.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from policies.audit import Audit, propensities_audited, share_audited
from policies.canary import CODES, Canary
from policies.explorers import check
from policies.promotion import Trial, evidence, judged, trial
from policies.sticky import Periods, of_test, refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policies.meta_state import Rows
    from policies.promotion import Bits

Kind = Literal["propose", "promote", "rollback", "override", "freeze", "unfreeze"]

SHARE = 0.1
"""Of the decisions that a canary makes, unless it is told."""
NEVER = 2**62
"""A version that does not come."""


class Word(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was said of a policy.

    Attributes:
        kind: what to do.
        explorer, rates: of a proposal or an override; rates that are not given stay. An override without any goes back to the settings.
        share: of the canary.
        sticky_s: for how many seconds units keep its groups; 0 assigns each decision by itself.
        name: of the candidate.
        force: whether an override passes over the guardrails.
        reason: why.
        time_ms: the clock of who said it, ms UTC.
    """

    kind: Kind
    explorer: str | None = None
    rates: dict[str, float] = {}
    share: float | None = None
    sticky_s: int = 0
    name: str = ""
    force: bool = False
    reason: str = ""
    time_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploring:
    """How a policy explores: explorer, and its rates."""

    explorer: str
    rates: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trying:
    """A candidate and its test; decisions count whose snapshot is not older than ``since_version``. ``periods``: if it is sticky."""

    canary: Canary
    test: Trial
    since_version: int
    periods: Periods = field(default_factory=Periods)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """State of one policy.

    Attributes:
        trying: the candidate on canary, None if there is none.
        candidates: how many there have been.
        adopted: what was promoted or said, the newest last; it decides. Empty: the settings do.
        frozen: whether verdicts wait.
        heard: next offset of the controls topic.
        offsets: next offset by partition of the feedback topic.
        audit: of propensities and shares.
        by_visit: first and next version that the last sticky candidate was in; (0, 0) if there was none.
        random_since: first version that shares out as much at random as the settings say now; NEVER until one is published.
    """

    trying: Trying | None = None
    candidates: int = 0
    adopted: tuple[Exploring, ...] = ()
    frozen: bool = False
    heard: int = 0
    offsets: Mapping[int, int] = field(default_factory=dict)
    audit: Audit = field(default_factory=Audit)
    by_visit: tuple[int, int] = (0, 0)
    random_since: int = 0

    def exploring(self, settings: Exploring) -> Exploring:
        """How the policy explores now."""
        return self.adopted[-1] if self.adopted else settings

    @property
    def canary(self) -> Canary | None:
        """What the snapshot says of the candidate."""
        return None if self.trying is None else self.trying.canary


def wanted(word: Word, now: Exploring) -> Exploring:
    """How a word wants to explore, complete. Raises ValueError for what is no explorer or no rate of it.

    >>> wanted(Word(kind="propose", rates={"alpha": 0.2}), Exploring(explorer="ucb", rates={"alpha": 1.0, "epsilon": 0.01})).rates
    {'alpha': 0.2, 'epsilon': 0.01}
    """
    explorer = now.explorer if word.explorer is None else word.explorer
    kept = now.rates if explorer == now.explorer else {"epsilon": now.rates["epsilon"]}
    return Exploring(explorer=explorer, rates=check(explorer, {**kept, **word.rates}))


def said(
    state: Trials,
    word: Word,
    *,
    settings: Exploring,
    salt: str,
    version: int,
    against: tuple[str, ...] = (),
    sticky: bool = False,
) -> tuple[Trials, str]:
    """The state after a word, and what came of it in words.

    Args:
        state: before it.
        word: what was said.
        settings: how the settings let it explore.
        salt: of a new canary, not to be guessed.
        version: of the snapshot that will tell of it.
        against: what guardrails hold against an override.
        sticky: whether units are kept, so that a candidate may be sticky.

    >>> base = Exploring(explorer="thompson", rates={"alpha": 0.3, "epsilon": 0.0})
    >>> state, told = said(Trials(), Word(kind="propose", rates={"alpha": 0.2}), settings=base, salt="s", version=7)
    >>> told
    'candidate 1 (alpha = 0.2) decides 10% of the decisions'
    """
    why = f": {word.reason}" if word.reason else ""
    try:
        wrong = refused(word.sticky_s, kept=sticky)
        if wrong is not None:
            raise ValueError(wrong)
        after, told = _said(state, word, settings, salt, version, against)
    except ValueError as error:
        return state, f"{word.kind} refused: {error}"
    return after, told + why


def judged_rows(
    state: Trials, rows: Rows, *, bounds: tuple[float, float], audit_share: float, audited: bool, least: float | None
) -> tuple[Trials, tuple[str, ...]]:
    """The state after one record of matured rows, and the alarms of audits in words.

    Args:
        state: before these rows.
        rows: with their snapshots and propensities, and groups where they have any.
        bounds: least and largest reward; what lies beyond is cut.
        audit_share: of decisions made at random, by snapshots from ``random_since`` on; what others decided matures still, and is not
            tested.
        audited: whether propensities are.
        least: see `policies.audit.propensities_audited`.
    """
    if rows.snapshot is None or rows.propensity is None:
        return state, ()
    group = np.zeros(len(rows.reward), np.int64) if rows.group is None else rows.group
    audit = state.audit
    alarms: tuple[str, ...] = ()
    if audited:
        exact = np.flatnonzero(_audited(state, rows))
        audit, alarms = propensities_audited(
            audit,
            [rows.arm[i] for i in exact.tolist()],
            rows.propensity[exact],
            least=least,
        )
    if audit_share > 0.0:
        told = (group > 0) & (rows.snapshot >= state.random_since)
        drawn = group[told] == CODES["random"]
        audit, more = share_audited(audit, "the random share", drawn, share=audit_share)
        alarms += more
    trying = state.trying
    if trying is not None and not trying.canary.sticky_s:
        ours = of_test(rows, trying.since_version)
        by_canary = group[ours] == CODES["canary"]
        audit, more = share_audited(audit, f"candidate {trying.canary.number}", by_canary, share=trying.canary.share)
        alarms += more
        reward = np.clip((rows.reward[ours] - bounds[0]) / (bounds[1] - bounds[0]), 0.0, 1.0)
        trying = replace(trying, test=judged(trying.test, by_canary, reward))
    return replace(state, trying=trying, audit=audit), alarms


def shared_out(state: Trials, *, share: float, published: float | None, version: int) -> Trials:
    """The state by which random share the settings have now, and which the newest snapshot has, None if there is none.

    ``version``: of the snapshot that comes next, with the settings' share; NEVER while none can.

    >>> later = shared_out(Trials(), share=0.05, published=0.01, version=7)
    >>> later.random_since, shared_out(later, share=0.05, published=0.05, version=8).random_since
    (7, 7)
    """
    if state.random_since == NEVER or (published is not None and published != share):
        return replace(state, random_since=version)
    return state


def concluded(state: Trials, *, version: int = 0) -> tuple[Trials, str]:
    """The state after the verdict of the test, if there is one and nothing is frozen, and the verdict in words.

    ``version``: of the snapshot that will tell of it.
    """
    trying = state.trying
    if trying is None or state.frozen or not trying.test.verdict:
        return state, ""
    if trying.test.verdict == "promote":
        return _adopted(state, trying, version), f"{_named(trying)} promoted: {seen(trying)}"
    return _ended(state, version), f"{_named(trying)} rolled back: {seen(trying)}"


def seen(trying: Trying) -> str:
    """The evidence of a candidate's test in words."""
    return evidence(trying.test, of="visits" if trying.canary.sticky_s else "decisions")


def _said(
    state: Trials, word: Word, settings: Exploring, salt: str, version: int, against: tuple[str, ...]
) -> tuple[Trials, str]:
    trying, now = state.trying, state.exploring(settings)
    if word.kind in ("freeze", "unfreeze"):
        frozen = word.kind == "freeze"
        told = "frozen: verdicts wait until it is released" if frozen else "released: verdicts count again"
        return replace(state, frozen=frozen), told
    if word.kind == "propose":
        return _proposed(state, word, now, salt, version)
    if word.kind == "promote":
        if trying is None:
            raise ValueError("there is no candidate; propose one first")
        return _adopted(state, trying, version), f"{_named(trying)} promoted by hand: {seen(trying)}"
    if word.kind == "rollback":
        if trying is not None:
            return _ended(state, version), f"{_named(trying)} rolled back by hand: {seen(trying)}"
        if not state.adopted:
            raise ValueError("there is no candidate, and nothing was promoted; the settings decide")
        after = replace(state, adopted=state.adopted[:-1])
        return after, f"rolled back by hand: {_difference(now, after.exploring(settings))}"
    if trying is not None:
        raise ValueError(f"candidate {trying.canary.number} is being tried; promote or roll back first")
    if word.explorer is None and not word.rates:
        return replace(state, adopted=()), f"override ended, the settings decide: {_difference(now, settings)}"
    found = wanted(word, now)
    if against and not word.force:
        raise ValueError(f"{'; '.join(against)}. Propose it as a candidate, or force it")
    return replace(state, adopted=(*state.adopted, found)), f"overridden by hand: {_difference(now, found)}"


def _proposed(state: Trials, word: Word, now: Exploring, salt: str, version: int) -> tuple[Trials, str]:
    if state.trying is not None:
        raise ValueError(f"candidate {state.trying.canary.number} is being tried; promote or roll back first")
    found, number = wanted(word, now), state.candidates + 1
    if found == now:
        raise ValueError(f"it is what decides already: {now.explorer}, {_rates(now.rates)}")
    share = SHARE if word.share is None else word.share
    canary = Canary(
        number=number,
        share=share,
        salt=salt,
        explorer=found.explorer,
        rates=found.rates,
        name=word.name or _difference(now, found, brief=True),
        sticky_s=word.sticky_s,
    )
    trying = Trying(canary=canary, test=trial(number, share=share), since_version=version)
    told = f"{_named(trying)} decides {100 * share:.3g}% of the decisions"
    if not word.sticky_s:
        return replace(state, trying=trying, candidates=number), told
    after = replace(state, trying=trying, candidates=number, by_visit=(version, NEVER))
    return after, f"{told}, those of a visitor alike for {word.sticky_s} s"


def _adopted(state: Trials, trying: Trying, version: int) -> Trials:
    taken = Exploring(explorer=trying.canary.explorer, rates=trying.canary.rates)
    return replace(_ended(state, version), adopted=(*state.adopted, taken))


def _ended(state: Trials, version: int) -> Trials:
    """Without the candidate."""
    since, until = state.by_visit
    return replace(state, trying=None, by_visit=(since, version if until == NEVER else until))


def _audited(state: Trials, rows: Rows) -> Bits:
    """Rows (n,) whose propensities are audited: not estimates, nor what a sticky candidate shares out.

    Given the decisions of the unit before, its group is known, and the mean of 1{arm}/p is not 1 any more.
    """
    exact = np.ones(len(rows.reward), np.bool_) if rows.exact is None else rows.exact
    since, until = state.by_visit
    if rows.unit is None or rows.snapshot is None or since == until:
        return exact
    of_visits: Bits = exact & ~((rows.unit > 0) & (rows.snapshot >= since) & (rows.snapshot < until))
    return of_visits


def _named(trying: Trying) -> str:
    return f"candidate {trying.canary.number} ({trying.canary.name})"


def _difference(before: Exploring, after: Exploring, *, brief: bool = False) -> str:
    """What changes from one to the other."""
    parts = [] if before.explorer == after.explorer else [f"explorer {before.explorer} -> {after.explorer}"]
    for name, value in after.rates.items():
        old = before.rates.get(name)
        if old != value:
            parts.append(f"{name} = {value:g}" if brief or old is None else f"{name} {old:g} -> {value:g}")
    return ", ".join(parts) or "nothing changes"


def _rates(rates: Mapping[str, float]) -> str:
    return ", ".join(f"{name} = {value:g}" for name, value in rates.items())
