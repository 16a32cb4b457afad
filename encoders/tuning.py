"""Tuning an encoder on clicks: a projection of its vectors, with the transformer held or adapted at low rank.

A text's vector is z = W v + b with v the encoder's own one, so W (k, D) begins at the k first principal components and what comes
out is as long as a policy wants its features. A click's odds are u^T M f with u = (1, x, z of the context's text) and f = (1, z of
the arm's text), the head of `policies.bilinear`. A (`Start`), b, M and the low-rank parts (`encoders.lora`) follow the gradient of the
log-loss by Adam (Kingma & Ba 2015); the last rows are watched and the best epoch is kept, the start being one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from encoders.dense import Dense
    from encoders.principal import Start

Index = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]
Pooled = Callable[[Index], torch.Tensor]
"""Vectors (m, D) of texts by their numbers (m,), with a gradient where the transformer is trained."""

WATCHED = 0.2
"""Share of the rows, the last ones, whose loss says when to end."""
NEAR = 0.003
"""Penalty of A's squared distance from its start, for each component."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """What was shown, in the order of event time.

    Attributes:
        x: (n, p) numbers of the context, the constant 1 first.
        arm: (n,) number of the arm's text.
        context: (n,) number of the context's text; None if contexts have none.
        click: (n,) 0 or 1.
    """

    x: Floats
    arm: Index
    context: Index | None
    click: Floats

    def __len__(self) -> int:
        return len(self.click)

    def part(self, rows: slice | Index) -> Rows:
        """Some of the rows."""
        return Rows(
            x=self.x[rows],
            arm=self.arm[rows],
            context=None if self.context is None else self.context[rows],
            click=self.click[rows],
        )

    @property
    def texts(self) -> Index:
        """Numbers of the texts that occur, ascending."""
        return np.unique(self.arm if self.context is None else np.concatenate([self.arm, self.context]))

    def sides(self, z: Floats) -> tuple[Floats, Floats]:
        """Both sides, u (n, p) or (n, p + k) and f (n, 1 + k), with the vectors z (texts, k)."""
        u = self.x if self.context is None else np.hstack([self.x, z[self.context]])
        return u, np.hstack([np.ones((len(self), 1)), z[self.arm]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long and how fast.

    Attributes:
        epochs: times through the rows at most.
        patience: epochs without a better one, after which it ends.
        batch: rows of a step.
        rate: step of Adam in A, b and M, over the number of units: a step moves each number, and they add up in z.
        adapted_rate: step of Adam in the low-rank parts.
    """

    epochs: int = 30
    patience: int = 5
    batch: int = 256
    rate: float = 0.6
    adapted_rate: float = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """W and b of the best epoch, and the watched rows' mean loss by epoch, the start's first."""

    dense: Dense
    losses: tuple[float, ...]

    @property
    def epoch(self) -> int:
        """The best one; 0 is the start."""
        return int(np.argmin(self.losses))


def unwatched(rows: Rows) -> Rows:
    """The rows that `tune` learns from: all but the last, which it watches."""
    return rows.part(slice(0, len(rows) - max(1, round(WATCHED * len(rows)))))


def tune(
    pooled: Pooled,
    rows: Rows,
    *,
    start: Start,
    head: Floats,
    ridge: float,
    adapted: Sequence[torch.nn.Parameter] = (),
    effort: Effort,
    seed: int,
) -> Tuned:
    """Follow the gradient from a start. The parameters in `adapted` are left as they were in the best epoch.

    Args:
        pooled: the encoder's own vectors.
        rows: to learn from, and, the last of them, to watch.
        start: where W and b begin.
        head: M (p, q) that was learned with the start, on the rows that are not watched.
        ridge: its penalty, as in `policies.bilinear.head`.
        adapted: low-rank parts to train, too.
        effort: how long and how fast.
        seed: of the order of the rows.
    """
    learned = unwatched(rows)
    watched = rows.part(slice(len(learned), None))
    weight, bias = start.weight.clone().requires_grad_(), torch.zeros(len(start.weight), requires_grad=True)
    M = torch.tensor(head, dtype=torch.float32, requires_grad=True)
    groups = [
        {"params": [weight, bias, M], "lr": effort.rate / start.weight.shape[1]},
        {"params": list(adapted), "lr": effort.adapted_rate},
    ]
    optimiser = torch.optim.Adam([group for group in groups if group["params"]])
    generator = torch.Generator().manual_seed(seed)

    def seen(texts: Index) -> torch.Tensor:
        return start.units(pooled(texts))

    trained = [weight, bias, M, *adapted]
    best, kept, losses = math.inf, [one.detach().clone() for one in trained], list[float]()
    for epoch in range(effort.epochs + 1):
        if epoch:
            order = torch.randperm(len(learned), generator=generator).numpy()
            for first in range(0, len(order), effort.batch):
                optimiser.zero_grad()
                loss = _loss(seen, learned.part(order[first : first + effort.batch]), weight, bias, M)
                held = M.square().sum() - M[0, 0] ** 2
                moved = (weight - start.weight).square().sum() / len(weight)
                (loss + 0.5 * ridge / len(learned) * held + NEAR * moved).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        losses.append(_watched(seen, watched, weight, bias, M, effort.batch))
        if losses[-1] < best:
            best, kept = losses[-1], [one.detach().clone() for one in trained]
        elif epoch - int(np.argmin(losses)) >= effort.patience or not math.isfinite(losses[-1]):
            break
    with torch.no_grad():
        for parameter, value in zip(trained, kept, strict=True):
            parameter.copy_(value)
    return Tuned(start.dense(weight, bias), tuple(losses))


def _loss(pooled: Pooled, rows: Rows, weight: torch.Tensor, bias: torch.Tensor, M: torch.Tensor) -> torch.Tensor:
    """Mean log-loss; each text of the rows goes through the encoder once."""
    texts = rows.texts
    z = functional.linear(pooled(texts), weight, bias)
    f = z[torch.from_numpy(np.searchsorted(texts, rows.arm))]
    u = torch.from_numpy(rows.x.astype(np.float32))
    if rows.context is not None:
        u = torch.cat([u, z[torch.from_numpy(np.searchsorted(texts, rows.context))]], dim=1)
    odds = ((u @ M) * torch.cat([torch.ones(len(f), 1), f], dim=1)).sum(dim=1)
    return functional.binary_cross_entropy_with_logits(odds, torch.from_numpy(rows.click.astype(np.float32)))


def _watched(
    pooled: Pooled, rows: Rows, weight: torch.Tensor, bias: torch.Tensor, M: torch.Tensor, batch: int
) -> float:
    total = 0.0
    with torch.no_grad():
        for first in range(0, len(rows), batch):
            part = rows.part(slice(first, first + batch))
            total += float(_loss(pooled, part, weight, bias, M)) * len(part)
    return total / len(rows)
