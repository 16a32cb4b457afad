"""The hybrid model is one joint regression of the shared and the arms' own parts, read from the arms' records."""

from __future__ import annotations

import numpy as np
import pytest

from policies.decide import law
from policies.empirical_bayes import fit, fit_linear
from policies.hybrid import fit_hybrid, hybrid_posterior
from policies.model import make_model
from policies.posterior import unseen
from policies.prior import HybridPrior, Prior
from policies.snapshot import Snapshot, assemble, build, decode_arm, decode_head, encode_arm, encode_head
from policies.sums import Effective, RecordError
from tests.policies.batches import ARMS, dyadic, regression

D, S2 = 3, 0.25
MU, T0, T = np.array([0.3, 0.0, 0.1]), np.array([0.04, 0.02, 0.02]), np.array([0.02, 0.01, 0.01])


def drawn(arms: int, rows: int, shared: float, own: float) -> dict[str, Effective]:
    """Arms with weights beta + delta_a: sds `shared` of beta and `own` of delta."""
    rng = np.random.default_rng(4)
    beta = rng.normal(0.0, shared, D)
    return {str(i): regression(beta + rng.normal(0.0, own, D), rows, S2, rng) for i in range(arms)}


def eliminated(arms: list[Effective]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of beta by the elimination of Li et al. from the raw blocks, in units of the noise."""
    A = [arm.A / S2 for arm in arms]
    b = [arm.b / S2 for arm in arms]
    D_inverse = [np.linalg.inv(A_a + np.diag(1 / T)) for A_a in A]
    A0 = np.diag(1 / T0) + sum(A) - sum(A_a @ inverse @ A_a for A_a, inverse in zip(A, D_inverse, strict=True))
    left = (b_a - A_a @ inverse @ b_a for A_a, b_a, inverse in zip(A, b, D_inverse, strict=True))
    covariance = np.linalg.inv(A0)
    return covariance @ (MU / T0 + sum(left)), covariance


def test_an_arms_law_is_the_marginal_of_the_joint_regression() -> None:
    """Of all K d + d weights at once, solved densely: mean and covariance of beta + delta_a for every arm."""
    arms = list(drawn(4, 30, 0.2, 0.1).values())
    size = D * (1 + len(arms))
    precision = np.diag(np.concatenate([1 / T0, np.tile(1 / T, len(arms))]))
    h = np.concatenate([MU / T0, np.zeros(D * len(arms))])
    adds = []
    for i, arm in enumerate(arms):
        z = np.zeros((D, size))
        z[:, :D] = z[:, D * (i + 1) : D * (i + 2)] = np.eye(D)
        adds.append(z)
        precision += z.T @ arm.A @ z / S2
        h += z.T @ arm.b / S2
    V = np.linalg.inv(precision)
    mean, covariance = eliminated(arms)
    factor = np.asarray(np.linalg.inv(np.linalg.cholesky(np.linalg.inv(covariance))), np.float64)
    prior = HybridPrior(mean=mean, factor=factor, tau2=T, s2=S2)
    for z, arm in zip(adds, arms, strict=True):
        found = hybrid_posterior(prior, arm)
        assert np.allclose(found.mean, z @ V @ h, rtol=1e-10)
        assert np.allclose(found.factor.T @ found.factor, z @ V @ z.T, rtol=1e-10)
        assert np.array_equal(found.factor, np.tril(found.factor))


def test_the_variances_are_recovered() -> None:
    """From 200 arms of 400 rows: own sd and noise; and the shared mean within its own width."""
    arms = drawn(200, 400, 0.3, 0.1)
    prior = fit_hybrid(arms, dimension=D, intercept=0)
    beta = np.random.default_rng(4).normal(0.0, 0.3, D)
    assert np.sqrt(prior.tau2) == pytest.approx(np.full(D, 0.1), rel=0.2)
    assert prior.s2 == pytest.approx(S2, rel=0.03)
    width = np.sqrt((prior.factor**2).sum(axis=0))
    assert width == pytest.approx(np.full(D, 0.1 / np.sqrt(200)), rel=0.3)
    assert (np.abs(prior.mean - beta) < 4 * width).all()


def test_a_new_arm_starts_from_what_the_others_share() -> None:
    """Its mean is the shared part's, its width that of the shared and the own part together."""
    prior = fit_hybrid(drawn(20, 200, 0.3, 0.1), dimension=D)
    new = unseen(prior)
    assert np.array_equal(new.mean, prior.mean)
    assert np.allclose(new.factor.T @ new.factor, prior.factor.T @ prior.factor + np.diag(prior.tau2))
    none = Effective(n_eff=0.0, count=0.0, reward=0.0, square=0.0, b=np.zeros(D), A=np.zeros((D, D)))
    found = hybrid_posterior(prior, none)
    assert np.allclose(found.mean, new.mean)
    assert np.allclose(found.factor, new.factor)


def test_without_anything_shared_it_is_the_linear_model() -> None:
    """Where arms have nothing in common, sharing costs nothing: posterior means differ by a fraction of their width."""
    arms = drawn(60, 100, 0.0, 0.3)
    hybrid, linear = fit_hybrid(arms, dimension=D), fit_linear(arms, dimension=D)
    assert hybrid.tau2 == pytest.approx(linear.tau2, rel=0.05)
    assert np.abs(hybrid.mean).max() < 0.1


@pytest.mark.parametrize(
    ("A", "b"),
    [(np.full((D, D), np.nan), np.zeros(D)), (-1e3 * np.eye(D), np.zeros(D)), (np.eye(D), np.full(D, np.inf))],
    ids=["nan", "indefinite", "infinite"],
)
def test_sums_that_cannot_be_used_are_the_prior_with_an_alarm(A: np.ndarray, b: np.ndarray) -> None:
    """As for linear arms."""
    prior = fit_hybrid(drawn(5, 50, 0.3, 0.1), dimension=D)
    found = hybrid_posterior(prior, Effective(n_eff=5.0, count=5.0, reward=1.0, square=1.0, b=b, A=A))
    assert found.alarm
    assert np.array_equal(found.factor, unseen(prior).factor)


def test_without_data_the_prior_is_its_start() -> None:
    """And a start that is given stays; one of another model or length is refused."""
    first = fit_hybrid({}, dimension=2, intercept=0)
    assert first.mean.tolist() == [0.5, 0.0]
    assert fit({}, first, model="hybrid", dimension=2) == first
    with pytest.raises(ValueError, match="start of type Prior"):
        fit({}, Prior(mean=np.zeros(2), tau2=np.ones(2), s2=1.0), model="hybrid", dimension=2)
    with pytest.raises(ValueError, match="start has 2 components"):
        fit({}, first, model="hybrid", dimension=3)
    with pytest.raises(ValueError, match="intercept = 2"):
        fit({}, model="hybrid", dimension=2, intercept=2)


@pytest.mark.parametrize("factor", [np.ones((2, 2)), np.eye(3), np.diag([1.0, np.nan])])
def test_a_factor_that_is_none_is_refused(factor: np.ndarray) -> None:
    """Not triangular, of another size, not finite."""
    with pytest.raises(ValueError, match="factor"):
        HybridPrior(mean=np.zeros(2), factor=factor, tau2=np.ones(2), s2=1.0)


def snapshot() -> Snapshot:
    """Four arms of a hybrid policy."""
    model = make_model("hybrid", dimension=D)
    sums = model.update({}, dyadic(1, 200))
    prior = fit({arm: model.at(one, now_ms=0) for arm, one in sums.items()}, model="hybrid", dimension=D)
    return build("p", model=model, sums=sums, prior=prior, version=1, previous=None, time_ms=0, now_ms=0)


def test_a_snapshot_reads_back_and_decides_alike() -> None:
    """Head and arms through their bytes: the same probabilities to the last bit, for a new arm too."""
    front = snapshot()
    head = decode_head(encode_head(front))
    back = assemble(head, {name: decode_arm(encode_arm("p", name, arm)) for name, arm in front.arms.items()})
    assert back is not None
    assert back.prior == front.prior
    x, names = np.array([1.0, -0.5, 0.25]), (*ARMS, "new")
    p = law(front, x, names)
    assert np.array_equal(law(back, x, names), p)
    assert p.sum() == pytest.approx(1.0)
    assert p[-1] > 0.0


def test_a_head_with_another_models_prior_is_refused() -> None:
    """A hybrid head needs the shared part's factor."""
    front = snapshot()
    linear = (
        Prior(mean=front.prior.mean, tau2=front.prior.tau2, s2=1.0) if isinstance(front.prior, HybridPrior) else None
    )
    object.__setattr__(front, "prior", linear)
    with pytest.raises(RecordError, match="it is a Prior, the model is 'hybrid'"):
        decode_head(encode_head(front))


def test_with_few_arms_the_shared_parts_own_width_counts() -> None:
    """New arms after four of twenty rows, rewards of both signs: squared errors are few variances, and fewer than linear's."""
    squares: dict[str, list[float]] = {"linear": [], "hybrid": []}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        thetas = np.append(0.3, rng.normal(0.0, 0.4, 5)) + rng.normal(0.0, 0.15, (5, 6))
        arms = {str(i): regression(theta, 20, S2, rng) for i, theta in enumerate(thetas[1:])}
        x = np.append(1.0, rng.normal(size=5))
        for model, found in squares.items():
            prior = fit(arms, model=model, dimension=6, intercept=0)
            assert isinstance(prior, Prior | HybridPrior)
            new = unseen(prior)
            found.append(float((x @ (new.mean - thetas[0])) ** 2 / ((new.factor @ x) ** 2).sum()))
    assert np.mean(squares["hybrid"]) < np.mean(squares["linear"]) < 8.0
