"""Named features: what they compile to, what is refused, and what the fingerprint tells apart."""

from __future__ import annotations

import numpy as np
import pytest

from policies.features import Cross, FeatureError, Features, Numeric, Value, bucket

FEATURES = Features(
    numeric={"hour": Numeric(mean=12.0, sd=6.0), "price": Numeric()},
    categorical={"device": 4, "country": 8},
    crosses=(
        Cross(of=("hour", "price")),
        Cross(of=("device", "country"), buckets=16),
        Cross(of=("hour", "device"), buckets=4),
    ),
)
VALUES: dict[str, Value] = {"hour": 15.0, "price": 2.0, "device": "phone", "country": "NL"}


def test_every_part_is_where_its_column_says() -> None:
    """Intercept, numbers, buckets, and crosses as products of them."""
    x = dict(zip(FEATURES.columns, FEATURES.vector(VALUES).tolist(), strict=True))
    device, country = bucket({"device": "phone"}, 4), bucket({"country": "NL"}, 8)
    both, hourly = bucket({"device": "phone", "country": "NL"}, 16), bucket({"device": "phone"}, 4)
    assert {name: value for name, value in x.items() if value != 0.0} == {
        "1": 1.0,
        "hour": 0.5,
        "price": 2.0,
        f"device#{device}": 1.0,
        f"country#{country}": 1.0,
        "hour*price": 1.0,
        f"device*country#{both}": 1.0,
        f"hour*device#{hourly}": 0.5,
    }
    assert FEATURES.dimension == len(FEATURES.columns) == 1 + 2 + 4 + 8 + 1 + 16 + 4


def test_buckets_are_the_same_on_every_machine() -> None:
    """Golden numbers: another hash would give old sums other meanings."""
    assert [bucket({"device": word}, 1024) for word in ("phone", "tablet", "", "日本")] == [967, 958, 86, 67]


def test_buckets_spread() -> None:
    """1,000 words over 50 buckets: chi-square with 49 degrees of freedom below its 99.99% point."""
    counts = np.bincount([bucket({"id": str(i)}, 50) for i in range(1000)], minlength=50)
    assert ((counts - 20.0) ** 2 / 20.0).sum() < 97.0


def test_without_an_intercept_the_numbers_come_first() -> None:
    """Nothing is added that was not asked for."""
    plain = Features(numeric={"hour": Numeric()}, categorical={}, intercept=False)
    assert plain.vector({"hour": 3}).tolist() == [3.0]


def test_what_is_not_known_adds_nothing() -> None:
    """None is zero: the mean of a number, no bucket of a category, nor of its crosses."""
    x = FEATURES.vector({"hour": None, "price": 2.0, "device": None, "country": "NL"})
    zero = [name for name, value in zip(FEATURES.columns, x.tolist(), strict=True) if value != 0.0]
    assert zero == ["1", "price", f"country#{bucket({'country': 'NL'}, 8)}"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"our": 3.0}, "there is no feature 'our'; the policy has hour, price, device, country"),
        ({"hour": "late"}, "feature 'hour' = 'late': must be a finite number"),
        ({"hour": float("nan")}, "feature 'hour' = nan: must be a finite number"),
        ({"hour": 10**400}, "must be a finite number"),
        ({"device": 3}, "feature 'device' = 3: must be a string"),
    ],
)
def test_values_that_do_not_fit_are_refused(change: dict[str, Value], message: str) -> None:
    """By the feature's name, with the value."""
    with pytest.raises(FeatureError, match=message):
        FEATURES.vector(VALUES | change)


def test_a_missing_feature_is_refused() -> None:
    """What is left out by mistake must not be taken for unknown."""
    with pytest.raises(FeatureError, match="feature 'price' is missing; give its value, or None"):
        FEATURES.vector({name: value for name, value in VALUES.items() if name != "price"})


