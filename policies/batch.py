"""The rows that a model adds to its sums: impressions, and changes of their rewards."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows to add to the sums of one policy; n impressions and m changes of reward, in any order.

    A change of reward belongs to an impression that may have come in an earlier batch, so it brings that impression's
    context and time. Numbers must be finite: one NaN would stay in an arm's sums for ever.

    Attributes:
        arms: names that `arm` and `reward_arm` point to; more of them than are used is fine.
        arm: (n,) index into `arms`.
        x: (n, d) contexts, float32 or float64; float32 is widened without loss.
        ts: (n,) event time of the impression, ms UTC.
        reward_arm: (m,) index into `arms`.
        reward_x: (m, d) contexts of the impressions.
        reward_ts: (m,) event time of the impressions (not of the clicks), ms UTC: weights go by it.
        reward: (m,) change of the impression's reward.
        square: (m,) change of the squared reward, new^2 - old^2.
        points: (k, d) reference weights that rows are linearised around (policies/references.py); None if there are none.
        point: (n,) index into `points`, -1 for the model's own point; None if there are none.

    Raises:
        ValueError: lengths differ, or an index points outside `arms` or `points`.

    >>> import numpy as np
    >>> batch = Batch(arms=("a",), arm=np.array([0]), x=np.ones((1, 2)), ts=np.array([1000]), reward_arm=np.array([0]),
    ...     reward_x=np.ones((1, 2)), reward_ts=np.array([1000]), reward=np.array([1.0]), square=np.array([1.0]))
    >>> len(batch.arm), batch.x.shape
    (1, (1, 2))
    """

    arms: tuple[str, ...]
    arm: npt.NDArray[np.intp]
    x: npt.NDArray[np.float32] | FloatArray
    ts: IntArray
    reward_arm: npt.NDArray[np.intp]
    reward_x: npt.NDArray[np.float32] | FloatArray
    reward_ts: IntArray
    reward: FloatArray
    square: FloatArray
    points: FloatArray | None = None
    point: npt.NDArray[np.intp] | None = None

    def __post_init__(self) -> None:
        told = {} if self.point is None else {"point": self.point}
        _same_length("impressions", len(self.arm), x=self.x, ts=self.ts, **told)
        _same_length(
            "rewards",
            len(self.reward_arm),
            reward_x=self.reward_x,
            reward_ts=self.reward_ts,
            reward=self.reward,
            square=self.square,
        )
        _in_range("arm", self.arm, len(self.arms))
        points = 0 if self.points is None else len(self.points)
        if self.point is not None and len(self.point) and not (self.point.min() >= -1 and self.point.max() < points):
            raise ValueError(
                f"point holds indices from {self.point.min()} to {self.point.max()}; allowed: -1 (none) to {points - 1}, into points"
            )
        _in_range("reward_arm", self.reward_arm, len(self.arms))

    def only(self, shown: npt.NDArray[np.bool_], rewarded: npt.NDArray[np.bool_]) -> Batch:
        """Some of the impressions (n,) and some of the changes of reward (m,)."""
        return replace(
            self,
            arm=self.arm[shown],
            x=self.x[shown],
            ts=self.ts[shown],
            point=None if self.point is None else self.point[shown],
            reward_arm=self.reward_arm[rewarded],
            reward_x=self.reward_x[rewarded],
            reward_ts=self.reward_ts[rewarded],
            reward=self.reward[rewarded],
            square=self.square[rewarded],
        )


def _same_length(what: str, length: int, **columns: npt.NDArray[np.generic]) -> None:
    wrong = {name: len(column) for name, column in columns.items() if len(column) != length}
    if wrong:
        raise ValueError(f"a batch of {length} {what} has columns of other lengths: {wrong}; give one row for each")


def _in_range(name: str, index: npt.NDArray[np.intp], arms: int) -> None:
    if len(index) and (index.min() < 0 or index.max() >= arms):
        raise ValueError(
            f"{name} holds indices from {index.min()} to {index.max()}; allowed: 0 to {arms - 1}, into arms"
        )
