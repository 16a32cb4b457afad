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

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from policies.bilinear import gain, head
from streams import logs
from streams.settings_errors import SettingsError
from streams.tuning_split import TooFewError, compared, cut_at, rows_of, sides_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from encoders.adapting import Adapted
    from encoders.folder import Folder, Pooling
    from encoders.model import Encoder
    from encoders.principal import Start
    from encoders.tuning import Rows
    from policies.batch import FloatArray
    from streams.settings_encoder import EncoderSettings
    from streams.tuning_rows import Shown

Method = Literal["projection", "lora"]
RIDGE = 1.0
"""Penalty of the head while the encoder is tuned: a small one, as a head near zero lets no gradient through."""

log = logs.get(__name__)


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Base:
    """The encoder as it is, the rows, and the vectors of all their texts; rows before `cut` are learned from."""

    settings: EncoderSettings
    root: Path
    folder: Folder
    encoder: Encoder
    shown: Shown
    rows: Rows
    cut: int
    vectors: npt.NDArray[np.float32]

    @property
    def learned(self) -> Rows:
        return self.rows.part(slice(0, self.cut))

    @property
    def pooling(self) -> Pooling:
        return self.settings.pooling or self.folder.pooling


def tuned(settings: EncoderSettings, shown: Shown, target: Path, options: Options) -> dict[str, Any]:
    """Tune, compare, and publish in `target` if it is better; what was found.

    Raises:
        ModelError: the model cannot be loaded or adapted, or `target` cannot be made.
        SettingsError: there is no encoder in the settings.
        TooFewError: rows, clicks or texts are too few.
    """
    from encoders.tuned_folder import beside, check_target, publish

    check_target(target)
    base = _base(settings, shown, cut_at(shown, options.held_out))
    start, z = _start(base, options)
    before = compared(z, base.rows, base.cut)
    with beside(target) as part:
        epoch = _tune(part, base, start, z, options)
        found = _load(settings, str(part), None)
        vectors = found.encode(shown.texts, budget_tokens=settings.budget_tokens)
        after = compared(vectors.astype(np.float64), base.rows, base.cut)
        low, high = gain(before, after, rng=np.random.default_rng(options.seed))
        better = low > 0.0
        if better:
            publish(part, target)
    log.info("tuned", better=better, loss_before=float(before.mean()), loss_after=float(after.mean()), epoch=epoch)
    return {
        "better": better,
        "loss_before": float(before.mean()),
        "loss_after": float(after.mean()),
        "gain": float((before - after).mean()),
        "interval": [low, high],
        "fingerprint": found.fingerprint if better else None,
        "folder": str(target) if better else None,
        "base_fingerprint": base.encoder.fingerprint,
        "method": options.method,
        "dimension": found.dimension,
        "epoch": epoch,
        "rows_learned": base.cut,
        "rows_held_out": len(base.rows) - base.cut,
        "rows_without_text": shown.without_text,
        "texts": len(shown.texts),
    }


def _base(settings: EncoderSettings, shown: Shown, cut: int) -> _Base:
    from encoders.errors import ModelError
    from encoders.folder import locate, read_folder

    if settings.model is None:
        raise SettingsError(
            "encoder.model is not set; name a folder or a Hugging Face id there or by CLICKLOOP_ENCODER__MODEL"
        )
    root = locate(settings.model, settings.revision)
    folder = read_folder(root)
    if folder.dense is not None:
        raise ModelError(f"{root} has a Dense module already; tune the model that it was made of")
    encoder = _load(settings, str(root), settings.revision)
    return _Base(
        settings=settings,
        root=root,
        folder=folder,
        encoder=encoder,
        shown=shown,
        rows=rows_of(shown, cut),
        cut=cut,
        vectors=encoder.encode(shown.texts, budget_tokens=settings.budget_tokens),
    )


def _start(base: _Base, options: Options) -> tuple[Start, FloatArray]:
    """The map to the first components of the earlier texts' vectors, and all texts' vectors under it, (texts, k)."""
    import torch

    from encoders.principal import principal

    try:
        start = principal(base.vectors[base.learned.texts], options.dimension)
    except ValueError as error:
        raise TooFewError(str(error)) from error
    return start, start.dense()(torch.from_numpy(base.vectors)).numpy().astype(np.float64)


def _tune(part: Path, base: _Base, start: Start, z: FloatArray, options: Options) -> int:
    """Tune on the earlier rows and write the result; the epoch that was best."""
    from encoders.adapting import Kept
    from encoders.tuned_folder import write_tuned
    from encoders.tuning import Effort, tune, unwatched

    adapted = _adapted(base, options) if options.method == "lora" else None
    learned = base.learned
    found = tune(
        adapted or Kept(base.vectors),
        learned,
        start=start,
        head=head(sides_of(unwatched(learned), z), ridge=RIDGE),
        ridge=RIDGE,
        adapted=adapted.parameters if adapted else (),
        effort=Effort(epochs=options.epochs),
        seed=options.seed,
    )
    write_tuned(
        part,
        root=base.root,
        folder=base.folder,
        pooling=base.pooling,
        dense=found.dense,
        model=adapted.merged() if adapted else None,
        about={
            "base": base.encoder.fingerprint,
            "method": options.method,
            "rows": base.cut,
            "until_ms": int(base.shown.ts[base.cut - 1]),
            "watched_losses": found.losses,
            "epoch": found.epoch,
        },
    )
    return found.epoch


def _adapted(base: _Base, options: Options) -> Adapted:
    from encoders.adapting import Adapted
    from encoders.model import load_transformer

    return Adapted(
        load_transformer(base.folder),
        base.encoder.tokenizer(base.shown.texts),
        pooling=base.pooling,
        normalise=base.folder.normalise,
        device=base.encoder.device,
        rank=options.rank,
        seed=options.seed,
    )


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