@pytest.mark.parametrize(
    ("numeric", "categorical", "crosses", "message"),
    [
        ({}, {}, (), "there are no features"),
        ({"a": Numeric()}, {"a": 3}, (), "both numeric and categorical"),
        ({}, {"a": 0}, (), "at least one bucket"),
        ({"a": Numeric()}, {}, (Cross(of=("a",)),), "must name two or more of the features a"),
        ({"a": Numeric()}, {}, (Cross(of=("a", "b")),), "must name two or more of the features a"),
        ({"a": Numeric(), "b": Numeric()}, {}, (Cross(of=("a", "b"), buckets=3),), "no buckets: all parts are numeric"),
        ({"a": Numeric()}, {"b": 2}, (Cross(of=("a", "b")),), "at least one bucket, because a part is categorical"),
    ],
)
def test_impossible_definitions_are_refused(
    numeric: dict[str, Numeric], categorical: dict[str, int], crosses: tuple[Cross, ...], message: str
) -> None:
    """When they are made, not at the first decision."""
    with pytest.raises(FeatureError, match=message):
        Features(numeric=numeric, categorical=categorical, crosses=crosses)


def test_constants_must_be_usable() -> None:
    """A standard deviation of zero would divide by it."""
    with pytest.raises(FeatureError, match="sd above zero"):
        Numeric(mean=0.0, sd=0.0)


@pytest.mark.parametrize(
    "other",
    [
        Features(numeric={"hour": Numeric(mean=12.0, sd=6.0)}, categorical={"device": 8}),
        Features(numeric={"hour": Numeric(mean=12.5, sd=6.0)}, categorical={"device": 4}),
        Features(numeric={"time": Numeric(mean=12.0, sd=6.0)}, categorical={"device": 4}),
        Features(numeric={"hour": Numeric(mean=12.0, sd=6.0)}, categorical={"device": 4}, intercept=False),
        Features(
            numeric={"hour": Numeric(mean=12.0, sd=6.0)},
            categorical={"device": 4},
            crosses=(Cross(("hour", "device"), 4),),
        ),
    ],
)
def test_the_fingerprint_changes_with_the_definition(other: Features) -> None:
    """And is the same for the same definition, in every process."""
    one = Features(numeric={"hour": Numeric(mean=12.0, sd=6.0)}, categorical={"device": 4})
    again = Features(numeric={"hour": Numeric(mean=12.0, sd=6.0)}, categorical={"device": 4})
    assert one.fingerprint == again.fingerprint == "features:d104b919134ab969"
    assert other.fingerprint != one.fingerprint


PROJECTION = "pca4:" + 32 * "a"


def with_texts(**changes: object) -> Features:
    """An intercept, a number, three components of a text, and a match."""
    given = {"texts": {"query": 3}, "projection": PROJECTION, "match": "query"} | changes
    return Features(numeric={"hour": Numeric()}, categorical={}, **given)  # type: ignore[arg-type]


def test_a_text_is_its_first_components_and_the_mean_where_there_is_no_vector() -> None:
    """In place, after the other features; the last column is the match's."""
    features = with_texts()
    assert features.columns == ("1", "hour", "query~0", "query~1", "query~2", "query.match")
    values: dict[str, Value] = {"hour": 2.0, "query": "red shoes"}
    z = np.array([0.5, -1.0, 3.0, 9.0])
    assert features.vector(values, {"query": z}).tolist() == [1.0, 2.0, 0.5, -1.0, 3.0, 0.0]
    for components, given in (({}, "red shoes"), (None, "red shoes"), ({"query": z}, None)):
        assert features.vector({**values, "query": given}, components).tolist() == [1.0, 2.0, 0.0, 0.0, 0.0, 0.0]
    with pytest.raises(FeatureError, match="must be a string"):
        features.vector({"hour": 2.0, "query": 3.0})


def test_a_fingerprint_tells_projections_texts_and_matches_apart() -> None:
    """And leaves those of policies without texts as they were."""
    others = [
        with_texts(),
        with_texts(projection="pca4:" + 32 * "b"),
        with_texts(match=None),
        with_texts(texts={"query": 2}),
        with_texts(texts={"page": 3}, match="page"),
    ]
    assert len({one.fingerprint for one in others}) == 5
    assert Features(numeric={"hour": Numeric()}, categorical={}).fingerprint == "features:80feae9b3945ba84"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"projection": None}, "texts need a projection"),
        ({"match": "page"}, "match must be one of them"),
        ({"match": "hour"}, "match must be one of them"),
        ({"texts": {"query": 0}}, "a component or more"),
        ({"texts": {"hour": 2}, "match": None}, "or one of these and a text"),
        ({"crosses": (Cross(of=("hour", "query")),)}, "must name two or more of the features hour"),
    ],
)
def test_impossible_texts_are_refused(changes: dict[str, object], message: str) -> None:
    """When they are declared."""
    with pytest.raises(FeatureError, match=message):
        with_texts(**changes)
