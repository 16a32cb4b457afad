"""From settings to what a partition's state works by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.model import Model, make_model
from streams.attribution_rules import touch_kinds
from streams.blocks import Blocks
from streams.decode import Decoder
from streams.join import Window
from streams.ledgers import tariffs
from streams.references import wants
from streams.settings import PolicySettings, Settings
from streams.state import Rules
from streams.token_check import TokenCheck

if TYPE_CHECKING:
    from collections.abc import Mapping


def rules(settings: Settings) -> Rules:
    """Decoder, windows and models of every policy, numbered afresh: one for each worker process."""
    policies = settings.policies
    decoder = Decoder(
        policies,
        kinds={kind for policy in policies.values() for kind in policy.kinds},
        tokens=token_check(settings),
        attributing={*settings.attributing, *sticky(policies)},
    )
    referring = {name: policy.huber for name, policy in policies.items() if wants(policy)}
    return Rules(
        decoder=decoder,
        windows={name: window(policy) for name, policy in policies.items()},
        models={name: model(policy) for name, policy in policies.items()},
        matured_share={name: policy.matured_share for name, policy in policies.items()},
        telling_units=sticky(policies),
        feature_limit={
            name: policy.feature_limit for name, policy in policies.items() if policy.feature_limit is not None
        },
        ladders={name: tracks(policy) for name, policy in policies.items() if policy.half_lives_s},
        checkpoint_bytes=settings.checkpoint_bytes,
        expire_ms={name: round(policy.expire_s * 1000) for name, policy in policies.items() if policy.expire_s},
        blocks=Blocks(ceiling_bytes=round(settings.pending_memory_mb * 1e6), folder=settings.pending_dir),
        referring=referring,
        tariffs=tariffs(policies),
        kappa={name: policy.kappa for name, policy in policies.items() if policy.positioned},
        partitions=settings.partitions,
        touch_kinds=touch_kinds(settings),
        touch_partitions=settings.partitions,
        topics={"impressions": settings.topics.impressions, "clicks": settings.topics.clicks},
    )


def sticky(policies: Mapping[str, PolicySettings]) -> frozenset[str]:
    """The policies whose matured rows tell the unit."""
    return frozenset(name for name, policy in policies.items() if policy.sticky_canaries)


def token_check(settings: Settings) -> TokenCheck | None:
    """What reads the outcomes' tokens; None if no policy has them on."""
    keys = settings.keys
    on = {name: policy for name, policy in settings.policies.items() if policy.token_window_s}
    if keys is None or not on:
        return None
    dimensions = {name: 0 if policy.model == "beta" else policy.dimension for name, policy in on.items()}
    return TokenCheck(keys, dimensions=dimensions)


def window(policy: PolicySettings) -> Window:
    """Attribution rules in whole milliseconds."""
    return Window(
        window_ms=round(policy.window_s * 1000),
        early_ms=round(policy.early_s * 1000),
        grace_ms=round(policy.grace_s * 1000),
        outcomes=policy.outcomes,
        aggregate=policy.aggregate,
        bounds=policy.reward_bounds,
        unit_limit=policy.unit_limit,
        unit_window_ms=round(policy.unit_window_s * 1000),
        viewable=policy.viewable_kind if policy.counts_on == "viewable" else None,
        retraction_ms=round(policy.retraction_window_s * 1000),
        charged=frozenset(policy.cost_kinds) if policy.ads else None,
        token_ms=round(policy.token_window_s * 1000),
    )


def model(policy: PolicySettings) -> Model:
    """The policy's model, under the first of its half-lives."""
    return next(iter(tracks(policy).values()))


def tracks(policy: PolicySettings) -> dict[float, Model]:
    """The policy's model under each of its half-lives, in their order."""
    return {
        half_life_s: make_model(
            policy.model,
            dimension=policy.dimension,
            half_life_s=half_life_s,
            delays_s=policy.delays_s,
            encoder=policy.fingerprint,
            point=policy.point,
        )
        for half_life_s in policy.half_lives_s or (policy.half_life_s,)
    }
