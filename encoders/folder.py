"""A model's folder as sentence-transformers and transformers lay it out: where it is, what it says, its fingerprint.

What is read: `modules.json` (which modules follow each other), the pooling and the dense module's `config.json`,
`sentence_bert_config.json` (maximum length, lower case), `config_sentence_transformers.json` (the prompt before each text), `config.json`, the tokenizer's
files and the weights. Without `modules.json` a folder is a plain encoder: mean pooling, nothing normalised.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from encoders.errors import ModelError

Pooling = Literal["mean", "cls", "last"]
Precision = Literal["fp32", "bf16"]

FORMAT = "clickloop-embedding-1"
_POOLINGS: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
_FLAGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
_KINDS = ("Transformer", "Pooling", "Normalize", "Dense")
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json",
    "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model",
)  # fmt: skip
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
DOWNLOADED = ["*.json", "*.txt", "*.model", *_WEIGHTS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """What a folder says about the way from a text to a vector.

    Attributes:
        path: of the transformer's own files.
        pooling: how token vectors become one: their mean, the first, or the last.
        normalise: whether the vector is scaled to length 1.
        max_length: tokens of a text, special ones included; what is beyond is cut off. None if the folder does not say.
        prompt: text that is put before every text.
        lowercase: whether texts are lower-cased whatever the tokenizer does.
        dense: of a linear map of the pooled vector; None if there is none.
        dense_last: whether that map comes after the normalisation.
    """

    path: Path
    pooling: Pooling
    normalise: bool
    max_length: int | None
    prompt: str
    lowercase: bool
    dense: Path | None = None
    dense_last: bool = False


def locate(model: str, revision: str | None) -> Path:
    """The folder of a model: itself if it is one, else a download of the Hugging Face id at that revision.

    Raises:
        ModelError: there is no such folder, no revision is pinned, or the hub cannot be reached and has not been before.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if not re.fullmatch(r"[\w.-]+/[\w.-]+|[\w.-]+", model):
        raise ModelError(
            f"model = {model!r}: there is no such folder, and it is no Hugging Face id (NAME or OWNER/NAME)"
        )
    if revision is None:
        raise ModelError(
            f"model = {model!r} is no folder here, and revision is not set: name the commit of the Hugging Face repository, "
            "so that the vectors stay the same, or a folder that exists"
        )
    from huggingface_hub import snapshot_download  # here: with a folder nothing of the hub is needed

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=DOWNLOADED))
    except Exception as error:
        raise ModelError(
            f"model = {model!r} at revision {revision!r} cannot be had from the Hugging Face hub ({_first_line(error)}); check id, "
            "revision and network, or copy the repository to a folder and name that"
        ) from error


def read_folder(path: Path) -> Folder:
    """What the folder says. Raises ModelError for what is missing, unreadable, or a step that is not known here."""
    modules = read_json(path / "modules.json") if (path / "modules.json").is_file() else []
    found: dict[str, Path] = {}
    for module in modules:
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind not in _KINDS or kind in found:
            raise ModelError(
                f"{path / 'modules.json'} has the module {module.get('type')!r}; known, each once: {', '.join(_KINDS)}. "
                "Choose a model without it"
            )
        found[kind] = path / str(module.get("path", ""))
    transformer = found.get("Transformer", path)
    for needed in ("config.json", "tokenizer_config.json"):
        if not (transformer / needed).is_file():
            raise ModelError(f"{transformer / needed} is missing; copy the whole repository of the model")
    settings = _optional(transformer / "sentence_bert_config.json")
    length = settings.get("max_seq_length")
    return Folder(
        path=transformer,
        pooling=_pooling(found["Pooling"] / "config.json") if "Pooling" in found else "mean",
        normalise="Normalize" in found,
        max_length=None if length is None else int(length),
        prompt=_prompt(_optional(path / "config_sentence_transformers.json")),
        lowercase=bool(settings.get("do_lower_case", False)),
        dense=found.get("Dense"),
        dense_last="Dense" in found and "Normalize" in [*found][: [*found].index("Dense")],
    )


def fingerprint(folder: Folder, *, pooling: Pooling, normalise: bool, max_length: int, precision: Precision) -> str:
    """32 hexadecimal digits of everything that changes a vector: files by their content, and the choices made.

    Raises ModelError if there are no weights. Reads all of them: 0.1 s for 90 MB.
    """
    digest = hashlib.sha256(FORMAT.encode())
    choices = [pooling, normalise, max_length, precision, folder.prompt, folder.lowercase]
    files = [folder.path / "config.json", *tokenizer_files(folder.path), *weights(folder.path)]
    if folder.dense is not None:
        choices.append(folder.dense_last)
        files += [folder.dense / "config.json", *weights(folder.dense)]
    digest.update(json.dumps(choices).encode())
    for file in files:
        with file.open("rb") as opened:
            digest.update(f"{file.name}:{hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:32]


def weights(path: Path) -> list[Path]:
    """The files of weights that transformers would load. Raises ModelError if there are none."""
    for pattern in _WEIGHTS:
        files = sorted(path.glob(pattern))
        if files:
            return files
    raise ModelError(f"{path} has no weights ({' or '.join(_WEIGHTS)}); copy the whole repository of the model")


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises ModelError if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({_first_line(error)}); copy the file again") from error


def tokenizer_files(path: Path) -> list[Path]:
    """The files of the tokenizer that are there."""
    return [path / name for name in _TOKENIZER_FILES if (path / name).is_file()]


def _optional(path: Path) -> Mapping[str, Any]:
    found = read_json(path) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def _pooling(path: Path) -> Pooling:
    config = read_json(path)
    named = config.get("pooling_mode")
    modes = [named] if named is not None else [mode for flag, mode in _FLAGS.items() if config.get(flag)]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise ModelError(f"{path} asks for the pooling {modes}; known is one of {', '.join(_POOLINGS)}")
    if config.get("include_prompt") is False:
        raise ModelError(
            f"{path} leaves the prompt out of the pooling (include_prompt = false), which is not known here"
        )
    return _POOLINGS[modes[0]]


def _prompt(config: Mapping[str, Any]) -> str:
    name = config.get("default_prompt_name")
    return "" if name is None else str((config.get("prompts") or {}).get(name, ""))


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"
