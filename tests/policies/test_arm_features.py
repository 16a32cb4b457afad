"""Arms with features share weights for each feature: one joint regression, read from the arms' own records."""

from __future__ import annotations

import numpy as np
import pytest

from policies.arm_features import FeaturedPrior, Features, prior_of, standardised
from policies.decide import law
from policies.empirical_bayes import fit
from policies.hybrid import fit_hybrid, hybrid_posterior
from policies.model import make_model
from policies.posterior import unseen
from policies.prior import HybridPrior, Prior
from policies.scale import scale_of, spread
from policies.snapshot import LinearArm, Snapshot, assemble, build, decode_arm, decode_head, encode_arm, encode_head
from policies.sums import Effective
from tests.policies.batches import dyadic, regression

D, S2 = 3, 0.25
DECLARED = {"a": (1.0, 0.0), "b": (0.0, 2.0), "c": (3.0, 1.0), "d": (2.0, 2.0)}
Rows = tuple[np.ndarray, np.ndarray]


def features() -> Features:
    """Of the four arms."""
    found = standardised(DECLARED)
    assert found is not None
    return found


def rows() -> dict[str, Rows]:
    """Contexts (n, d) and rewards (n,) of each arm, of unequal number."""
    rng = np.random.default_rng(5)
    found = {}
    for i, arm in enumerate(DECLARED):
        x = rng.normal(size=(10 + 9 * i, D))
        found[arm] = (x, x @ rng.normal(0.2, 0.3, D) + rng.normal(0.0, 0.5, len(x)))
    return found


def sums(given: dict[str, Rows]) -> dict[str, Effective]:
    """What the arms' records hold of them."""
    return {
        arm: Effective(n_eff=len(r), count=len(r), reward=r.sum(), square=(r**2).sum(), b=x.T @ r, A=x.T @ x)
        for arm, (x, r) in given.items()
    }


def unfitted(given: dict[str, Rows], monkeypatch: pytest.MonkeyPatch) -> tuple[FeaturedPrior, np.ndarray]:
    """The prior with variances as given, without rounds, and the shared parts' own prior variances (q d,)."""
    monkeypatch.setattr("policies.hybrid.ROUNDS", 0)
    effective = sums(given)
    start = HybridPrior(mean=np.zeros(D), factor=np.eye(D), tau2=np.array([0.1, 0.2, 0.3]), s2=S2)
    found = fit_hybrid(effective, start, dimension=D, features=features())
    assert isinstance(found, FeaturedPrior)
    return found, np.tile(spread(scale_of(list(effective.values())), D, None), 3)


