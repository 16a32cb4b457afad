"""How clicks are cut at a time, what a head is learned on, and what it loses on the rows after that time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from policies.bilinear import Sides, learned_head, losses

if TYPE_CHECKING:
    import numpy.typing as npt

    from encoders.tuning import Rows
    from policies.batch import FloatArray
    from streams.tuning_rows import Shown

LEAST_ROWS, LEAST_CLICKS, LEAST_TEXTS = 200, 10, 3
LARGEST = 10.0
"""Standard deviations at which a number of a context is cut off."""


class TooFewError(ValueError):
    """There is too little to tune or to compare on."""

    retriable = True


def rows_of(shown: Shown, cut: int) -> Rows:
    """Numbers of contexts in the units of the earlier rows; what is the same in all of these is left out."""
    from encoders.tuning import Rows

    first = shown.x[:cut]
    sd = first.std(axis=0)
    varies = sd > 1e-9 * np.maximum(np.abs(first).max(axis=0, initial=0.0), 1e-30)
    x = (shown.x[:, varies] - first[:, varies].mean(axis=0)) / sd[varies]
    return Rows(
        x=np.hstack([np.ones((len(x), 1)), np.clip(x, -LARGEST, LARGEST)]),
        arm=shown.arm,
        context=shown.context,
        click=shown.click,
    )


def cut_at(shown: Shown, held_out: float) -> int:
    """How many rows are before the held-out time. Raises TooFewError if there is too little on either side."""
    n = len(shown.click)
    cut = int(np.searchsorted(shown.ts, shown.ts[round((1.0 - held_out) * n)])) if n >= LEAST_ROWS else 0
    clicks = (int(shown.click[:cut].sum()), int(shown.click[cut:].sum()))
    others = (cut - clicks[0], n - cut - clicks[1])
    texts = len(np.unique(shown.arm[:cut]))
    if n < LEAST_ROWS or cut < LEAST_ROWS // 2 or n - cut < 20 or min(*clicks, *others) < LEAST_CLICKS:
        raise TooFewError(
            f"{n} impressions with texts, {shown.without_text} more without; {cut} before the held-out time with {clicks[0]} clicks, "
            f"{n - cut} after with {clicks[1]}: at least {LEAST_ROWS} are needed, with {LEAST_CLICKS} clicks and {LEAST_CLICKS} others "
            "on either side; wait for more, or take more by --rows"
        )
    if texts < LEAST_TEXTS and shown.context is None:
        raise TooFewError(f"{texts} different texts were shown; at least {LEAST_TEXTS} are needed to learn from")
    return cut


def compared(z: FloatArray, rows: Rows, cut: int) -> npt.NDArray[np.float64]:
    """Held-out losses (n - cut,) of a head that is learned on the rows before `cut`, with vectors z (texts, k).

    Vectors are scaled alike, so that a penalty means the same for both encoders.
    """
    first, rest = rows.part(slice(0, cut)), rows.part(slice(cut, None))
    seen = z[first.texts]
    z = (z - seen.mean(axis=0)) / max(float(np.sqrt(seen.var(axis=0).mean())), 1e-12)
    learned, held = sides_of(first, z), sides_of(rest, z)
    M, _ = learned_head(learned)
    return losses(M, held)


def sides_of(rows: Rows, z: FloatArray) -> Sides:
    """Both sides of rows with vectors z (texts, k)."""
    u, f = rows.sides(z)
    return Sides(u=u, f=f, click=rows.click)
