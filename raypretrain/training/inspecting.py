"""``raypretrain corpus inspect``: what a recipe's corpus holds, and what its run would make of it."""

from __future__ import annotations

import os
import tempfile
from itertools import chain
from pathlib import Path
from typing import Any

from raypretrain.errors import RecipeError
from raypretrain.tokens.inspect import inspect
from raypretrain.tokens.survey import SourceSample, survey
from raypretrain.tokens.tokenizer import Tokenizer, train_tokenizer
from raypretrain.training.length import run_length
from raypretrain.training.prepare import Say, list_corpus
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import RunFolder
from raypretrain.training.vocabulary import given_tokenizer


def inspect_corpus(recipe: PretrainRecipe, sample: int, say: Say) -> dict[str, Any]:
    """The figures of :func:`~raypretrain.tokens.inspect.inspect`, and which ``tokenizer`` they are counted with.

    Writes nothing, and needs no Ray.

    Args:
        sample: bytes of text to read, about.

    Raises:
        RaypretrainError: the corpus cannot be read, or does not support the tokenizer.
    """
    if not recipe.corpus.sources:
        raise RecipeError("names no text to inspect", where="corpus", fix="give corpus.sources")
    say("listing the corpus")
    patient = recipe.corpus.model_copy(update={"on_bad_input": "quarantine", "tokenized": None})
    manifest = list_corpus(recipe.model_copy(update={"corpus": patient}))
    say(f"reading a sample of {sample / 1e6:g} MB")
    samples = survey(manifest, recipe.corpus, sample, recipe.run.seed)
    tokenizer, origin = _tokenizer(recipe, samples, say)
    shape = recipe.model.shape(tokenizer.vocabulary, recipe.sequences.length)
    length = run_length(recipe, shape.parameters)
    say("counting")
    budget = length.tokens()
    figures = inspect(samples, manifest, recipe.corpus, recipe.sequences, tokenizer, budget)
    return {
        "tokenizer": {"from": origin, "kind": tokenizer.kind, "vocabulary": tokenizer.vocabulary},
        **figures,
    }


def _tokenizer(recipe: PretrainRecipe, samples: list[SourceSample], say: Say) -> tuple[Tokenizer, str]:
    """The run's own tokenizer if it has one, the recipe's if it names one, or one that is trained on the sample."""
    folder = RunFolder(recipe.run.folder)
    given = given_tokenizer(recipe)
    if given is not None:
        return given, recipe.tokenizer.path or recipe.tokenizer.kind
    if folder.begun() and folder.tokenizer.is_file():
        return Tokenizer.load(folder.tokenizer), str(folder.tokenizer)
    say(f"training a tokenizer on the sample: {recipe.tokenizer.vocabulary:,} {recipe.tokenizer.kind} pieces")
    texts = chain.from_iterable(sample.training_texts for sample in samples)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "tokenizer.model"
        return train_tokenizer(texts, recipe.tokenizer, path, os.cpu_count() or 1), "the sample"
