"""Budgets over periods, paced by a price: dual descent (Balseiro & Gur 2019, "Learning in repeated auctions with budgets").

An arm that draws on budget b is worth its value less lambda_b times its cost. Every so often, in event time::

    lambda <- max(0, lambda - eta u (rho dt - spent)/amount),    rho = budget left / time left of the period

with `spent` what was spent in the dt seconds since the last step, and u, the unit of lambda, a typical value per cost. The paper's step
for T decisions in a period is about u/sqrt(T) for a decision that spends amount/T, which is eta = sqrt(T); from a third of that up
it measured alike (benchmarks/allocation.py takes half). What one step can do is limited, eta dt <= period/3, as spending
answers a price only a step later. Periods follow each other from `anchor_ms`, by event time; the price goes on into the
next one, and what comes later for a period that is over is counted as `late`. A budget may be raised, lowered, paused and resumed at any time.

**Bound on overspending.** A budget is closed once its known spending reaches amount - margin (`is_open`). If a decider knows at time t
all that was spent until t - lag, and the last cost that it adds is at time t, then before (t - lag] the budget was below amount -
margin, so with any number of deciders::

    spent < amount - margin + what was spent in (t - lag, t]   <=   amount - margin + cost * (decisions_per_s * lag + 1)

`most_overspent` is the last expression; a margin of that size rules overspending out. Paced spending is near rho a second, so the bound is
near rho lag. Cost that falls due with a click counts when the click does: then `lag` is the delay of clicks as well, or the
margin holds what clicks on impressions still pending would cost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

ETA = 50.0
"""eta for 10^4 decisions in a period."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A budget and its price, as they are after the last step.

    Attributes:
        amount: what may be spent in a period, in units of cost.
        period_s: length of a period in seconds.
        anchor_ms: where a period begins, ms UTC.
        paused: whether nothing may draw on it now.
        period: number of the present period, from the anchor.
        spent: what was spent in it.
        stepped_ms: event time of the last step of the price.
        recent: what was spent since then.
        price: lambda, value per cost.
        late: spending that came for periods which were over.
    """

    amount: float
    period_s: float
    anchor_ms: int = 0
    paused: bool = False
    period: int = 0
    spent: float = 0.0
    stepped_ms: int = 0
    recent: float = 0.0
    price: float = 0.0
    late: float = 0.0

    @property
    def left(self) -> float:
        """What may still be spent in the period; below zero if more was."""
        return self.amount - self.spent

    @property
    def overspent(self) -> float:
        """What was spent beyond the amount, 0 if nothing."""
        return max(-self.left, 0.0)

    @property
    def ends_ms(self) -> float:
        """End of the period, ms UTC; the next one begins there."""
        return self.anchor_ms + (self.period + 1) * self.period_s * 1000.0


def budget(amount: float, *, period_s: float, now_ms: int, anchor_ms: int = 0, price: float = 0.0) -> Budget:
    """A budget of which nothing is spent.

    Raises:
        ValueError: an amount below 0, a period that is not above 0, or a price below 0.

    >>> day = budget(100.0, period_s=86_400.0, now_ms=90_000_000)
    >>> day.period, day.left
    (1, 100.0)
    """
    _check_amount(amount)
    if not (0.0 < period_s < float("inf") and 0.0 <= price < float("inf")):
        raise ValueError(
            f"period_s = {period_s}, price = {price}: the period must be above zero, the price not negative"
        )
    first = Budget(amount=amount, period_s=period_s, anchor_ms=anchor_ms, stepped_ms=now_ms, price=price)
    return replace(first, period=_period(first, now_ms))


def changed(state: Budget, *, amount: float | None = None, paused: bool | None = None) -> Budget:
    """The budget raised or lowered, paused or resumed; None leaves it. What was spent stays spent.

    >>> changed(budget(100.0, period_s=60.0, now_ms=0), amount=150.0, paused=True).left
    150.0
    """
    if amount is not None:
        _check_amount(amount)
        state = replace(state, amount=amount)
    return state if paused is None else replace(state, paused=paused)


def charged(state: Budget, cost: float, *, ts: int) -> Budget:
    """After a cost at event time `ts`, in any order; negative for one that is taken back (refund, invalid traffic).

    >>> minute = charged(budget(10.0, period_s=60.0, now_ms=0), 4.0, ts=59_999)
    >>> minute.left, charged(minute, 1.0, ts=60_000).left, charged(charged(minute, 1.0, ts=60_000), 2.0, ts=1).late
    (6.0, 9.0, 2.0)
    """
    if not abs(cost) < float("inf"):
        raise ValueError(f"cost = {cost}: must be finite")
    period = _period(state, ts)
    if period < state.period:
        return replace(state, late=state.late + cost)
    state = rolled(state, now_ms=ts)
    return replace(state, spent=state.spent + cost, recent=state.recent + cost)


def rolled(state: Budget, *, now_ms: int) -> Budget:
    """In the period of `now_ms`, if that is a later one: nothing spent, the price as it was."""
    period = _period(state, now_ms)
    if period <= state.period:
        return state
    start = round(state.anchor_ms + period * state.period_s * 1000.0)
    return replace(state, period=period, spent=0.0, recent=0.0, stepped_ms=start)


def stepped(state: Budget, *, now_ms: int, eta: float = ETA, unit: float = 1.0) -> Budget:
    """After a step of the price at event time `now_ms`; without effect where no time has passed.

    Args:
        state: with all costs until then charged.
        now_ms: ms UTC.
        eta: price per share of the amount, in units of `unit`.
        unit: u, a typical value per cost.

    >>> slow = stepped(charged(budget(100.0, period_s=100.0, now_ms=0), 3.0, ts=500), now_ms=1000)
    >>> round(slow.price, 3)  # twice too much, of 1 that was due: 100 * 2/100, limited to a third of that by dt
    0.667
    """
    state = rolled(state, now_ms=now_ms)
    seconds = (now_ms - state.stepped_ms) / 1000.0
    if seconds <= 0.0:
        return state
    if state.paused or state.amount <= 0.0:
        return replace(state, stepped_ms=now_ms, recent=0.0)
    time_left = (state.ends_ms - state.stepped_ms) / 1000.0
    due = max(state.left + state.recent, 0.0) * min(seconds / time_left, 1.0)
    gain = unit * min(eta, state.period_s / (3.0 * seconds))
    price = max(0.0, state.price - gain * (due - state.recent) / state.amount)
    return replace(state, price=price, stepped_ms=now_ms, recent=0.0)


def is_open(state: Budget, *, now_ms: int, margin: float = 0.0) -> bool:
    """Whether arms may draw on it: not paused, and its spending below amount - margin.

    >>> spent = charged(budget(10.0, period_s=60.0, now_ms=0), 9.0, ts=1)
    >>> is_open(spent, now_ms=2), is_open(spent, now_ms=2, margin=1.0), is_open(spent, now_ms=60_000)
    (True, False, True)
    """
    now = rolled(state, now_ms=now_ms)
    return not now.paused and now.spent < now.amount - margin


def most_overspent(*, cost: float, decisions_per_s: float, lag_s: float) -> float:
    """Bound on spending beyond amount - margin, by all deciders together.

    Args:
        cost: the most that one decision can draw on the budget, all its slots together.
        decisions_per_s: the most decisions that draw on it, of all deciders.
        lag_s: age of the newest spending that every decider knows of.

    >>> most_overspent(cost=0.01, decisions_per_s=200.0, lag_s=2.0)
    4.01
    """
    return cost * (decisions_per_s * lag_s + 1.0)


def _period(state: Budget, ts: int) -> int:
    return int((ts - state.anchor_ms) // (state.period_s * 1000.0))


def _check_amount(amount: float) -> None:
    if not 0.0 <= amount < float("inf"):
        raise ValueError(f"amount = {amount}: a budget must be finite and not negative; pause it to spend nothing")
