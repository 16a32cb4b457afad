"""Taking impressions out of sums that they were added to: the sums of the rest, as though the rows had never come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policies.batch import Batch
    from policies.model import Model


def without(sums: Mapping[str, Any], batch: Batch, *, model: Model) -> dict[str, Any]:
    """Sums by arm less those of a batch whose rows they hold; arms that it does not touch keep their very objects.

    S - U(B), by `Model.negative` and `Model.merge`, with U(B) the sums of the batch alone. A row's weight goes by its own event
    time whenever it is added or taken out, so the pending accumulators lose what they gained. Exact where the
    numbers are (counts always, dyadic contexts and weights), else to rounding. Times stay: `newest_ms` is that of
    what was ever added.

    Args:
        sums: by arm.
        batch: n impressions, and m changes of reward, that were added before.
        model: of the sums.

    >>> import numpy as np
    >>> from policies.batch import Batch
    >>> from policies.linear import LinearModel
    >>> rows = Batch(arms=("a",), arm=np.zeros(2, int), x=np.array([[1.0], [3.0]]), ts=np.array([1, 2]),
    ...     reward_arm=np.zeros(0, int), reward_x=np.zeros((0, 1)), reward_ts=np.zeros(0, int), reward=np.zeros(0), square=np.zeros(0))
    >>> model, second = LinearModel(dimension=1), rows.only(np.array([False, True]), np.zeros(0, bool))
    >>> left = without(model.update({}, rows), second, model=model)["a"]
    >>> left.n, left.A.tolist()
    (1.0, [1.0])
    """
    taken = model.update({}, batch)
    return {
        **sums,
        **{arm: model.merge(sums.get(arm, model.zero()), model.negative(one)) for arm, one in taken.items()},
    }
