"""Base models with random weights, for runs that go on from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizer_kinds import tokenizer_of

from raypretrain.config import validate
from raypretrain.models.config import ModelConfig
from raypretrain.models.families import build
from raypretrain.models.huggingface import save_language_model
from raypretrain.tokens.export import save_huggingface_tokenizer
from raypretrain.training.recipe import PretrainRecipe

SMALL = {"width": 32, "layers": 1, "heads": 2, "feed_forward": 64}


def write_base(
    folder: Path, preset: str = "llama-1m", kind: str = "bpe", length: int = 128, rows: int = 0, **sizes: Any
) -> Path:
    """A released model of a family, with random weights."""
    tokenizer = tokenizer_of(kind)
    shape = ModelConfig(preset=preset, **{**SMALL, **sizes}).shape(rows or tokenizer.vocabulary, length)
    model = build(shape)
    model.init_weights(5)
    save_language_model(
        model.state_dict(), shape, folder, bos=tokenizer.bos, eos=tokenizer.eos, pad=tokenizer.pad
    )
    save_huggingface_tokenizer(tokenizer, folder)
    return folder


def recipe(folder: Path, context: dict[str, Any] | None = None, **rooms: Any) -> PretrainRecipe:
    """A recipe as one in ``folder`` would be."""
    values = {"corpus": {"sources": [{"path": "text"}]}, **rooms}
    return validate(values, PretrainRecipe, folder=folder, where="recipe.yaml", context=context)
