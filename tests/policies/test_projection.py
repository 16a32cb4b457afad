"""Projections: principal components against numpy's SVD, parts against the whole, names, matches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from policies.features import FeatureError
from policies.projection import Moments, Projection, added, length_of, merged, no_moments, principal

FloatArray = npt.NDArray[np.float64]
D, N = 12, 400


def vectors(seed: int = 0, n: int = N) -> FloatArray:
    """Vectors (n, D) around a mean that is not 0, with variances that fall."""
    rng = np.random.default_rng(seed)
    turned = np.linalg.qr(rng.normal(size=(D, D)))[0]
    found: FloatArray = rng.normal(size=(n, D)) * 0.7 ** np.arange(D) @ turned + 0.3
    return found


def made(length: int = 4, seed: int = 0) -> Projection:
    return principal(added(no_moments(D), vectors(seed)), length=length, encoder="e1")


def by_svd(x: FloatArray, length: int) -> FloatArray:
    """Components with variance 1, up to their signs, by another way."""
    u = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[0][:, :length]
    scaled: FloatArray = u * np.sqrt(len(x))
    return scaled


def test_components_are_those_of_the_singular_value_decomposition() -> None:
    """Up to the signs, which are fixed by the largest component of each direction."""
    x, projection = vectors(), made()
    ours, theirs = projection.components(x), by_svd(x, 4)
    assert np.abs(np.abs((ours * theirs).mean(axis=0)) - 1.0).max() < 1e-5
    assert np.abs(ours.mean(axis=0)).max() < 1e-5
    assert np.abs(ours.T @ ours / N - np.eye(4)).max() < 1e-5
    rows = projection.matrix
    assert (rows[np.arange(4), np.abs(rows).argmax(axis=1)] > 0).all()


def uncentred(moments: Moments) -> Moments:
    """A broken variant: principal components of x instead of x - mu."""
    return dataclasses.replace(moments, s=np.zeros_like(moments.s))


def test_components_without_the_mean_taken_out_are_told_apart() -> None:
    """By the same comparison."""
    x = vectors()
    broken = principal(uncentred(added(no_moments(D), x)), length=4, encoder="e1")
    cosines = np.abs((broken.components(x) * by_svd(x, 4)).mean(axis=0))
    assert cosines.min() < 0.9


@pytest.mark.parametrize("parts", [1, 3, 7])
def test_moments_of_parts_add_up_to_those_of_the_whole(parts: int) -> None:
    """Exactly, where the numbers are whole; in any order of the parts."""
    x = np.random.default_rng(1).integers(-50, 50, size=(101, 3)).astype(float)
    whole = added(no_moments(3), x)
    for order in (1, -1):
        total = no_moments(3)
        for part in np.array_split(x, parts)[::order]:
            total = merged(total, added(no_moments(3), part))
        assert total.n == whole.n == 101
        assert np.array_equal(total.s, whole.s)
        assert np.array_equal(total.S, whole.S)


def test_shorter_projections_are_the_first_components_of_longer_ones() -> None:
    """So that policies of several sizes can have one."""
    x = vectors()[:5]
    assert np.array_equal(made(3).components(x), made(6).components(x, 3))


def independent(match: Callable[[FloatArray, FloatArray], float]) -> FloatArray:
    """Matches of 20,000 pairs of vectors that have nothing to do with each other."""
    u, v = vectors(7, 20_000), vectors(8, 20_000)
    turned = [np.linalg.qr(np.random.default_rng(seed).normal(size=(D, D)))[0] for seed in (7, 8)]
    v = (v - 0.3) @ turned[1].T @ turned[0] + 0.3  # the same law as u
    return np.array([match(one, other) for one, other in zip(u, v, strict=True)])


def test_unrelated_texts_match_with_mean_zero_and_variance_one() -> None:
    """Of the law that the projection was made of; a text matches itself. Within four standard errors, of heavy tails."""
    projection = principal(added(no_moments(D), vectors(7, 20_000)), length=2, encoder="e1")
    found = independent(projection.match)
    assert abs(found.mean()) < 4 / np.sqrt(len(found))
    assert abs(found.var() - 1.0) < 4 * np.sqrt(np.var((found - found.mean()) ** 2) / len(found))
    raw = independent(lambda u, v: float(u @ v))  # a broken variant: without mean and scale
    assert abs(raw.mean()) > 0.3
    assert all(projection.match(one, one) > 0 for one in vectors(9, 50))


def test_a_name_changes_with_whatever_changes_a_feature() -> None:
    """Encoder, mean, matrix and the match's scale, to the last bit; nothing else."""
    projection = made()
    near = np.nextafter(projection.mean, np.float32(9), dtype=np.float32)
    others = [
        made(seed=1),
        made(5),
        dataclasses.replace(projection, encoder="e2"),
        dataclasses.replace(projection, mean=near),
        dataclasses.replace(projection, spread=np.nextafter(projection.spread, 9.0)),
    ]
    assert len({projection.name, *(other.name for other in others)}) == 6
    assert dataclasses.replace(projection, texts=1.0).name == projection.name == made().name
    assert length_of(projection.name) == 4


@pytest.mark.parametrize("name", ["pca0:" + 32 * "0", "pca4:" + 31 * "0", "4:" + 32 * "0", "pca4:" + 32 * "x", ""])
def test_what_is_no_name_is_refused(name: str) -> None:
    """With what makes one."""
    with pytest.raises(FeatureError, match="clickloop encoder project"):
        length_of(name)


def test_texts_that_cannot_give_so_many_components_are_refused() -> None:
    """Too few, or all in one direction."""
    x = vectors()
    with pytest.raises(ValueError, match="4 texts cannot give 4"):
        principal(added(no_moments(D), x[:4]), length=4, encoder="e1")
    flat = added(no_moments(D), np.outer(np.arange(20.0), np.ones(D)))
    with pytest.raises(ValueError, match="1 directions only"):
        principal(flat, length=2, encoder="e1")
    with pytest.raises(ValueError, match="allowed are 1 to 12"):
        principal(flat, length=13, encoder="e1")


def test_vectors_that_do_not_fit_are_refused() -> None:
    """Other lengths, and numbers that are not finite."""
    with pytest.raises(ValueError, match="the moments are of"):
        added(no_moments(3), [[1.0, 2.0]])
    with pytest.raises(ValueError, match="not finite"):
        added(no_moments(1), [[np.nan]])
    with pytest.raises(ValueError, match="different encoders"):
        merged(no_moments(3), no_moments(4))
    with pytest.raises(ValueError, match="takes 12"):
        made().components(np.zeros(3))
    with pytest.raises(ValueError, match="must be finite"):
        dataclasses.replace(made(), spread=0.0)
