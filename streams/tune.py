"""What `clickloop encoder tune` does: tune the settings' encoder on clicks, compare on held-out time, publish if it is better.

    1. The rows are cut at a time: the last share is held out, and nothing below looks at it until step 5.
    2. The encoder's vectors of the earlier rows' texts are projected to principal components, and a head is learned (policies/bilinear.py).
    3. Projection, head and low-rank parts follow the gradient from there (encoders/tuning.py).
    4. The tuned encoder is written beside its place and loaded as a worker would load it.
    5. Heads are learned anew on the earlier rows, in the same way, with the vectors of both; the held-out log-losses are compared.
    6. If the interval of the gain is above zero, the folder gets its name. Otherwise it is deleted.

A crash before step 6 leaves a folder whose name begins with a dot, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from policies.bilinear import Sides, gain, head, learned_head, losses
from streams import logs
from streams.settings_errors import SettingsError

if TYPE_CHECKING:
    import numpy.typing as npt

    from encoders.model import Encoder
    from encoders.tuning import Rows, Start
    from policies.batch import FloatArray
    from streams.settings_encoder import EncoderSettings
    from streams.tuning_rows import Shown

Method = Literal["projection", "lora"]
RIDGE = 1.0
"""Penalty of the head while the encoder is tuned: a small one, as a head near zero lets no gradient through."""
LEAST_ROWS, LEAST_CLICKS, LEAST_TEXTS = 200, 10, 3

log = logs.get(__name__)


class TooFewError(ValueError):
    """There is too little to tune or to compare on."""

    retriable = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to tune.

    Attributes:
        method: "projection" holds the transformer, "lora" adapts it, too.
        dimension: numbers of a tuned vector at most.
        rank: of what is added to a query or value projection.
        epochs: times through the rows at most.
        held_out: share of the rows, the last by event time, that is compared on.
        seed: of the order of the rows, the low-rank parts and the bootstrap.
    """

    method: Method = "projection"
    dimension: int = 32
    rank: int = 8
    epochs: int = 30
    held_out: float = 0.2
    seed: int = 0


def tuned(settings: EncoderSettings, shown: Shown, target: Path, options: Options) -> dict[str, Any]:
    """Tune, compare, and publish in `target` if it is better; what was found.

    Raises:
        ModelError: the model cannot be loaded or adapted, or `target` cannot be made.
        SettingsError: there is no encoder in the settings.
        TooFewError: rows, clicks or texts are too few.
    """
    from encoders.folder import locate, read_folder
    from encoders.tuned_folder import beside, check_target, publish

    if settings.model is None:
        raise SettingsError(
            "encoder.model is not set; name a folder or a Hugging Face id there or by CLICKLOOP_ENCODER__MODEL"
        )
    check_target(target)
    cut = _cut(shown, options.held_out)
    root = locate(settings.model, settings.revision)
    folder = read_folder(root)
    if folder.dense is not None:
        from encoders.errors import ModelError

        raise ModelError(f"{root} has a Dense module already; tune the model that it was made of")
    base = _load(settings, str(root), settings.revision)
    rows = _rows(shown, cut)
    vectors = base.encode(shown.texts, budget_tokens=settings.budget_tokens)
    start, before = _start(vectors, rows, cut, options)
    about = {"base": base.fingerprint, "method": options.method, "rows": cut, "until_ms": int(shown.ts[cut - 1])}
    with beside(target) as part:
        epochs = _tune(part, root, base, vectors, shown, rows.part(slice(0, cut)), start, settings, options, about)
        found = _load(settings, str(part), None)
        after = compared(found.encode(shown.texts, budget_tokens=settings.budget_tokens).astype(np.float64), rows, cut)
        low, high = gain(before, after, rng=np.random.default_rng(options.seed))
        better = low > 0.0
        if better:
            publish(part, target)
    log.info("tuned", better=better, loss_before=float(before.mean()), loss_after=float(after.mean()), epoch=epochs)
    return {
        "better": better,
        "loss_before": float(before.mean()),
        "loss_after": float(after.mean()),
        "gain": float((before - after).mean()),
        "interval": [low, high],
        "fingerprint": found.fingerprint if better else None,
        "folder": str(target) if better else None,
        "base_fingerprint": base.fingerprint,
        "method": options.method,
        "dimension": found.dimension,
        "epoch": epochs,
        "rows_learned": cut,
        "rows_held_out": len(rows) - cut,
        "rows_without_text": shown.without_text,
        "texts": len(shown.texts),
    }


