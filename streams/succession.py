"""Which policy makes a decision and which one learns from it, and the publisher's part: when a successor takes over.

Until then the old policy decides everything, and a share of its decisions is logged as the successor's: with the successor's
context, the old policy's propensity, and without a snapshot, since versions are each policy's own. From the snapshot on that says
`succeeds` the successor decides. A rollback to a snapshot from before gives the decisions back to the old policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from policies.contest import contender
from policies.succession import is_due, learns
from streams import logs
from streams.settings_contest import contenders_of
from streams.settings_texts import line_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from policies.features import Value
    from policies.snapshot import Snapshot
    from policies.sums import Effective, Sums
    from streams.settings import PolicySettings, Settings


log = logs.get(__name__)


class Route(NamedTuple):
    """Name of the policy whose snapshot decides, and of the one that the impression belongs to."""

    decides: str
    learns: str

    @property
    def apart(self) -> bool:
        """Whether these are two."""
        return self.decides != self.learns


class Routes:
    """Routes of decisions by the policy that is asked for.

    >>> from streams.settings import Settings
    >>> home = {"features": {"numeric": {"hour": {}}}}
    >>> routes = Routes(Settings(policies={"home": home, "home-2": home | {"succeeds": "home"}}))
    >>> [routes.of("home", name, lambda policy: None) for name in ("d1", "d4")]
    [Route(decides='home', learns='home'), Route(decides='home', learns='home-2')]
    """

    def __init__(self, settings: Settings) -> None:
        self._policies = settings.policies
        lines = {name: line_of(settings.policies, name) for name in settings.policies}
        self._lines = {name: line for name, line in lines.items() if len(line) > 1}
        self._contests = {
            name: found for name in settings.policies if (found := contenders_of(settings.policies, name))
        }
        together = self._lines | {name: (name, *found) for name, found in self._contests.items()}
        self._names = {
            name: frozenset(
                feature
                for one in line
                if (features := settings.policies[one].features) is not None
                for feature in features.features.names
            )
            for name, line in together.items()
        }

    def of(self, policy: str, decision_id: str, snapshot: Callable[[str], Snapshot | None]) -> Route:
        """The route of a decision, by the newest snapshots; one of other features than the settings' here decides nothing."""
        line = self._lines.get(policy)
        if line is None:
            decides = self._winner(policy, decision_id, snapshot) if policy in self._contests else policy
            return Route(decides, decides)
        decides = policy
        for name in line[1:]:
            found = snapshot(name)
            mine = found is not None and found.encoder == self._policies[name].fingerprint
            if found is not None and mine and found.succeeds == decides:
                decides = name
                continue
            if learns(decision_id, name, self._policies[name].succession_share):
                return Route(decides, name)
            break
        return Route(decides, decides)

    def _winner(self, policy: str, decision_id: str, snapshot: Callable[[str], Snapshot | None]) -> str:
        """Who decides where others contend: by the shares in the snapshot of the policy that is asked for, which decides for one that cannot."""
        asked = snapshot(policy)
        name = None if asked is None else contender(decision_id, asked.shares)
        if name not in self._contests[policy]:
            return policy
        found = snapshot(name)
        return policy if found is None or found.encoder != self._policies[name].fingerprint else name

    def values(self, asked: str, policy: str, values: Mapping[str, Value]) -> Mapping[str, Value]:
        """Of the values that came for a policy, what one of its line takes: names that another of them has are left out."""
        known = self._policies[policy].features if asked in self._names else None
        if known is None:
            return values
        own, others = known.features.names, self._names[asked]
        return {name: value for name, value in values.items() if name in own or name not in others}


class Successions:
    """The publisher's part: how much data each policy has, and who takes over from whom."""

    def __init__(self, policies: Mapping[str, PolicySettings]) -> None:
        self._policies = {name: policy for name, policy in policies.items() if len(line_of(policies, name)) > 1}
        self._policies |= {name: policy for name, policy in policies.items() if policy.succeeds is not None}
        self._data: dict[str, float] = {}
        self._hidden: dict[str, frozenset[str]] = {}
        self._told: frozenset[str] = frozenset()

    def look(
        self,
        policy: str,
        sums: Mapping[str, Sums],
        snapshot: Snapshot | None,
        read: Callable[[str, Sums], Effective],
        *,
        hidden: Collection[str] = (),
    ) -> tuple[str | None, tuple[str, ...]]:
        """Take what a policy has learned; whom its next snapshot succeeds, and the reason in words if that is new.

        Args:
            policy: its name.
            sums: of its arms.
            snapshot: what it published last.
            read: how the sums of an arm of that name count.
            hidden: arms that are paused or gone. None that the old policy hides may come back by a succession: it waits.
        """
        known = self._policies.get(policy)
        if known is None:
            return None, ()
        self._data[policy] = sum(read(arm, one).n_eff for arm, one in sums.items())
        self._hidden[policy] = frozenset(hidden)
        old = known.succeeds
        if old is None or (snapshot is not None and snapshot.succeeds == old):
            return old, ()
        new_data, old_data = self._data[policy], self._data.get(old)
        if old_data is None or not is_due(
            new_data, old_data, enough=known.succession_enough, least=known.succession_least
        ):
            return None, ()
        back = (self._hidden[old] & sums.keys()) - self._hidden[policy]
        if back:
            if back != self._told:
                log.warning(
                    "a policy is due and waits: pause these arms in it, too, or resume them in the old one",
                    policy=policy,
                    succeeds=old,
                    arms=sorted(back),
                )
            self._told = back
            return None, ()
        why = (
            f"takes over from {old!r}: {new_data:.0f} decayed impressions against {old_data:.0f}, enough is "
            f"{known.succession_enough:g} of these and at least {known.succession_least:g}"
        )
        return old, (why,)
