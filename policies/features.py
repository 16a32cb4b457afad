"""Named features that compile to a context vector: what an ad server knows, in its own words.

The vector is, in this order: the constant 1 if there is an intercept; each numeric feature as (value - mean)/sd with
fixed constants; each categorical feature as one 1 among its buckets; each cross of features, a column or a block of
buckets. A value's bucket is the first 8 bytes, little-endian, of BLAKE2b over the names and values, modulo the number of
buckets (Weinberger et al. 2009, "Feature hashing", without the random sign): the same on every machine, no dictionary to
keep, and values that share a bucket share its weight. Then each text as the first components of its vector under a named
projection (policies/projection.py), zeros where there is no vector; last, if there is one, the column of the interest match,
which differs between arms (policies/arm_contexts.py) and is 0 here.

The constants are part of the definition and never estimated here: a vector is a function of values and definition alone.
The fingerprint names the definition, so that sums and snapshots of another are told apart.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policies.batch import FloatArray

Value = float | str | bool | None
"""What a feature may be: a number (or bool) if numeric, a string if categorical or a text, None if it is not known."""


class FeatureError(ValueError):
    """Values that do not go with the definition, or a definition that makes no sense."""

    retriable = False


@dataclass(frozen=True, slots=True)
class Numeric:
    """A number that enters as (value - mean)/sd; both are constants in the value's unit."""

    mean: float = 0.0
    sd: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0.0 < self.sd < math.inf):
            raise FeatureError(f"mean = {self.mean}, sd = {self.sd}: both must be finite and sd above zero")