@pytest.mark.parametrize("swapped", [False, True])
def test_an_arms_law_is_the_marginal_of_the_joint_regression(swapped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all q d + K d weights at once, solved densely from rows; with two arms' features swapped it is another."""
    given = rows()
    prior, T0 = unfitted(given, monkeypatch)
    q, K = 3, len(given)
    precision = np.diag(np.concatenate([1 / T0, np.tile(1 / prior.tau2, K)]))
    h, adds = np.zeros(len(precision)), []
    owners = ["b", "a", "c", "d"] if swapped else list(given)
    for i, (x, r) in enumerate(given.values()):
        F = np.kron(features().of(owners[i]), np.eye(D))
        z = np.hstack([F, np.kron(np.eye(K)[i], np.eye(D))])
        precision += (x @ z).T @ (x @ z) / S2
        h += (x @ z).T @ r / S2
        adds.append(z)
    V = np.linalg.inv(precision)
    agree = []
    for z, (arm, effective) in zip(adds, sums(given).items(), strict=True):
        found = hybrid_posterior(prior.of(arm), effective)
        agree += [
            np.allclose(found.mean, z @ V @ h, rtol=1e-9),
            np.allclose(found.factor.T @ found.factor, z @ V @ z.T),
        ]
    assert len(V) == (q + K) * D
    assert all(agree) != swapped


def test_it_is_li_et_al_with_the_product_of_features_and_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their beta, theta_a and s^2 from the raw blocks G, g, C_a, A_a, b_a of rows z = f (x) x and x."""
    given = rows()
    prior, T0 = unfitted(given, monkeypatch)
    f = features()
    zs = {arm: np.kron(f.of(arm), x) for arm, (x, _) in given.items()}
    G = sum(z.T @ z for z in zs.values()) / S2
    g = sum(zs[arm].T @ r for arm, (_, r) in given.items()) / S2
    C = {arm: x.T @ zs[arm] / S2 for arm, (x, _) in given.items()}
    D_inverse = {arm: np.linalg.inv(x.T @ x / S2 + np.diag(1 / prior.tau2)) for arm, (x, _) in given.items()}
    b = {arm: x.T @ r / S2 for arm, (x, r) in given.items()}
    A0_inverse = np.linalg.inv(np.diag(1 / T0) + G - sum(C[arm].T @ D_inverse[arm] @ C[arm] for arm in given))
    beta = A0_inverse @ (g - sum(C[arm].T @ D_inverse[arm] @ b[arm] for arm in given))
    x = np.array([0.7, -1.1, 0.4])
    for arm, effective in sums(given).items():
        z, inverse = np.kron(f.of(arm), x), D_inverse[arm]
        theta = inverse @ (b[arm] - C[arm] @ beta)
        through = C[arm].T @ inverse @ x
        s2 = z @ A0_inverse @ z - 2 * z @ A0_inverse @ through + x @ inverse @ x + through @ A0_inverse @ through
        found = hybrid_posterior(prior.of(arm), effective)
        assert x @ found.mean == pytest.approx(z @ beta + x @ theta, rel=1e-9)
        assert ((found.factor @ x) ** 2).sum() == pytest.approx(s2, rel=1e-9)


def test_arms_without_features_start_from_the_mean_arm() -> None:
    """One that is not declared is (1, 0, 0); so it is scored as what a snapshot's head says of new arms."""
    f = features()
    assert np.stack(list(f.by_arm.values())).mean(axis=0) == pytest.approx([1.0, 0.0, 0.0])
    prior = fit_hybrid(sums(rows()), dimension=D, features=f)
    assert isinstance(prior, FeaturedPrior)
    assert np.array_equal(prior.of("other").mean, prior.mean)
    assert np.array_equal(prior.of("other").factor, prior.factor)
    assert not np.allclose(prior.of("a").mean, prior.mean)
    plain = Prior(mean=np.zeros(1), tau2=np.ones(1), s2=1.0)
    assert prior_of(plain, "a") is plain


def test_features_have_no_unit() -> None:
    """Other units and origins give the same; a number that never varies adds nothing, however large."""
    f = features()
    moved = standardised({arm: (1e200 * one, 5.0 - two, 7.0) for arm, (one, two) in DECLARED.items()})
    assert moved is not None
    for arm in (*DECLARED, "other"):
        assert moved.of(arm) == pytest.approx(np.append(f.of(arm) * [1, 1, -1], 0.0), abs=1e-9)
    assert standardised({}) is None


@pytest.mark.parametrize(
    ("declared", "part"),
    [
        ({"a": [1.0], "b": [1.0, 2.0]}, r"\[1, 2\] features"),
        ({"a": []}, "one or more"),
        ({"a": [np.nan], "b": [1.0]}, r"\['a'\]"),
    ],
)
def test_features_that_do_not_fit_are_refused(declared: dict[str, list[float]], part: str) -> None:
    """Of unequal length, none, not finite."""
    with pytest.raises(ValueError, match=part):
        standardised(declared)


def test_a_model_that_shares_nothing_refuses_features() -> None:
    """Rather than to leave them unused."""
    with pytest.raises(ValueError, match="only 'hybrid'"):
        fit({}, model="linear", dimension=D, features=features())


def test_without_features_it_is_the_hybrid_model() -> None:
    """Features that never vary change no number; without data the start has them too."""
    same = standardised(dict.fromkeys(DECLARED, (4.0,)))
    arms = sums(rows())
    plain, found = fit_hybrid(arms, dimension=D), fit_hybrid(arms, dimension=D, features=same)
    assert isinstance(found, FeaturedPrior)
    assert found.of("a").mean == pytest.approx(plain.mean)
    assert np.allclose(found.of("a").factor, plain.factor)
    assert found.tau2 == pytest.approx(plain.tau2)
    start = fit_hybrid({}, dimension=D, features=same)
    assert isinstance(start, FeaturedPrior)
    assert start == fit_hybrid({}, dimension=D, features=same)
    assert start != fit_hybrid({}, dimension=D)
    assert fit_hybrid({}, dimension=D) != start


def new_arms_errors(*, informative: bool, seeds: int = 40) -> np.ndarray:
    """(seeds, 2) squared errors x^T (mean - theta) of an arm without rows after 20 others of 100: without and with features."""
    found = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        given = rng.normal(size=(21, 2))
        B = np.append(0.5, np.zeros(D - 1)) + np.zeros((3, 1))
        B[1:] = rng.normal(0.0, 0.3, (2, D))
        thetas = np.column_stack([np.ones(21), given if informative else rng.normal(size=(21, 2))]) @ B
        thetas += rng.normal(0.0, 0.1, (21, D))
        arms = {str(i): regression(thetas[i], 100, S2, rng) for i in range(20)}
        f = standardised({str(i): row for i, row in enumerate(given.tolist())})
        plain, told = fit_hybrid(arms, dimension=D), fit_hybrid(arms, dimension=D, features=f)
        news = (unseen(plain), unseen(told.of("20"))) if isinstance(told, FeaturedPrior) else ()
        found.append([float(((new.mean - thetas[20]) ** 2).sum()) for new in news])
    return np.array(found)


def test_a_new_arm_starts_better_where_its_features_tell() -> None:
    """Squared error of its weights less than a third; where features tell nothing, at most a quarter more."""
    errors = new_arms_errors(informative=True)
    gain = errors[:, 0] - 3.0 * errors[:, 1]
    assert gain.mean() > 2.0 * gain.std(ddof=1) / np.sqrt(len(gain))
    errors = new_arms_errors(informative=False)
    cost = errors[:, 1] - 1.25 * errors[:, 0]
    assert cost.mean() < 2.0 * cost.std(ddof=1) / np.sqrt(len(cost))


def snapshot() -> Snapshot:
    """Four arms with rows and a fifth, declared, without."""
    model = make_model("hybrid", dimension=D)
    learned = {**model.update({}, dyadic(1, 200)), "new": model.zero()}
    f = standardised({**DECLARED, "new": (3.0, 1.0)})
    effective = {arm: model.at(one, now_ms=0) for arm, one in learned.items()}
    prior = fit(effective, model="hybrid", dimension=D, features=f)
    return build("p", model=model, sums=learned, prior=prior, version=1, previous=None, time_ms=0, now_ms=0)


def test_a_snapshot_reads_back_and_decides_alike() -> None:
    """Each arm's record holds what its features tell; the head holds the mean arm, for arms without a record."""
    front = snapshot()
    head = decode_head(encode_head(front))
    back = assemble(head, {name: decode_arm(encode_arm("p", name, arm)) for name, arm in front.arms.items()})
    assert back is not None
    assert type(back.prior) is HybridPrior
    x, names = np.array([1.0, -0.5, 0.25]), (*front.names, "stranger")
    p = law(front, x, names)
    assert np.array_equal(law(back, x, names), p)
    new = back.arms["new"]
    assert isinstance(new, LinearArm)
    assert not np.allclose(new.mean, back.prior.mean, rtol=1e-3)
