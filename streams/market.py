"""A market that is known: pages of three slots, arms of campaigns with budgets, and clicks that fall off with the position.

``P(click on arm a in slot l | context x) = kappa_l / (1 + exp(-theta_a . x))``: the world of streams/simulation.py times a position effect.
Budgets are a share of what would be spent on the arms that are worth most, were there no budgets: they run out at about that share of
a period unless somebody paces them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from policies.matching import assignments
from streams.simulation import World, make_world

if TYPE_CHECKING:
    from streams.simulation import FloatArray

SAMPLE = 2_000
"""Pages that budgets are made from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """What the arms of a campaign are worth and cost, in dyadic fractions, so that what they spend adds up to the same bits in every order.

    Attributes:
        name: of the campaign, and of its budget.
        value: worth of a click.
        cost: of an impression.
        click_cost: of a click.
        limited: whether it has a budget.
    """

    name: str
    value: float
    cost: float = 0.0
    click_cost: float = 0.0
    limited: bool = True


CAMPAIGNS = (
    Campaign(name="spring", value=2.0, cost=0.0625),
    Campaign(name="summer", value=1.5, click_cost=0.5),
    Campaign(name="house", value=0.75, limited=False),
)
LEAST_ARMS = 2 * len(CAMPAIGNS)
EFFECTS = {"top": 1.0, "side": 0.625, "foot": 0.375}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Market:
    """Arms, who they belong to, and slots.

    Attributes:
        world: the N arms, and how they are clicked in the first slot.
        campaigns: the C campaigns.
        effects: position effect of each of the L slots, by name.
    """

    world: World
    campaigns: tuple[Campaign, ...] = CAMPAIGNS
    effects: dict[str, float]

    @property
    def campaign_of(self) -> tuple[Campaign, ...]:
        """Of each arm; arms go to the campaigns in turn."""
        return tuple(self.campaigns[i % len(self.campaigns)] for i in range(len(self.world.arms)))

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the slots, from the top."""
        return tuple(self.effects)

    @property
    def kappa(self) -> FloatArray:
        """(L,) position effects."""
        return np.array(list(self.effects.values()))

    def terms(self, name: str) -> FloatArray:
        """(N,) `value`, `cost` or `click_cost` of every arm."""
        return np.array([getattr(one, name) for one in self.campaign_of])

    def clicks(self, contexts: FloatArray) -> FloatArray:
        """Click probability of every arm in every slot: (n, d) -> (n, L, N)."""
        found: FloatArray = self.world.probabilities(contexts)[:, None, :] * self.kappa[:, None]
        return found


def make_market(*, arms: int = 12, seed: int = 0) -> Market:
    """Draw a market. Raises ValueError for fewer arms than two for each campaign.

    >>> market = make_market(arms=6, seed=1)
    >>> [one.name for one in market.campaign_of]
    ['spring', 'summer', 'house', 'spring', 'summer', 'house']
    """
    if arms < LEAST_ARMS:
        raise ValueError(f"arms = {arms}: {len(CAMPAIGNS)} campaigns need at least {LEAST_ARMS}, two each")
    world = make_world(
        arms=arms, dimension=4, seed=seed, base_rate=0.08, feature_sd=0.5, mean_delay_s=0.5, window_s=2.0
    )
    return Market(world=world, effects=dict(EFFECTS))


def spending(market: Market, contexts: FloatArray, prices: dict[str, float] | None = None) -> dict[str, float]:
    """Spending of each campaign a page, where every page shows the arms that are worth most together.

    Args:
        market: whose click probabilities are known here.
        contexts: (n, d) of the pages.
        prices: value per cost of campaigns' budgets, 0 where it says nothing.
    """
    p = market.clicks(contexts)
    price = np.array([(prices or {}).get(one.name, 0.0) for one in market.campaign_of])
    worth = (market.terms("value") - price * market.terms("click_cost")) * p - price * market.terms("cost")
    arms = assignments(worth, np.ones(worth.shape[1:], bool), reserve=0.0)
    page, slot = np.nonzero(np.take_along_axis(worth, arms[:, :, None], axis=2)[:, :, 0] > 0.0)
    arm = arms[page, slot]
    cost = market.terms("cost")[arm] + market.terms("click_cost")[arm] * p[page, slot, arm]
    names = np.array([one.name for one in market.campaign_of])[arm]
    return {one.name: float(cost[names == one.name].sum()) / len(contexts) for one in market.campaigns}


def budgets(market: Market, *, pages: float, share: float, seed: int = 0) -> dict[str, float]:
    """Amount for so many pages of each campaign that has a budget: `share` of what it would spend, in whole quarters.

    >>> two = budgets(make_market(seed=1), pages=1000, share=0.5)
    >>> sorted(two), all(amount > 0 for amount in two.values())
    (['spring', 'summer'], True)
    """
    contexts = market.world.contexts(SAMPLE, rng=np.random.default_rng(seed))
    spent = spending(market, contexts)
    return {
        one.name: max(round(4 * share * pages * spent[one.name]) / 4, 0.25) for one in market.campaigns if one.limited
    }
