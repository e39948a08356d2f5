"""Fixtures: a small base model with a real tokenizer, and a task that a small model can learn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real_text import reviews
from small_task import sentences, small_shape, write_csv

from raypretrain.config import validate
from raypretrain.finetuning.recipe import FinetuneRecipe
from raypretrain.models.config import ModelConfig
from raypretrain.models.families import build
from raypretrain.models.huggingface import save_language_model
from raypretrain.models.llama import Llama
from raypretrain.models.releasing import Special, save_embedder
from raypretrain.tokens.export import save_huggingface_tokenizer
from raypretrain.tokens.tokenizer import TokenizerConfig, train_tokenizer


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A released model with random weights: 2 layers of width 32, grouped heads, 600 pieces, 64 positions."""
    return write_base(tmp_path_factory.mktemp("base"))


def write_base(folder: Path, **sizes: Any) -> Path:
    """A released model with random weights, of some ``sizes`` of its own."""
    config = TokenizerConfig(vocabulary=600)
    tokenizer = train_tokenizer(iter(reviews(200)), config, folder / "own.model", threads=1)
    save_huggingface_tokenizer(tokenizer, folder, max_length=64)
    model = Llama(small_shape(tokenizer.vocabulary, **sizes))
    model.init_weights(seed=3)
    save_language_model(model.state_dict(), model.shape, folder, bos=1, eos=2, pad=3)
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.csv (240 examples) and test.csv (80)."""
    folder = tmp_path_factory.mktemp("labelled")
    write_csv(folder / "train.csv", sentences(240, seed=0))
    write_csv(folder / "test.csv", sentences(80, seed=1))
    return folder


@pytest.fixture
def recipe(base: Path, data: Path, tmp_path: Path) -> Callable[..., FinetuneRecipe]:
    """A recipe for both, with what a test wants otherwise: ``recipe(adapt={"epochs": 1})``."""

    def make(**rooms: Any) -> FinetuneRecipe:
        task = {"name": "mood", "train": {"path": "train.csv"}, "test": {"path": "test.csv"}}
        values: dict[str, Any] = {
            "run": {"folder": str(tmp_path / "run")},
            "base": {"path": str(base)},
            "tasks": [task | rooms.pop("task", {})],
            "adapt": {"length": 32, "batch": 16, "epochs": 2} | rooms.pop("adapt", {}),
        }
        return validate(values | rooms, FinetuneRecipe, folder=data, where="recipe.yaml")

    return make


@pytest.fixture(scope="session")
def encoder_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with random weights, saved without its output, and a WordPiece tokenizer with [CLS] and [SEP]."""
    from tokenizers import BertWordPieceTokenizer
    from tokenizers.processors import TemplateProcessing

    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = BertWordPieceTokenizer()
    tokenizer.train_from_iterator(reviews(200), vocab_size=600, show_progress=False)
    marks = [(mark, tokenizer.token_to_id(mark)) for mark in ("[CLS]", "[SEP]")]
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=marks
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"} | names))
    sizes = {"width": 32, "layers": 2, "heads": 4, "feed_forward": 64, "initializer_range": 0.2}
    shape = ModelConfig(preset="bert-1m", **sizes).shape(tokenizer.get_vocab_size(), 64)
    network = build(shape)
    network.init_weights(seed=3)
    save_embedder(dict(network.state_dict()), shape, folder, Special(tokenizer.token_to_id("[PAD]")))
    return folder