@dataclass(frozen=True, slots=True)
class Cross:
    """A product of features: of the numbers among them, in the bucket of the categories among them.

    Attributes:
        of: two or more names.
        buckets: columns for the categories; None where all are numeric, which makes one column.
    """

    of: tuple[str, ...]
    buckets: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """A definition of named features.

    Args:
        numeric: numbers by name.
        categorical: number of buckets by name.
        crosses: products of these.
        intercept: whether the vector begins with a constant 1.
        texts: number of components by name.
        projection: name of the projection that makes these, and the match.
        match: which of the texts arms' texts are matched with.

    Raises:
        FeatureError: no feature at all, a name used twice, a cross of names that there are not, or no buckets.

    >>> features = Features(numeric={"hour": Numeric(mean=12.0, sd=6.0)}, categorical={"device": 4})
    >>> features.dimension
    6
    >>> features.vector({"hour": 18.0, "device": "phone"}).tolist()
    [1.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    >>> features.vector({"hour": 18.0, "devise": "phone"})
    Traceback (most recent call last):
    policies.features.FeatureError: there is no feature 'devise'; the policy has hour, device
    """

    numeric: Mapping[str, Numeric]
    categorical: Mapping[str, int]
    crosses: tuple[Cross, ...] = ()
    intercept: bool = True
    texts: Mapping[str, int] = field(default_factory=dict)
    projection: str | None = None
    match: str | None = None

    def __post_init__(self) -> None:
        names = self.names
        if not names:
            raise FeatureError("there are no features; name at least one, numeric or categorical or a text")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise FeatureError(f"{twice} are both numeric and categorical, or one of these and a text; choose one")
        none = {name: length for name, length in self.texts.items() if length < 1}
        if none or (self.texts and self.projection is None) or self.match not in (None, *self.texts):
            raise FeatureError(
                f"texts = {dict(self.texts)}, projection = {self.projection!r}, match = {self.match!r}: texts need a "
                "projection and a component or more each, and match must be one of them"
            )
        empty = {name: buckets for name, buckets in self.categorical.items() if buckets < 1}
        if empty:
            raise FeatureError(f"categorical = {empty}: must have at least one bucket each")
        for cross in self.crosses:
            self._check(cross)

    def _check(self, cross: Cross) -> None:
        known = (*self.numeric, *self.categorical)
        unknown = [name for name in cross.of if name not in known]
        if unknown or len(cross.of) < 2:
            raise FeatureError(f"a cross of {list(cross.of)}: must name two or more of the features {', '.join(known)}")
        hashed = any(name in self.categorical for name in cross.of)
        if hashed != (cross.buckets is not None) or (cross.buckets is not None and cross.buckets < 1):
            needs = (
                "at least one bucket, because a part is categorical" if hashed else "no buckets: all parts are numeric"
            )
            raise FeatureError(f"a cross of {list(cross.of)} with buckets = {cross.buckets}: must have {needs}")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The features' names: the numeric ones, the categorical, the texts."""
        return (*self.numeric, *self.categorical, *self.texts)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """(d,) what each component of the vector is: "1", "hour", "device#0", "hour*device#3", "query~0", "query.match"."""
        blocks = [(name, buckets) for name, buckets in self.categorical.items()]
        blocks += [("*".join(cross.of), cross.buckets or 0) for cross in self.crosses]
        hashed = [f"{name}#{i}" if buckets else name for name, buckets in blocks for i in range(buckets or 1)]
        texts = [f"{name}~{j}" for name, length in self.texts.items() for j in range(length)]
        match = () if self.match is None else (f"{self.match}.match",)
        return (*(("1",) if self.intercept else ()), *self.numeric, *hashed, *texts, *match)

    @property
    def dimension(self) -> int:
        """d, length of the vector."""
        return len(self.columns)

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with anything in the definition that changes a vector."""
        definition: dict[str, object] = {
            "numeric": [[name, of.mean, of.sd] for name, of in self.numeric.items()],
            "categorical": list(self.categorical.items()),
            "crosses": [[cross.of, cross.buckets] for cross in self.crosses],
            "intercept": self.intercept,
        }
        if self.projection is not None:
            definition |= {"texts": list(self.texts.items()), "projection": self.projection, "match": self.match}
        return "features:" + hashlib.blake2b(json.dumps(definition).encode(), digest_size=8).hexdigest()

    def vector(self, values: Mapping[str, Value], components: Mapping[str, FloatArray] | None = None) -> FloatArray:
        """(d,) context of named values. None adds nothing: zeros, which for a number or a text is the mean.

        Args:
            values: by name.
            components: of the texts, by name, as many as are declared or more; a text that is left out is at the mean.

        Raises:
            FeatureError: a name that there is not, one that is missing, or a value of another kind.
        """
        unknown = [name for name in values if name not in self.names]
        if unknown:
            raise FeatureError(f"there is no feature {unknown[0]!r}; the policy has {', '.join(self.names)}")
        missing = [name for name in self.names if name not in values]
        if missing:
            raise FeatureError(f"feature {missing[0]!r} is missing; give its value, or None if it is not known")
        numbers = {name: self._number(name, values[name]) for name in self.numeric}
        words = {name: self._word(name, values[name]) for name in (*self.categorical, *self.texts)}
        x = np.zeros(self.dimension)
        at = int(self.intercept)
        x[:at] = 1.0
        for number in numbers.values():
            x[at] = number
            at += 1
        for name, buckets in self.categorical.items():
            at = _put(x, at, 1.0, {name: words[name]}, buckets)
        for cross in self.crosses:
            product = math.prod(numbers[name] for name in cross.of if name in numbers)
            at = _put(x, at, product, {name: words[name] for name in cross.of if name in words}, cross.buckets or 1)
        for name, length in self.texts.items():
            found = None if components is None or words[name] is None else components.get(name)
            x[at : at + length] = 0.0 if found is None else found[:length]
            at += length
        return x

    def _number(self, name: str, value: Value) -> float:
        if value is None:
            return 0.0
        constants = self.numeric[name]
        try:
            number = math.nan if isinstance(value, str) else (float(value) - constants.mean) / constants.sd
        except (TypeError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise FeatureError(f"feature {name!r} = {value!r}: must be a finite number, or None if it is not known")
        return number

    def _word(self, name: str, value: Value) -> str | None:
        if value is not None and not isinstance(value, str):
            raise FeatureError(f"feature {name!r} = {value!r}: must be a string, or None if it is not known")
        return value


def bucket(words: Mapping[str, str], buckets: int) -> int:
    """Bucket of named words, in their order.

    >>> bucket({"device": "phone"}, 4)
    3
    """
    digest = hashlib.blake2b(json.dumps(list(words.items())).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % buckets


def _put(x: FloatArray, at: int, value: float, words: Mapping[str, str | None], buckets: int) -> int:
    """Add a value in the bucket of the words of the block at `at`, nothing if one is not known; where the next begins."""
    known = {name: word for name, word in words.items() if word is not None}
    if len(known) == len(words):
        x[at + (bucket(known, buckets) if known else 0)] = value
    return at + buckets
