"""Laws that every model obeys, as functions that assert; the table of those that must is in test_conformance.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np
import pytest
from scipy.special import expit

from policies.decide import decide, law
from policies.empirical_bayes import fit
from policies.model import Model, retract
from policies.posterior import ArmPosterior, BetaPosterior, posterior
from policies.snapshot import Snapshot, assemble, build, decode_arm, decode_head, encode_arm, encode_head
from policies.sums import Effective, RecordError
from tests.policies.batches import ARMS, START_MS, bits, dyadic, shown, take

if TYPE_CHECKING:
    from collections.abc import Callable

    from policies.batch import Batch, FloatArray, IntArray

D = 3
DRAWS = 1_000_000
NOW_MS = START_MS + 45_000
EDGE_MS = START_MS // 256_000 * 256_000 + 236_000
"""Twenty seconds before the landmark moves, for a half-life of one second."""


class Make(Protocol):
    """Makes a model with D features, given half_life_s, delays_s or encoder."""

    def __call__(self, **settings: Any) -> Model: ...


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model to be judged.

    `terms(x)` gives what an impression adds to b and A, (n, D) and (n, D, D); `exact` says that dyadic rows add without
    rounding; `encoded` that contexts matter, so that an encoder's fingerprint does.
    """

    make: Make
    terms: Callable[[FloatArray], tuple[FloatArray, FloatArray]]
    exact: bool = True
    encoded: bool = True