def compared(z: FloatArray, rows: Rows, cut: int) -> npt.NDArray[np.float64]:
    """Held-out losses (n - cut,) of a head that is learned on the rows before `cut`, with vectors z (texts, k).

    Vectors are scaled alike, so that a penalty means the same for both encoders.
    """
    first, rest = rows.part(slice(0, cut)), rows.part(slice(cut, None))
    seen = z[first.texts]
    z = (z - seen.mean(axis=0)) / max(float(np.sqrt(seen.var(axis=0).mean())), 1e-12)
    learned, held = _sides(first, z), _sides(rest, z)
    M, _ = learned_head(learned)
    return losses(M, held)


def _sides(rows: Rows, z: FloatArray) -> Sides:
    u, f = rows.sides(z)
    return Sides(u=u, f=f, click=rows.click)


def _start(vectors: npt.NDArray[np.float32], rows: Rows, cut: int, options: Options) -> tuple[Start, FloatArray]:
    """The first components of the earlier texts' vectors, and the held-out losses with them."""
    import torch

    from encoders.tuning import principal

    try:
        start = principal(vectors[rows.part(slice(0, cut)).texts], options.dimension)
    except ValueError as error:
        raise TooFewError(str(error)) from error
    z = start.dense()(torch.from_numpy(vectors)).numpy().astype(np.float64)
    return start, compared(z, rows, cut)


def _tune(
    part: Path,
    root: Path,
    base: Encoder,
    vectors: npt.NDArray[np.float32],
    shown: Shown,
    learned: Rows,
    start: Start,
    settings: EncoderSettings,
    options: Options,
    about: Mapping[str, Any],
) -> int:
    """Tune on the earlier rows and write the result; the epoch that was best."""
    import torch

    from encoders.adapting import Adapted, Kept
    from encoders.folder import read_folder
    from encoders.model import load_transformer
    from encoders.tuned_folder import write_tuned
    from encoders.tuning import Effort, tune

    folder = read_folder(root)
    pooling = settings.pooling or folder.pooling
    z = start.dense()(torch.from_numpy(vectors)).numpy().astype(np.float64)
    adapted = None
    if options.method == "lora":
        adapted = Adapted(
            load_transformer(folder),
            base.tokenizer(shown.texts),
            pooling=pooling,
            normalise=folder.normalise,
            device=base.device,
            rank=options.rank,
            seed=options.seed,
        )
    found = tune(
        adapted or Kept(vectors),
        learned,
        start=start,
        head=head(_sides(learned, z), ridge=RIDGE),
        ridge=RIDGE,
        adapted=adapted.parameters if adapted else (),
        effort=Effort(epochs=options.epochs),
        seed=options.seed,
    )
    write_tuned(
        part,
        root=root,
        folder=folder,
        pooling=pooling,
        dense=found.dense,
        model=adapted.merged() if adapted else None,
        about={**about, "watched_losses": found.losses, "epoch": found.epoch},
    )
    return found.epoch


def _load(settings: EncoderSettings, model: str, revision: str | None) -> Encoder:
    from encoders.model import load

    return load(
        model,
        revision=revision,
        dtype=settings.dtype,
        max_length=settings.max_length,
        pooling=settings.pooling,
        device=settings.device,
    )


def _rows(shown: Shown, cut: int) -> Rows:
    """Numbers of contexts in the units of the earlier rows; what is the same in all of these is left out."""
    from encoders.tuning import Rows

    first = shown.x[:cut]
    sd = first.std(axis=0)
    varies = sd > 1e-9 * np.maximum(np.abs(first).max(axis=0, initial=0.0), 1e-30)
    x = (shown.x[:, varies] - first[:, varies].mean(axis=0)) / sd[varies]
    return Rows(
        x=np.hstack([np.ones((len(x), 1)), np.clip(x, -10.0, 10.0)]),
        arm=shown.arm,
        context=shown.context,
        click=shown.click,
    )


def _cut(shown: Shown, held_out: float) -> int:
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
