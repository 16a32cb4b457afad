"""A tuned encoder as a folder that `encoders.model.load` and sentence-transformers read, written whole or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encoders.dense import Dense, write_dense
from encoders.errors import ModelError
from encoders.folder import Folder, Pooling, tokenizer_files, weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_FLAGS: dict[Pooling, str] = {"mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken"}


def check_target(target: Path) -> None:
    """Return if a folder can be made there. Raises ModelError: it exists, or its parent does not."""
    if target.exists() or target.is_symlink():
        raise ModelError(f"{target} exists; nothing is overwritten, name a folder that does not")
    if not target.parent.is_dir():
        raise ModelError(f"{target.parent} is no folder; make it, or name another place")


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A folder beside `target` to write into, on the same file system; what is left of it at the end is deleted."""
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def publish(part: Path, target: Path) -> None:
    """Give a finished folder its name, at once. Raises ModelError if something has that name by now."""
    check_target(target)
    part.chmod(0o755)
    part.rename(target)


def write_tuned(
    part: Path, *, root: Path, folder: Folder, pooling: Pooling, dense: Dense, model: Any, about: Mapping[str, Any]
) -> None:
    """Write base and tuning into an empty folder.

    Args:
        part: to write into.
        root: the base's folder, with its modules.json if it has one.
        folder: what that says.
        pooling: the one that was tuned with.
        dense: of the pooled and, where the base normalises, normalised vector.
        model: the transformer with merged weights; None takes the base's files.
        about: where it came from, for `tuning.json`.
    """
    if model is None:
        for file in weights(folder.path):
            shutil.copyfile(file, part / file.name)
    else:
        model.save_pretrained(part)
    kept = [folder.path / "sentence_bert_config.json", *tokenizer_files(folder.path)]
    kept += [folder.path / "config.json"] if model is None else []
    for file in [*kept, root / "config_sentence_transformers.json", *_index(folder.path, model)]:
        if file.is_file():
            shutil.copyfile(file, part / file.name)
    names = ["Transformer", "Pooling", *(["Normalize"] if folder.normalise else []), "Dense"]
    places = ["", *(f"{i}_{name}" for i, name in enumerate(names) if i)]
    listed = [
        {"idx": i, "name": str(i), "path": place, "type": f"sentence_transformers.models.{name}"}
        for i, (place, name) in enumerate(zip(places, names, strict=True))
    ]
    (part / "modules.json").write_text(json.dumps(listed, indent=2))
    (part / places[1]).mkdir()
    width = dense.weight.shape[1]
    pooled = {"word_embedding_dimension": width, f"pooling_mode_{_FLAGS[pooling]}": True}
    (part / places[1] / "config.json").write_text(json.dumps(pooled, indent=2))
    if folder.normalise:
        (part / places[2]).mkdir()
    write_dense(part / places[-1], dense)
    (part / "tuning.json").write_text(json.dumps(about, indent=2))


def _index(path: Path, model: Any) -> list[Path]:
    """Lists of the shards of large weights, which go with the files."""
    return [] if model is not None else sorted(path.glob("*.index.json"))
