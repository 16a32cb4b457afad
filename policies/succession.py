"""A policy that learns beside the one that it is to succeed, and takes over when it has enough data.

Sums hold inside one fingerprint only (Riquelme et al. 2018, section 2: a new representation makes the posterior anew), so a policy
with another encoder, projection or features starts empty. It learns on a share of the decisions, which the old policy makes.

It is due when its n_eff, the decayed weight of rows that count, is at least `enough` of the old one's and at least `least`. With
a share s the ratio of the two tends to s/(1 - s), whatever is forgotten, so that `enough` must be below that.
"""

from __future__ import annotations

import hashlib


def is_due(new: float, old: float, *, enough: float, least: float) -> bool:
    """Whether a policy with n_eff `new` takes over from one with `old`.

    >>> is_due(499.0, 1000.0, enough=0.5, least=100.0), is_due(500.0, 1000.0, enough=0.5, least=100.0)
    (False, True)
    """
    return new >= max(enough * old, least)


def most_enough(share: float) -> float:
    """What the ratio of both n_eff tends to under a share of the decisions, in (0, 1).

    >>> most_enough(0.2)
    0.25
    """
    return share / (1.0 - share)


def learns(decision_id: str, policy: str, share: float) -> bool:
    """Whether the new policy learns from a decision: drawn by its id, all slots alike, with this probability.

    >>> sum(learns(f"d{i}", "front-2", 0.25) for i in range(10_000))
    2510
    """
    digest = hashlib.blake2b(f"{policy}\n{decision_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < share * 2.0**64
