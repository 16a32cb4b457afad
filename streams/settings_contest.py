"""Which policies compete for whose decisions.

[policies.front-2]
model = "logistic"
contends = "front"                # decides a share of front's decisions, by what it earns
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.contest import MOST
from streams.settings_exploring import earning_nothing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streams.settings_policy import PolicySettings


def contenders_of(policies: Mapping[str, PolicySettings], policy: str) -> tuple[str, ...]:
    """Names of the policies that contend for a policy's decisions, in the order of the settings."""
    return tuple(name for name, known in policies.items() if known.contends == policy)


def contest_problem(policies: Mapping[str, PolicySettings]) -> str | None:
    """What is wrong with who contends for whose decisions in words, None if nothing is."""
    for name, policy in policies.items():
        asked = policy.contends
        if asked is None:
            continue
        where = f"policies.{name}.contends = {asked!r}"
        if asked not in policies or asked == name:
            return f"{where}: there is no such other policy; name the one that ad servers ask for"
        wrong = _unfit(policies, name, asked)
        if wrong:
            return f"{where}: {wrong}"
    return None


def _unfit(policies: Mapping[str, PolicySettings], name: str, asked: str) -> str:
    policy, other = policies[name], policies[asked]
    if other.contends is not None:
        return f"{asked!r} itself contends for {other.contends!r}; contend for that one"
    succeeding = {known.succeeds for known in policies.values()}
    if {policy.succeeds, other.succeeds} != {None} or {name, asked} & succeeding:
        return "a policy that succeeds another, or is succeeded, cannot compete; wait until that is over"
    if policy.mode != "online" or other.mode != "online":
        return f"modes are {policy.mode!r} and {other.mode!r}; only policies that are online decide"
    if policy.budgets or policy.caps or other.budgets or other.caps:
        return "budgets and caps count by policy and would not hold for both together; leave them out, or do without contenders"
    if (policy.features is None) != (other.features is None) or (
        policy.features is None and policy.dimension != other.dimension
    ):
        return (
            f"one request must make the context of either: give both [features], or both the same dimension (they are {policy.dimension} and "
            f"{other.dimension})"
        )
    for one in (asked, name):
        nothing = earning_nothing(policies[one])
        if nothing:
            return (
                f"{one!r} has {nothing}: policies are compared by rewards from 0 to the largest one, which must be above 0; give an outcome that is "
                "worth more than 0, and reward_bounds that allow it, or leave contends out"
            )
    number = len(contenders_of(policies, asked))
    return f"{number} policies contend for it; at most {MOST} may" if number > MOST else ""
