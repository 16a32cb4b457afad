"""The normal-inverse-gamma model: its posterior, its prior, and Thompson's probabilities for Student t laws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from policies.decide import decide, law
from policies.decide_batch import decide_batch, law_batch
from policies.draw import draw, draw_batch
from policies.empirical_bayes import fit, fit_student
from policies.model import make_model
from policies.posterior import ArmPosterior, linear_posterior, posterior, unseen
from policies.prior import Prior, StudentPrior
from policies.snapshot import Snapshot, assemble, build, decode_arm, decode_head, encode_arm, encode_head
from policies.snapshot_records import LinearArm
from policies.student import student_posterior
from policies.sums import Effective, RecordError
from policies.thompson import thompson
from policies.thompson_student import raw_thompson_student, thompson_student
from tests.policies.batches import ARMS, dyadic, regression

D = 3
PRIOR = StudentPrior(mean=np.array([0.1, 0.0, 0.0]), tau2=np.array([0.5, 0.2, 0.1]), s2=0.1, dof=6.0)


def test_the_posterior_is_the_textbooks() -> None:
    """Integrated over the noise on a grid: the density of x^T theta is the Student t of the posterior."""
    rng = np.random.default_rng(2)
    arm = regression(np.array([0.2, 0.1, -0.1]), 12, 0.3, rng)
    found = student_posterior(PRIOR, arm)
    x = np.array([1.0, 0.5, -2.0])
    log_s2 = np.linspace(np.log(0.005), np.log(20.0), 4000)
    weights, normals = [], []
    for s2 in np.exp(log_s2):
        one = Prior(mean=PRIOR.mean, tau2=PRIOR.tau2 * s2 / PRIOR.s2, s2=s2)
        given = linear_posterior(one, arm)
        V = given.factor.T @ given.factor
        h = arm.b / s2 + one.mean / one.tau2
        evidence = 0.5 * (
            np.linalg.slogdet(V)[1]
            - np.log(one.tau2).sum()
            + h @ V @ h
            - (one.mean**2 / one.tau2).sum()
            - arm.square / s2
        ) - 0.5 * arm.n_eff * np.log(s2)
        prior = stats.invgamma.logpdf(s2, PRIOR.dof / 2, scale=PRIOR.dof * PRIOR.s2 / 2) + np.log(s2)
        weights.append(evidence + prior)
        normals.append((float(x @ given.mean), float(np.sqrt(x @ V @ x))))
    w = np.exp(np.array(weights) - max(weights))
    mean, sd = np.array(normals).T
    u = np.linspace(-1.0, 1.5, 11)
    marginal = (w[:, None] * stats.norm.pdf(u, mean[:, None], sd[:, None])).sum(axis=0) / w.sum()
    assert found.dof == PRIOR.dof + 12
    scale = np.linalg.norm(found.factor @ x) * np.sqrt((found.dof - 2) / found.dof)
    assert stats.t.pdf(u, found.dof, x @ found.mean, scale) == pytest.approx(marginal, rel=1e-4)


def test_arms_with_less_noise_are_surer() -> None:
    """With the same contexts and means, the linear model is equally sure of both; this one is not."""
    rng = np.random.default_rng(3)
    calm, wild = (regression(np.zeros(D), 200, s2, rng) for s2 in (0.01, 1.0))
    widths = [np.linalg.norm(student_posterior(PRIOR, arm).factor) for arm in (calm, wild)]
    assert widths[1] > 4.0 * widths[0]


def test_with_many_degrees_of_freedom_it_is_the_linear_model() -> None:
    """The noise is then known."""
    arm = regression(np.array([0.2, 0.1, -0.1]), 50, 0.1, np.random.default_rng(4))
    known = StudentPrior(mean=PRIOR.mean, tau2=PRIOR.tau2, s2=PRIOR.s2, dof=1e9)
    linear = linear_posterior(known.normal, arm)
    found = posterior(known, arm)
    assert isinstance(found, ArmPosterior)
    assert np.array_equal(found.mean, linear.mean)
    assert np.allclose(found.factor, linear.factor, rtol=1e-6)


@pytest.mark.parametrize("square", [np.nan, np.inf])
def test_sums_that_cannot_be_used_are_the_prior_with_an_alarm(square: float) -> None:
    """Squares enter here, so they must be finite too."""
    arm = Effective(n_eff=5.0, count=5.0, reward=1.0, square=square, b=np.zeros(D), A=np.eye(D))
    found = student_posterior(PRIOR, arm)
    assert found.alarm
    assert (found.dof, found.factor.tolist()) == (PRIOR.dof, unseen(PRIOR).factor.tolist())


def test_the_spread_of_the_noise_is_recovered() -> None:
    """From 300 arms of 200 rows with 8 degrees of freedom: within a third; from arms alike: more than 100."""
    rng = np.random.default_rng(5)
    noise = 0.25 * 8 / rng.chisquare(8, 300)
    differ = {str(i): regression(rng.normal(0.0, 0.2, D), 200, s2, rng) for i, s2 in enumerate(noise)}
    alike = {str(i): regression(rng.normal(0.0, 0.2, D), 200, 0.25, rng) for i in range(300)}
    assert fit_student(differ, dimension=D, intercept=0).dof == pytest.approx(8.0, rel=0.34)
    assert fit_student(alike, dimension=D, intercept=0).dof > 100.0


def test_without_data_the_prior_is_its_start() -> None:
    """And a start of another model is refused."""
    first = fit({}, model="student", dimension=2)
    assert fit({}, first, model="student", dimension=2) == first
    with pytest.raises(ValueError, match="start of type Prior"):
        fit({}, Prior(mean=np.zeros(2), tau2=np.ones(2), s2=1.0), model="student", dimension=2)
    with pytest.raises(ValueError, match=r"dof = 2\.0: must be finite and above 2"):
        StudentPrior(mean=np.zeros(2), tau2=np.ones(2), s2=1.0, dof=2.0)


@pytest.mark.parametrize(("arms", "dof"), [(2, 2.5), (5, 4.0), (20, 6.0), (50, 30.0)])
def test_probabilities_match_a_million_draws(arms: int, dof: float) -> None:
    """Within 4.5 standard errors of each, and before they are made to sum to one they nearly do."""
    rng = np.random.default_rng(arms)
    mean, sd = rng.normal(0.0, 0.3, arms), np.exp(rng.normal(-1.0, 0.7, arms))
    nu = dof * np.exp(rng.random(arms))
    scale = sd * np.sqrt((nu - 2) / nu)
    won = np.zeros(arms)
    for _ in range(20):
        draws = mean + scale * rng.standard_t(nu, (50_000, arms))
        won += np.bincount(draws.argmax(axis=1), minlength=arms)
    p = thompson_student(mean, sd, nu)
    error = np.sqrt(np.maximum(p * (1 - p), 1e-6) / 1e6)
    assert (np.abs(won / 1e6 - p) < 4.5 * error).all()
    assert raw_thompson_student(mean, scale, nu).sum() == pytest.approx(1.0, abs=2e-6)


def test_probabilities_at_the_edges() -> None:
    """One arm; point masses, with ties and beside wide arms; and the normal law in the limit."""
    one, two = np.array([5.0]), np.array([5.0, 5.0])
    assert thompson_student(np.zeros(1), np.ones(1), one).tolist() == [1.0]
    assert thompson_student(np.array([1.0, 1.0]), np.zeros(2), two).tolist() == [0.5, 0.5]
    beside = thompson_student(np.array([0.0, 1.0]), np.array([1.0, 0.0]), two)
    assert beside[0] == pytest.approx(stats.t.sf(1.0 / np.sqrt(0.6), 5), abs=1e-6)
    mean, sd = np.random.default_rng(1).normal(size=30), np.full(30, 0.5)
    assert thompson_student(mean, sd, np.full(30, 1e8)) == pytest.approx(thompson(mean, sd), abs=5e-6)


def snapshot() -> Snapshot:
    """Four arms of a student policy."""
    model = make_model("student", dimension=D)
    sums = model.update({}, dyadic(1, 60))
    prior = fit({arm: model.at(one, now_ms=0) for arm, one in sums.items()}, model="student", dimension=D)
    return build(
        "p", model=model, sums=sums, prior=prior, version=1, previous=None, time_ms=0, now_ms=0, rates={"alpha": 1.0}
    )


def test_a_decision_goes_by_the_students_law() -> None:
    """The snapshot's probabilities are those of the arms' t laws, for a new arm too, and are logged as exact."""
    front, x, names = snapshot(), np.array([1.0, -0.5, 0.25]), (*ARMS, "new")
    head = decode_head(encode_head(front))
    back = assemble(head, {name: decode_arm(encode_arm("p", name, arm)) for name, arm in front.arms.items()})
    assert back is not None
    assert back.prior == front.prior
    assert isinstance(front.prior, StudentPrior)
    new = unseen(front.prior)
    mean, sd, dof = [], [], []
    for arm in front.arms.values():
        assert isinstance(arm, LinearArm)
        assert arm.dof is not None
        W = np.zeros((D, D))
        W[np.tril_indices(D)] = arm.factor
        mean.append(x @ arm.mean)
        sd.append(np.linalg.norm(W @ x))
        dof.append(arm.dof)
    expected = thompson_student(
        np.array([*mean, x @ new.mean]), np.array([*sd, np.linalg.norm(new.factor @ x)]), np.array([*dof, new.dof])
    )
    assert law(back, x, names) == pytest.approx(expected, abs=1e-6)
    decision = decide(back, x, names, rng=np.random.default_rng(1))
    assert decision.propensity_kind == "exact"
    assert law(front, x).shape == (len(ARMS),)
    contexts = np.array([x, 2.0 * x])
    assert law_batch(front, contexts, names)[0] == pytest.approx(law(front, x, names), abs=1e-9)
    decided = decide_batch(front, contexts, names, rng=np.random.default_rng(1))
    assert not decided.estimated.any()
    drawn = draw_batch(front, np.tile(x, (4000, 1)), names, rng=np.random.default_rng(2))
    assert np.bincount(drawn, minlength=5) / 4000 == pytest.approx(law(front, x, names), abs=0.03)
    assert draw(front, x, names, rng=np.random.default_rng(3)) in names


def test_arms_and_heads_without_degrees_of_freedom_are_refused() -> None:
    """A student head needs arms with them, and a prior with them; impossible ones are refused."""
    front = snapshot()
    head = decode_head(encode_head(front))
    bare = {
        name: LinearArm(version=1, count=arm.count, mean=arm.mean, factor=arm.factor)
        for name, arm in front.arms.items()
        if isinstance(arm, LinearArm)
    }
    with pytest.raises(RecordError, match="no arm of model 'student'"):
        assemble(head, bare)
    wrong = LinearArm(version=1, count=1.0, mean=bare["a"].mean, factor=bare["a"].factor, dof=1.5)
    with pytest.raises(RecordError, match=r"dof = 1\.5"):
        decode_arm(encode_arm("p", "a", wrong))
