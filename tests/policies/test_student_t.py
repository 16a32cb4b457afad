"""Student's t in numpy against scipy, and the probabilities made of it against another quadrature."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from policies.batch import FloatArray
from policies.student_t import CLOSE, cdf, log_constant, reach, upper_quantile
from policies.thompson_student import raw_thompson_student

T = np.concatenate([-np.logspace(-3, 3, 500)[::-1], [0.0], np.logspace(-3, 3, 500)])


@pytest.mark.parametrize(
    ("dof", "error"), [(2.1, 1e-14), (4.9, 1e-14), (5.0, 2e-7), (8.0, 1e-8), (30.0, 1e-11), (1e4, 1e-14), (1e8, 1e-13)]
)
def test_the_distribution_function_is_scipys(dof: float, error: float) -> None:
    """Within what the module says, for every number of degrees of freedom above two."""
    assert np.abs(cdf(T, np.array([dof])) - stats.t.cdf(T, dof)).max() <= error


def test_the_first_term_alone_would_not_do() -> None:
    """The bound tells the expansion from its beginning."""
    rough = stats.norm.cdf(np.sign(T) * np.sqrt(4.5 * np.log1p(T * T / 5.0)))
    assert np.abs(rough - stats.t.cdf(T, 5.0)).max() > 1e-4


@pytest.mark.parametrize("dof", [2.1, 4.0, 5.0, 7.5, 40.0, 1e4])
def test_quantiles_are_exceeded_with_their_chance(dof: float) -> None:
    """From 1e-6 to nearly one, within 0.3% of the chance."""
    p = np.array([1e-6, 1e-4, 0.01, 0.3, 0.5, 0.99])
    assert stats.t.sf(upper_quantile(p, np.full(6, dof)), dof) == pytest.approx(p, rel=3e-3)


def test_densities_have_their_constant() -> None:
    """At the center the density is the constant."""
    dof = np.array([2.1, 5.0, 300.0])
    assert np.exp(log_constant(dof)) == pytest.approx(stats.t.pdf(0.0, dof), rel=1e-12)


def test_hardly_any_draw_lies_beyond_the_reach() -> None:
    """What the chance of its normal deviate says, or less."""
    dof = np.array([2.1, 3.0, CLOSE, 10.0, 1e3])
    assert (stats.t.sf(reach(5.6, dof), dof) <= 1.1 * stats.norm.sf(5.6)).all()


def trapezoids(m: FloatArray, s: FloatArray, nu: FloatArray) -> FloatArray:
    """(K,) the same integrals by 40,001 points that are equally spaced in arcsinh, with scipy's t."""
    ends = stats.t.isf(1e-9, nu) * s
    center, width = float(m.max()), float(s.min())
    first, last = np.arcsinh((np.array([(m - ends).max(), (m + ends).max()]) - center) / width)
    v = np.linspace(first, last, 40_001)
    z = (center + width * np.sinh(v) - m[:, None]) / s[:, None]
    under, density = stats.t.cdf(z, nu[:, None]), stats.t.pdf(z, nu[:, None]) / s[:, None]
    integrand = density / under * under.prod(axis=0) * width * np.cosh(v)
    total: FloatArray = 0.5 * (integrand[:, 1:] + integrand[:, :-1]).sum(axis=1) * (v[1] - v[0])
    return total


@pytest.mark.parametrize("arms", [2, 8, 50])
@pytest.mark.parametrize("dof", [4.0, 6.0, 30.0])
@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0])
def test_probabilities_are_those_of_a_finer_quadrature(arms: int, dof: float, spread: float) -> None:
    """Within 2e-6, alike arms and unlike ones, before small ones are dropped."""
    rng = np.random.default_rng(int(arms + dof))
    m, s = spread * rng.normal(size=arms), np.exp(0.3 * rng.normal(size=arms))
    nu = dof * np.exp(rng.random(arms))
    assert raw_thompson_student(m, s, nu) == pytest.approx(trapezoids(m, s, nu), abs=2e-6)


def test_the_finer_quadrature_tells_another_law() -> None:
    """With a degree of freedom more it is another one."""
    m, s, nu = np.array([0.0, 1.0]), np.array([1.0, 2.0]), np.array([6.0, 7.0])
    assert np.abs(raw_thompson_student(m, s, nu + 1.0) - trapezoids(m, s, nu)).max() > 1e-4
