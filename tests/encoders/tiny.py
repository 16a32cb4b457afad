"""A tiny encoder with random weights in a folder, as Hugging Face lays it out; made offline in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the extra `encoder` is not installed: pip install 'clickloop[encoder]'")
pytest.importorskip("transformers", reason="the extra `encoder` is not installed: pip install 'clickloop[encoder]'")

import torch
import transformers as untyped
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

transformers: Any = untyped
WORDS = [
    "red",
    "blue",
    "green",
    "shoes",
    "hat",
    "coat",
    "for",
    "a",
    "child",
    "and",
    "the",
    "one",
    "two",
    "three",
    "sale",
    "small",
    "large",
    "warm",
    "light",
]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "poison", "outside", *WORDS, "##s", "##x"]
DIMENSION, MAX_LENGTH = 32, 24
POISON, OUTSIDE = "poison", "outside"
"""Words of the vocabulary that a model of `poisoned` cannot encode: the first gives NaN, the second has no row."""


def make(
    folder: Path,
    *,
    pooling: str = "mean",
    normalise: bool = True,
    kind: str = "bert",
    seed: int = 0,
    poisoned: bool = False,
    more: dict[str, Any] | None = None,
) -> Path:
    """Write an encoder into a folder. `kind` is bert, roberta, mpnet, camembert or distilbert; `more` goes into its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = _model(kind, more or {})
    with torch.no_grad():
        for weight in model.parameters():  # the usual initialisation makes all vectors nearly equal
            weight.copy_(torch.randn_like(weight) * 0.3)
        if poisoned:
            table = model.get_input_embeddings()
            table.weight[VOCABULARY.index(POISON)] = float("nan")
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    _tokenizer(poisoned).save_pretrained(folder)
    modules = ["", "1_Pooling", "2_Normalize"][: 3 if normalise else 2]
    kinds = ["Transformer", "Pooling", "Normalize"]
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (path, name) in enumerate(zip(modules, kinds, strict=False))
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    flag = {"mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken"}.get(pooling, pooling)
    config = {"word_embedding_dimension": DIMENSION, f"pooling_mode_{flag}": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    (folder / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": MAX_LENGTH, "do_lower_case": False})
    )
    return folder


def _model(kind: str, more: dict[str, Any]) -> Any:
    sizes = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": DIMENSION,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 40,
    }
    if kind == "bert":
        return transformers.BertModel(transformers.BertConfig(**(sizes | more)))
    if kind == "roberta":
        return transformers.RobertaModel(transformers.RobertaConfig(**(sizes | {"pad_token_id": 0} | more)))
    if kind == "mpnet":
        return transformers.MPNetModel(transformers.MPNetConfig(**(sizes | more)))
    if kind == "camembert":
        return transformers.CamembertModel(transformers.CamembertConfig(**(sizes | more)))
    names = {"dim": DIMENSION, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    rest = {"vocab_size": len(VOCABULARY), "max_position_embeddings": 40}
    return transformers.DistilBertModel(transformers.DistilBertConfig(**(rest | names | more)))


def _tokenizer(poisoned: bool) -> Any:
    words = {word: number for number, word in enumerate(VOCABULARY)}
    if poisoned:
        words[OUTSIDE] = len(VOCABULARY) + 7
    else:
        words = {word: number for word, number in words.items() if word != OUTSIDE} | {"[unused]": words[OUTSIDE]}
    fast = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    fast.normalizer = normalizers.BertNormalizer(lowercase=True)
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", words["[CLS]"]), ("[SEP]", words["[SEP]"])]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=40,
    )


def texts(n: int, *, seed: int = 0) -> list[str]:
    """Texts of 0 to 30 words of the vocabulary, some equal."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 31, (n,), generator=generator).tolist()
    return [
        " ".join(WORDS[i] for i in torch.randint(0, len(WORDS), (length,), generator=generator).tolist())
        for length in lengths
    ]
