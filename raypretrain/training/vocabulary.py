"""The tokenizer that a recipe names, with what the recipe adds to it."""

from __future__ import annotations

from raypretrain.errors import InputError
from raypretrain.tokens import tokenizer
from raypretrain.tokens.tokenizer import Tokenizer
from raypretrain.training.recipe import PretrainRecipe


def given_tokenizer(recipe: PretrainRecipe) -> Tokenizer | None:
    """It, with the special tokens that are added and those that are needed; None if one is to be trained.

    Raises:
        InputError: it cannot be used, or has more tokens of its own than the base model has rows for.
    """
    infill, masked = recipe.sequences.infill.rate > 0, recipe.objective == "masked"
    given = tokenizer.given_tokenizer(recipe.tokenizer, infill, masked, recipe.model.storage_options)
    base = recipe.model.base_shape
    if given and base and (own := given.vocabulary - given.added) > base.vocabulary:
        raise InputError(
            f"has {own:,} tokens, and {recipe.model.source} rows for {base.vocabulary:,}",
            where=recipe.tokenizer.path,
            fix="give the folder of a model with the tokenizer that it was trained with",
        )
    return given
