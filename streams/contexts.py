"""From a context as it is given to the vector that a policy decides by, and the names of its components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from policies.features import FeatureError, Value
from streams.texts import Compiled, Texts

if TYPE_CHECKING:
    from policies.snapshot import Snapshot
    from streams.settings import Settings

FloatArray = npt.NDArray[np.float64]
Context = Sequence[float] | FloatArray | Mapping[str, Value]


def compiled(settings: Settings, policy: str, context: Context, snapshot: Snapshot | None, texts: Texts) -> Compiled:
    """Context of a policy, compiled from the values of its features if these are given by name.

    Raises:
        FeatureError: no such feature, or one is missing; or the snapshot was learned from features of others.
    """
    known = settings.policies.get(policy)
    declared = None if known is None else known.fingerprint
    if declared is not None and snapshot is not None and snapshot.encoder != declared:
        raise FeatureError(
            f"snapshot {snapshot.version} of policy {policy!r} was learned from contexts of {snapshot.encoder!r}, the "
            f"settings here make {declared!r}: give learner, publisher and ad servers the same features"
        )
    if not isinstance(context, Mapping):
        return Compiled(np.asarray(context, np.float64))
    if known is None or known.features is None:
        raise FeatureError(
            f"policy {policy!r} has no named features in the settings: declare [policies.{policy}.features], "
            "or give the context as a vector"
        )
    return texts.compiled(policy, known.features.features, context)


def components(settings: Settings, policy: str, length: int) -> tuple[str, ...]:
    """Names of the `length` parts that an explanation has: the declared features' columns, else x0, x1, ..."""
    known = settings.policies.get(policy)
    columns = () if known is None or known.features is None else known.features.features.columns
    return columns if len(columns) == length else tuple(f"x{i}" for i in range(length))