def no_terms(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Beta: the context does not enter."""
    return np.zeros((len(x), 0)), np.zeros((len(x), 0, 0))


def linear_terms(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Nothing to b, x x^T to A."""
    return np.zeros_like(x), x[:, :, None] * x[:, None, :]


def logistic_terms(point: FloatArray) -> Callable[[FloatArray], tuple[FloatArray, FloatArray]]:
    """(v eta - p) x to b, v x x^T to A."""

    def terms(x: FloatArray) -> tuple[FloatArray, FloatArray]:
        eta = x @ point
        p = expit(eta)
        v = p * (1.0 - p)
        return (v * eta - p)[:, None] * x, v[:, None, None] * x[:, :, None] * x[:, None, :]

    return terms


def close(one: Effective, two: Effective, *, exact: bool) -> bool:
    """Whether two readings are the same: to the last bit, or to 1e-12 of the arm's weight."""
    if exact:
        return bits(one) == bits(two)
    assert one.count == two.count
    scale = 1e-12 * max(abs(one.n_eff) + abs(one.reward) + abs(one.square), 1.0)
    pairs = [(getattr(one, name), getattr(two, name)) for name in ("n_eff", "reward", "square", "b", "A")]
    return all(np.allclose(left, right, rtol=0.0, atol=scale) for left, right in pairs)


def _kept(ts: IntArray, half_life_s: float) -> FloatArray:
    weights: FloatArray = np.exp2(-(NOW_MS - ts) / (1000 * half_life_s)) if half_life_s else np.ones(len(ts))
    return weights


def closed_form(subject: Subject) -> None:
    """Weights are 2^(-age/H) times the mean over delays of 1 - exp(-age/mu); rewards are weighted by forgetting alone."""
    for half_life_s in (0.0, 7.0):
        for delays_s in ((), (5.0,), (2.0, 30.0)):
            model = subject.make(half_life_s=half_life_s, delays_s=delays_s)
            batch = dyadic(3, 400)
            first = model.update({}, take(batch, slice(150), slice(9)))
            sums = model.update(first, take(batch, slice(150, None), slice(9, None)))
            age_s = (NOW_MS - batch.ts) / 1000
            arrived = np.mean([1 - np.exp(-age_s / delay) for delay in delays_s], axis=0) if delays_s else 1.0
            for code, arm in enumerate(ARMS):
                w = _kept(batch.ts, half_life_s) * arrived * (batch.arm == code)
                v = _kept(batch.reward_ts, half_life_s) * (batch.reward_arm == code)
                expected = _expected(subject, batch, w, v, count=float(np.count_nonzero(batch.arm == code)))
                assert close(model.at(sums[arm], now_ms=NOW_MS), expected, exact=False)


def _expected(subject: Subject, batch: Batch, w: FloatArray, v: FloatArray, *, count: float) -> Effective:
    b, A = subject.terms(np.asarray(batch.x, np.float64))
    earned = (v * batch.reward) @ batch.reward_x if b.shape[1] else 0.0
    return Effective(
        n_eff=float(w.sum()),
        count=count,
        reward=float((v * batch.reward).sum()),
        square=float((v * batch.square).sum()),
        b=w @ b + earned,
        A=np.einsum("n,nij->ij", w, A),
    )


def merging(subject: Subject, seed: int = 1) -> None:
    """Any split, order, and tree of updates and merges gives the whole, also across a move of the landmark."""
    for half_life_s, start_ms in ((0.0, START_MS), (1.0, START_MS), (1.0, EDGE_MS)):
        model = subject.make(half_life_s=half_life_s)
        batch, rng = dyadic(seed, 120, start_ms=start_ms), np.random.default_rng(seed)
        whole = model.update({}, batch)
        pieces: list[dict[str, Any]] = []
        parts = int(rng.integers(1, 7))
        rows = np.array_split(rng.permutation(len(batch.arm)), parts)
        rewards = np.array_split(rng.permutation(len(batch.reward)), parts)
        for one, two in zip(rows, rewards, strict=True):
            base = pieces.pop() if pieces and rng.random() < 0.5 else {}
            pieces.append(model.update(base, take(batch, one.tolist(), two.tolist())))
        for arm, expected in whole.items():
            total = model.zero()
            for piece in pieces:
                total = model.merge(total, piece[arm]) if arm in piece else total
            now_ms = start_ms + 50_000
            assert close(model.at(total, now_ms=now_ms), model.at(expected, now_ms=now_ms), exact=subject.exact)
            assert not subject.exact or model.encode(total) == model.encode(expected)


def every_row_counts(subject: Subject) -> None:
    """A single impression or reward that is lost, or comes twice, gives other bits."""
    for half_life_s in (0.0, 1.0):
        model = subject.make(half_life_s=half_life_s)
        batch, everything = dyadic(1, 300), slice(None)
        whole = model.update({}, batch)
        for shown_, rewarded in ((slice(1, None), everything), (everything, slice(1, None))):
            fewer = model.update({}, take(batch, shown_, rewarded))
            twice = model.update(whole, take(batch, [0], []) if rewarded is everything else take(batch, [], [0]))
            for other in (fewer, twice):
                assert any(
                    bits(model.at(other[arm], now_ms=NOW_MS)) != bits(model.at(whole[arm], now_ms=NOW_MS))
                    for arm in ARMS
                )


def decay(subject: Subject) -> None:
    """A half-life later all but the count is half, to the last bit; without forgetting time changes nothing."""
    forgetting, keeping = subject.make(half_life_s=8.0), subject.make()
    assert keeping.timeless
    assert not forgetting.timeless
    for model, factor in ((forgetting, 0.5), (keeping, 1.0)):
        for one in model.update({}, dyadic(2, 90)).values():
            now, later = (model.at(one, now_ms=NOW_MS + wait) for wait in (0, 8_000))
            half = replace(
                now,
                n_eff=factor * now.n_eff,
                reward=factor * now.reward,
                square=factor * now.square,
                b=factor * now.b,
                A=factor * now.A,
            )
            assert bits(later) == bits(half)


def retraction(subject: Subject) -> None:
    """Rows that are taken back leave the sums of the others, also if they are taken back before they came."""
    for half_life_s, delays_s in ((0.0, ()), (1.0, ()), (7.0, (3.0,))):
        model = subject.make(half_life_s=half_life_s, delays_s=delays_s)
        bad, good = dyadic(5, 60), dyadic(6, 80)
        kept = model.update({}, good)
        after = retract(model, model.update(kept, bad), bad)
        before = model.update(retract(model, kept, bad), bad)
        exact = subject.exact and not delays_s
        for arm, expected in kept.items():
            for left in (after[arm], before[arm]):
                assert close(model.at(left, now_ms=NOW_MS), model.at(expected, now_ms=NOW_MS), exact=exact)


def serialisation(subject: Subject) -> None:
    """Through MessagePack and back is the identity, read sums go on alike, a later writer's fields are ignored."""
    model = subject.make(half_life_s=60.0, delays_s=(2.0, 9.0))
    sums = model.update({}, dyadic(1, 80))["b"]
    record: dict[str, Any] = model.encode(sums)
    back = model.decode(msgspec.msgpack.decode(msgspec.msgpack.encode(record)))
    assert model.encode(back) == record
    assert bits(model.at(back, now_ms=NOW_MS)) == bits(model.at(sums, now_ms=NOW_MS))
    more = dyadic(2, 40)
    assert model.encode(model.update({"b": back}, more)["b"]) == model.encode(model.update({"b": sums}, more)["b"])
    waits = [wait | {"rate": 0.5} for wait in record["pending"]]
    assert model.encode(model.decode(record | {"later": [1, 2], "pending": waits})) == record


def inputs(subject: Subject) -> None:
    """Old sums keep their numbers, untouched arms their objects, and a batch of nothing changes nothing."""
    model = subject.make(half_life_s=5.0)
    first = model.update({}, dyadic(5, 60))
    before = {arm: model.encode(one) for arm, one in first.items()}
    second = model.update(first, shown("a", [START_MS], [[1.0, 2.0, 3.0]]))
    retract(model, first, dyadic(5, 30))
    assert {arm: model.encode(one) for arm, one in first.items()} == before
    assert [second[arm] is first[arm] for arm in ARMS] == [False, True, True, True]
    assert all(model.update(first, take(dyadic(6, 9), [], []))[arm] is first[arm] for arm in ARMS)


def reproduction(subject: Subject) -> None:
    """Rows, prior, snapshot, and decisions by a seed: the same twice, and the same through the snapshot's records."""
    first, second = _published(subject), _published(subject)
    head = decode_head(encode_head(first))
    back = assemble(head, {name: decode_arm(encode_arm("p", name, arm)) for name, arm in first.arms.items()})
    assert back is not None
    assert back.prior == first.prior == second.prior
    assert first.checksum == second.checksum == back.checksum
    drawn = [
        [decide(one, [1.0, 0.5, -0.25], (*ARMS, "new"), rng=rng) for _ in range(20)]
        for one, rng in ((one, np.random.default_rng(7)) for one in (first, second, back))
    ]
    told = [[(decision.arm, decision.propensity) for decision in decisions] for decisions in drawn]
    assert told[0] == told[1] == told[2]
    assert len({arm for arm, _ in told[0]}) > 1
    p = drawn[0][0].probabilities
    assert p is not None
    assert p.sum() == pytest.approx(1.0, abs=1e-12)


def _published(subject: Subject) -> Snapshot:
    model = subject.make(half_life_s=30.0, delays_s=(3.0,))
    sums = model.update({}, dyadic(8, 200))
    effective = {arm: model.at(one, now_ms=NOW_MS) for arm, one in sums.items()}
    prior = fit(effective, model=model.name, dimension=D, intercept=None)
    return build("p", model=model, sums=sums, prior=prior, version=1, previous=None, time_ms=0, now_ms=NOW_MS)


def propensities(subject: Subject) -> None:
    """They sum to one, and match the shares of a million draws of the posteriors' weights within five standard errors."""
    model, x = subject.make(half_life_s=30.0), np.array([1.0, 0.5, -0.25])
    sums = model.update({}, dyadic(8, 200))
    prior = fit({arm: model.at(one, now_ms=NOW_MS) for arm, one in sums.items()}, model=model.name, dimension=D)
    front = build(
        "p",
        model=model,
        sums=sums,
        prior=prior,
        version=1,
        previous=None,
        time_ms=0,
        now_ms=NOW_MS,
        rates={"alpha": 1.0},
    )
    p, rng = law(front, x), np.random.default_rng(9)
    assert p.sum() == pytest.approx(1.0, abs=1e-12)
    found = [posterior(prior, model.at(sums[arm], now_ms=NOW_MS)) for arm in front.names]
    drawn = np.argmax([_draws(one, x, rng) for one in found], axis=0)
    share = np.bincount(drawn, minlength=len(p)) / DRAWS
    assert (np.abs(share - p) <= 5 * np.sqrt(p * (1 - p) / DRAWS) + 3e-6).all()


def _draws(arm: ArmPosterior | BetaPosterior, x: FloatArray, rng: np.random.Generator) -> FloatArray:
    """(DRAWS,) of the expected reward in the context x."""
    if isinstance(arm, BetaPosterior):
        return rng.beta(arm.a, arm.b, DRAWS)
    width = float(np.linalg.norm(arm.factor @ x))
    if arm.dof is None:
        z = rng.standard_normal(DRAWS)
    else:
        z = np.sqrt((arm.dof - 2.0) / arm.dof) * rng.standard_t(arm.dof, DRAWS)
    drawn: FloatArray = float(x @ arm.mean) + width * z
    return drawn


def fingerprints(subject: Subject) -> None:
    """Sums of another encoder, or of none, are refused with both names: read from a record, or merged."""
    if not subject.encoded:
        assert subject.make().encoder is None
        return
    old, new, none = (subject.make(encoder=encoder) for encoder in ("old-1f", "new-2e", None))
    sums = old.update({}, dyadic(1, 30))["a"]
    assert old.encode(old.decode(old.encode(sums))) == old.encode(sums)
    for other in (new, none):
        with pytest.raises(RecordError, match=rf"encoder = 'old-1f', the policy has encoder = {other.encoder!r}"):
            other.decode(old.encode(sums))
        with pytest.raises(ValueError, match=rf"encoder 'old-1f', the model is of {other.encoder!r}"):
            other.merge(other.zero(), sums)
    with pytest.raises(RecordError, match="encoder = None, the policy has encoder = 'new-2e'"):
        new.decode(none.encode(none.zero()))
