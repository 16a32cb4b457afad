"""Linear-Gaussian sums, disjoint arms: A = sum w x x^T and b = sum w r x of every arm (Li et al. 2010, section 3.1).

What sums are, how they add and how they are written: policies/linear_sums.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from policies.batch import FloatArray
from policies.decay import EARLIEST_MS, forgetting, pending, shares
from policies.linear_sums import LinearSums, Waiting, decode, encode, merge, negative
from policies.rows import Touched, total_weight
from policies.sums import Effective
from policies.triangle import unpack_symmetric, upper_positions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from policies.batch import Batch


class LinearModel:
    """Sums for Bayesian linear regression of the reward on the context, one regression for each arm.

    Args:
        dimension: d, length of the context. It enters verbatim: give it a constant if there is to be an intercept.
        half_life_s: half-life of old rows in seconds, taken to whole milliseconds; 0 forgets nothing.
        delays_s: mean delays in seconds; rows count as pending by the equal mixture of these exponentials.

        encoder: fingerprint of the encoder whose output the contexts are (a neural-linear model: Riquelme et al. 2018,
            section 3), None for contexts that are features themselves. Sums of one encoder mean nothing to another.
        name: which posterior is to be taken of the sums: "linear", "hybrid" or "student". The sums are the same.

    Raises:
        ValueError: a setting that cannot work.

    >>> import numpy as np
    >>> from policies.batch import Batch
    >>> rows = Batch(arms=("a",), arm=np.array([0, 0]), x=np.array([[1.0, 2.0], [1.0, -1.0]]), ts=np.array([1, 2]),
    ...     reward_arm=np.array([0]), reward_x=np.array([[1.0, 2.0]]), reward_ts=np.array([1]),
    ...     reward=np.ones(1), square=np.ones(1))
    >>> model = LinearModel(dimension=2)
    >>> read = model.at(model.update({}, rows)["a"], now_ms=10)
    >>> read.A.tolist(), read.b.tolist(), read.n_eff
    ([[2.0, 1.0], [1.0, 5.0]], [1.0, 2.0], 2.0)
    """

    family = "linear"

    def __init__(
        self,
        *,
        dimension: int,
        half_life_s: float = 0.0,
        delays_s: tuple[float, ...] = (),
        encoder: str | None = None,
        name: str = "linear",
    ) -> None:
        if dimension < 1:
            raise ValueError(
                f"dimension = {dimension}: must be at least 1, the length of the context; or use the model 'beta'"
            )
        self.name = name
        self.encoder = encoder
        self.dimension = dimension
        self.half_life_s = float(half_life_s)
        self.delays_s = tuple(float(delay) for delay in delays_s)
        self._decay = forgetting(half_life_s)
        self._waits = tuple(pending(delay, self._decay) for delay in self.delays_s)
        self._upper = upper_positions(dimension)

    @property
    def timeless(self) -> bool:
        """Whether reading the same sums later gives the same numbers."""
        return self._decay.none and not self._waits

    def zero(self) -> LinearSums:
        """Sums of no rows."""
        nothing = np.zeros(len(self._upper))
        return LinearSums(
            n=0.0,
            count=0.0,
            reward=0.0,
            square=0.0,
            landmark_ms=self._decay.landmark_ms(EARLIEST_MS),
            newest_ms=EARLIEST_MS,
            b=np.zeros(self.dimension),
            A=nothing,
            pending=tuple(Waiting(landmark_ms=wait.landmark_ms(EARLIEST_MS), n=0.0, A=nothing) for wait in self._waits),
            encoder=self.encoder,
        )

    def update(self, sums: Mapping[str, LinearSums], batch: Batch) -> dict[str, LinearSums]:
        """Return the arms' sums with the batch's rows added; arms that it does not touch keep their very objects.

        One matrix product for each arm that was shown, and for each delay; rewards add to vectors only.

        Raises:
            ValueError: the contexts are not (n, d).
        """
        for name, x in (("x", batch.x), ("reward_x", batch.reward_x)):
            if x.ndim != 2 or x.shape[1] != self.dimension:
                raise ValueError(f"{name} has shape {x.shape}; the model needs (n, {self.dimension})")
        touched = Touched(sums, batch, zero=self.zero())
        if not touched.names:
            return dict(sums)
        decays = (self._decay, *self._waits)
        marks = [decay.landmarks_ms(touched.newest_ms) for decay in decays]
        weights = [
            touched.weights(decay, touched.shown, touched.at_shown, mark)
            for decay, mark in zip(decays, marks, strict=True)
        ]
        products = self._products(touched, batch.x, weights)
        n = [touched.spread(total_weight(touched.shown, w), touched.at_shown).tolist() for w in weights]
        count = touched.spread(total_weight(touched.shown, None), touched.at_shown).tolist()
        earned = self._earned(touched, batch, marks[0])
        landmarks = [mark.tolist() for mark in marks]
        result = dict(sums)
        for i, name in enumerate(touched.names):
            new = LinearSums(
                n=n[0][i],
                count=count[i],
                reward=float(earned[i, 0]),
                square=float(earned[i, 1]),
                landmark_ms=landmarks[0][i],
                newest_ms=int(touched.newest_ms[i]),
                b=earned[i, 2:],
                A=products[i][0],
                pending=tuple(
                    Waiting(landmark_ms=landmarks[j][i], n=n[j][i], A=products[i][j]) for j in range(1, len(decays))
                ),
                encoder=self.encoder,
            )
            result[name] = self.merge(touched.old[i], new)
        return result

    def _products(
        self, touched: Touched, x: npt.NDArray[Any], weights: list[FloatArray | None]
    ) -> list[list[FloatArray]]:
        """Sum of w x x^T (upper triangle) of each touched arm under each of the weights.

        An arm's rows are gathered and widened when their turn comes: in small pieces that stay in the cache.
        """
        rows, d = touched.shown, self.dimension
        nothing = [np.zeros(len(self._upper))] * len(weights)
        products = [nothing] * len(touched.names)
        square = np.empty((d, d))
        flat = square.ravel()
        bounds = zip(touched.at_shown.tolist(), rows.starts.tolist(), rows.sizes.tolist(), strict=True)
        for i, start, size in bounds:
            stop = start + size
            block = x.take(rows.order[start:stop], axis=0).astype(np.float64)
            packed = []
            for w in weights:
                weighted = (
                    block.copy() if w is None else block * w[start:stop, None]
                )  # numpy's X.T @ X of one array is slower
                np.matmul(weighted.T, block, out=square)
                packed.append(flat.take(self._upper))
            products[i] = packed
        return products

    def _earned(self, touched: Touched, batch: Batch, landmarks: npt.NDArray[np.int64]) -> FloatArray:
        """(t, 2 + d): sums of w r, w r^2 and w r x over the changes of reward."""
        rows, at = touched.rewarded, touched.at_rewarded
        weights = touched.weights(self._decay, rows, at, landmarks)
        reward = batch.reward[rows.order]
        square = batch.square[rows.order]
        values = np.empty((len(reward), 2 + self.dimension))
        values[:, 0] = reward if weights is None else reward * weights
        values[:, 1] = square if weights is None else square * weights
        np.multiply(batch.reward_x.take(rows.order, axis=0), values[:, :1], out=values[:, 2:])
        spread: FloatArray = touched.spread(rows.totals(values), at)
        return spread

    def merge(self, left: LinearSums, right: LinearSums) -> LinearSums:
        """Sums of the rows of both, at the later landmark.

        Raises:
            ValueError: the sums are of another encoder.

        >>> model = LinearModel(dimension=2)
        >>> model.merge(model.zero(), model.zero()).A.tolist()
        [0.0, 0.0, 0.0]
        """
        for sums in (left, right):
            if sums.encoder != self.encoder:
                raise ValueError(
                    f"sums are of the encoder {sums.encoder!r}, the model is of {self.encoder!r}: vectors of different "
                    "encoders cannot be added; learn anew under another policy name, beside the old one until it has enough data"
                )
        return merge(left, right, decay=self._decay, waits=self._waits)

    def negative(self, sums: LinearSums) -> LinearSums:
        """What takes these rows back when it is merged; times stay as they are."""
        return negative(sums)

    def encode(self, sums: LinearSums) -> dict[str, object]:
        """Sums as a map that MessagePack can hold; layout in policies/records.py."""
        return encode(sums, self._settings())

    def decode(self, record: Mapping[str, object]) -> LinearSums:
        """Read what `encode` wrote; unknown keys are ignored. Raises RecordError if it cannot be used."""
        return decode(record, self._settings(), dimension=self.dimension)

    def at(self, sums: LinearSums, *, now_ms: int, weights: Sequence[float] | None = None) -> Effective:
        """Sums as they count at event time `now_ms`, or at the arm's newest event if that is later.

        A_eff = 2^(-(t - L)/H) A - sum over delays of v P, with P pending and v its weight; likewise n_eff. `weights`: (K,) v of the
        delays, adding to 1; None are equal ones.
        """
        now_ms = max(now_ms, sums.newest_ms)
        kept = self._decay.weight(since_ms=sums.landmark_ms - now_ms)
        n_eff, A = kept * sums.n, kept * sums.A
        for v, wait, p in zip(shares(weights, len(self._waits)), self._waits, sums.pending, strict=True):
            left = wait.weight(since_ms=p.landmark_ms - now_ms) * v
            n_eff -= left * p.n
            A -= left * p.A
        return Effective(
            n_eff=n_eff,
            count=sums.count,
            reward=kept * sums.reward,
            square=kept * sums.square,
            b=kept * sums.b,
            A=unpack_symmetric(A, self.dimension),
        )

    def _settings(self) -> dict[str, Any]:
        return {
            "model": self.family,
            "d": self.dimension,
            "half_life_s": self.half_life_s,
            "delays_s": self.delays_s,
            "encoder": self.encoder,
        }
