"""Whether a tokenized copy is the one that a recipe means."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from raypretrain.config import flatten
from raypretrain.corpus.manifest import Manifest
from raypretrain.errors import RunError
from raypretrain.tokens.tokenized import FINISHED, Copy, fetch_companions, read_copy
from raypretrain.training.changes import among
from raypretrain.training.length import run_length
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.vocabulary import given_tokenizer

_OF_A_SOURCE = {"text", "weight", "epochs", "documents", "format"}
_OF_TRAINING = (
    "tokenizer.path",
    "tokenizer.kind",
    "tokenizer.vocabulary",
    "tokenizer.sample",
    "tokenizer.add",
)
_SHOWN = 8


def data_settings(recipe: PretrainRecipe) -> dict[str, Any]:
    """The keys that the rows of a run depend on, besides the text itself, with their values."""
    values = {
        "run": {"seed": recipe.run.seed},
        "corpus": {
            "held_out": recipe.corpus.held_out,
            "sources": [
                {**source.model_dump(include=_OF_A_SOURCE), "clusters": source.clusters and True}
                for source in recipe.corpus.sources
            ],
        },
        "tokenizer": recipe.tokenizer.model_dump(),
        "sequences": recipe.sequences.model_dump(exclude={"boundaries"}),
        "training": {"evaluation": {"sequences": recipe.training.evaluation.sequences}},
    }
    return flatten(values)


def open_copy(recipe: PretrainRecipe) -> Copy:
    """The copy that ``corpus.tokenized`` names, seen to be the recipe's, and long enough for its run.

    Raises:
        RunError: there is none, it was made with other settings, or it is too short.
        InputError: it is damaged.
        StorageError: it cannot be read.
    """
    url = _url(recipe)
    copy = read_copy(url, recipe.corpus.tokenized_options)
    if copy is None:
        fix = "make one with 'raypretrain corpus tokenize RECIPE --to URL', or let that end"
        raise RunError(f"is no tokenized copy: it has no {FINISHED}", where=url, fix=fix)
    refuse_other_settings(copy, recipe, url, "make a copy for this recipe, or set them as they were")
    shape = recipe.model.shape(copy.vocabulary, recipe.sequences.length)
    needed = recipe.training.batches.total(run_length(recipe, shape.parameters).steps)
    if copy.sequences < needed:
        raise RunError(
            f"the copy has {copy.sequences:,} sequences, and the run needs {needed:,}",
            where=url,
            fix="make it longer by 'raypretrain corpus tokenize' with as many --steps, or train for fewer",
        )
    return copy


def refuse_other_settings(copy: Copy, recipe: PretrainRecipe, url: str, fix: str) -> None:
    """Refuse a copy that does not have the rows of the recipe.

    Raises:
        RunError: names each key that differs, with both values.
    """
    differing = _differing(copy, recipe)
    if differing:
        shown = ", ".join(f"{key}: {then} → {now}" for key, then, now in differing[:_SHOWN])
        more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        raise RunError(f"the copy was made with other settings ({shown}{more})", where=url, fix=fix)


def copied_manifest(copy: Copy, recipe: PretrainRecipe) -> Manifest:
    """The manifest of the text that a copy was made from."""
    with tempfile.TemporaryDirectory() as scratch:
        only = {name: about for name, about in copy.companions.items() if name == "manifest.parquet"}
        fetch_companions(only, _url(recipe), recipe.corpus.tokenized_options, Path(scratch))
        return Manifest.load(Path(scratch) / "manifest.parquet")


def _differing(copy: Copy, recipe: PretrainRecipe) -> list[tuple[str, Any, Any]]:
    now, then = data_settings(recipe), copy.settings
    differing = [(k, then.get(k), now.get(k)) for k in sorted(now | then) if then.get(k) != now.get(k)]
    if not recipe.corpus.sources:  # then the copy alone says what they are
        differing = [row for row in differing if not row[0].startswith("corpus.sources")]
    given = given_tokenizer(recipe)
    if given is not None:  # its name says nothing: it is the same, or another one
        differing = [row for row in differing if not among(row[0], _OF_TRAINING)]
        if given.fingerprint != copy.tokenizer:
            name = recipe.tokenizer.path or recipe.tokenizer.kind
            before = then["tokenizer.path"] or f"{then['tokenizer.kind']}, {copy.vocabulary} pieces"
            differing.append(("tokenizer", before, name))
    if copy.bad_records and recipe.corpus.on_bad_input == "error":
        differing.append(("corpus.on_bad_input", "quarantine", "error"))
    return differing


def _url(recipe: PretrainRecipe) -> str:
    assert recipe.corpus.tokenized is not None
    return recipe.corpus.tokenized
