"""A model's folder: what it says, what is refused and how, and that its fingerprint changes with everything that matters."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from encoders.errors import ModelError
from encoders.folder import Folder, fingerprint, locate, read_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as sentence-transformers writes it, without a real model in it."""
    path = tmp_path / "model"
    (path / "1_Pooling").mkdir(parents=True)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    write(
        path / "modules.json",
        [{"path": at, "type": f"sentence_transformers.models.{kind}"} for at, kind in kinds.items()],
    )
    write(path / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    write(path / "sentence_bert_config.json", {"max_seq_length": 128, "do_lower_case": True})
    write(path / "config_sentence_transformers.json", {"prompts": {"q": "query: "}, "default_prompt_name": "q"})
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        write(path / name, {})
    (path / "model.safetensors").write_bytes(b"weights")
    return path


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def mark(folder: Folder, **changed: Any) -> str:
    choices: dict[str, Any] = {"pooling": "mean", "normalise": True, "max_length": 128, "precision": "fp32"}
    return fingerprint(folder, **(choices | changed))


def test_what_a_folder_says(folder: Path) -> None:
    """Pooling, normalisation, length, prompt and lower case come from its files."""
    assert read_folder(folder) == Folder(
        path=folder, pooling="cls", normalise=True, max_length=128, prompt="query: ", lowercase=True
    )


@pytest.mark.parametrize(
    ("written", "pooling"),
    [
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"embedding_dimension": 8, "pooling_mode": "mean", "include_prompt": True}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
    ],
)
def test_poolings_old_and_new(folder: Path, written: dict[str, Any], pooling: str) -> None:
    """The flags of old versions of sentence-transformers and the name of new ones."""
    write(folder / "1_Pooling" / "config.json", written)
    assert read_folder(folder).pooling == pooling


def test_a_plain_encoder_is_averaged_and_not_normalised(folder: Path) -> None:
    """Without modules.json: what sentence-transformers does with such a folder."""
    (folder / "modules.json").unlink()
    found = read_folder(folder)
    assert (found.pooling, found.normalise) == ("mean", False)


def another(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    write(folder / "modules.json", [*modules, {"path": "3_LSTM", "type": "sentence_transformers.models.LSTM"}])


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "another module": (another, "has the module 'sentence_transformers.models.LSTM'; known, each once: Transformer"),
    "another pooling": (
        lambda path: write(path / "1_Pooling" / "config.json", {"pooling_mode_max_tokens": True}),
        r"asks for the pooling \['max'\]; known is one of mean, cls, lasttoken",
    ),
    "two poolings": (
        lambda path: write(
            path / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
        ),
        r"the pooling \['mean', 'cls'\]",
    ),
    "no prompt in the pooling": (
        lambda path: write(path / "1_Pooling" / "config.json", {"pooling_mode": "mean", "include_prompt": False}),
        "include_prompt = false",
    ),
    "no configuration": (lambda path: (path / "config.json").unlink(), "config.json is missing; copy the whole"),
    "a broken file": (lambda path: (path / "modules.json").write_text("{"), "modules.json cannot be read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_is_refused_by_name(folder: Path, name: str) -> None:
    """A step that would be left out silently would give other vectors: it is an error that names file and step."""
    spoil, told = REFUSED[name]
    spoil(folder)
    with pytest.raises(ModelError, match=told):
        read_folder(folder)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    """Nothing to load: told with the folder's name."""
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        mark(read_folder(folder))


def test_the_fingerprint_is_of_the_content(folder: Path, tmp_path: Path) -> None:
    """A copy elsewhere has the same; files that change no vector do not count."""
    before = mark(read_folder(folder))
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "README.md").write_text("words")
    assert mark(read_folder(copy)) == before
    assert len(before) == 32


@pytest.mark.parametrize(
    "file",
    [
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "config_sentence_transformers.json",
    ],
)
def test_the_fingerprint_changes_with_every_file(folder: Path, file: str) -> None:
    """Weights, configuration, tokenizer and prompt each make another one."""
    before = mark(read_folder(folder))
    (folder / file).write_text('{"prompts": {"q": "other: "}, "default_prompt_name": "q"}')
    assert mark(read_folder(folder)) != before


@pytest.mark.parametrize(
    "changed", [{"pooling": "cls"}, {"normalise": False}, {"max_length": 64}, {"precision": "bf16"}], ids=str
)
def test_the_fingerprint_changes_with_every_choice(folder: Path, changed: dict[str, Any]) -> None:
    """Pooling, normalisation, length and precision each make another one."""
    assert mark(read_folder(folder), **changed) != mark(read_folder(folder))


def test_an_id_needs_a_revision() -> None:
    """What a name means today it may not mean tomorrow."""
    with pytest.raises(ModelError, match="revision is not set"):
        locate("sentence-transformers/all-MiniLM-L6-v2", None)


def test_no_such_folder_is_told() -> None:
    """A path that is not there is no id of the hub."""
    with pytest.raises(ModelError, match="there is no such folder"):
        locate("/no/such/folder", None)


def test_no_network_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a hub: id, revision and the way out, in one message."""
    pytest.importorskip("huggingface_hub", reason="the extra `encoder` is not installed")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        ModelError, match=r"model = 'owner/name' at revision 'abc' cannot be had .* copy the repository"
    ):
        locate("owner/name", "abc")
