"""The recipe of a search over pretraining: one of pretraining with distributions in it, and how they are tried."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from raypretrain.config import Config, Count, keys_of, validate
from raypretrain.errors import RecipeError
from raypretrain.finetuning.space import Axis
from raypretrain.training.changes import among
from raypretrain.training.recipe import PretrainRecipe

FIXED = (
    "run.",
    "search.",
    "tokenizer.",
    "sequences.length",
    "training.tokens",
    "training.steps",
    "training.mask.",
    "training.evaluation.",
    "card.",
)
"""What cannot be searched: trials would be measured on something else, for another time, or in no other way."""


class SweepConfig(Config):
    """How the distributions of a recipe are tried.

    Args:
        tokens: that each trial trains on; the best is then continued to what ``training`` says.
        trials: samples for each combination of the grids.
        searcher: ``random`` draws all samples before anything starts; with ``tpe`` the results so far decide what is
            drawn next, for each combination of the grids by itself.
        scheduler: ``asha`` lets a trial go on at a ninth and at a third of its tokens only among the best third;
            ``median`` ends it where it is worse than the median of the others.
        space: key → its values; they may as well stand at the key itself.
    """

    tokens: Count = Field(gt=0)
    trials: Count = Field(default=1, gt=0)
    searcher: Literal["random", "tpe"] = "random"
    scheduler: Literal["asha", "median", "none"] = "asha"
    space: dict[str, Axis] = Field(default_factory=dict)

    @property
    def grids(self) -> dict[str, list[Any]]:
        """The keys of which each value is tried."""
        return {key: axis.grid for key, axis in self.space.items() if axis.grid is not None}

    @property
    def drawn(self) -> dict[str, Axis]:
        """The keys of which values are drawn."""
        return {key: axis for key, axis in self.space.items() if axis.grid is None}

    @model_validator(mode="after")
    def _something_to_try(self) -> SweepConfig:
        if not self.space:
            raise ValueError("there is nothing to try; give a key values, as {log_uniform: [1e-4, 1e-2]}")
        if self.searcher == "tpe" and not self.drawn:
            raise ValueError("searcher: tpe needs a key with choice, uniform or log_uniform to search in")
        fixed = next((key for key in self.space if _is_fixed(key)), None)
        if fixed:
            raise ValueError(f"'{fixed}' cannot be searched: trials could not be compared")
        return self


def _is_fixed(key: str) -> bool:
    """Of the corpus only the weights can be searched: with other files other text is held out."""
    return among(key, FIXED) or (key.startswith("corpus.") and not key.endswith(".weight"))


class SweepRecipe(PretrainRecipe):
    """What ``raypretrain search`` is given for pretraining; each axis is in ``search.space``, at its key one value."""

    search: SweepConfig

    @model_validator(mode="before")
    @classmethod
    def _axes_where_they_belong(cls, values: Any) -> Any:
        search = values.get("search") if isinstance(values, dict) else None
        if not isinstance(search, dict) or not isinstance(space := search.get("space") or {}, dict):
            return values
        plain = copy.deepcopy({key: value for key, value in values.items() if key != "search"})
        axes = dict(axes_in(plain))
        twice = sorted(axes.keys() & space.keys())
        if twice:
            raise ValueError(f"'{twice[0]}' has values at its key and in search.space; take one of them out")
        every = {key: _with_numbers(axis) for key, axis in (axes | space).items()}
        for key, axis in every.items():
            put(plain, key, next(iter(values_of(axis)), None))
        return plain | {"search": search | {"space": every}}

    def plain(self, values: dict[str, Any], folder: Path, tokens: int | None = None) -> PretrainRecipe:
        """The run with these values in place of the axes.

        Args:
            tokens: instead of the recipe's own length.

        Raises:
            RecipeError: a value is not possible for its key.
        """
        whole = self.model_dump(mode="json", exclude={"search"})
        for key, value in values.items():
            put(whole, key, value)
        whole["run"]["folder"] = str(folder.absolute())
        if tokens:
            whole["training"] |= {"tokens": tokens, "steps": None}
        shown = ", ".join(f"{key} {value!r}" for key, value in values.items())
        return validate(whole, PretrainRecipe, folder=folder, where=f"search.space ({shown})")


def axes_in(values: Any, before: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """``(key, axis)`` of every distribution that stands in a recipe, keys as ``corpus.sources.0.weight``."""
    inside = values.items() if isinstance(values, dict) else enumerate(values)
    for name, value in inside:
        key = f"{before}{name}"
        if isinstance(value, dict) and len(value) == 1 and value.keys() <= Axis.model_fields.keys():
            yield key, value
        elif isinstance(value, dict | list):
            yield from axes_in(value, f"{key}.")


def _with_numbers(axis: Any) -> Any:
    """YAML takes ``3e-3`` for a text."""
    if not isinstance(axis, dict):
        return axis
    return {
        kind: [*map(_number, given)] if isinstance(given, list) else given for kind, given in axis.items()
    }


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def values_of(axis: Any) -> list[Any]:
    """What a distribution names: its values, or its bounds."""
    named = axis.values() if isinstance(axis, dict) else ()
    given = next((each for each in named if each is not None), None)
    return given if isinstance(given, list) else []


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set ``a.0.b`` in nested mappings and lists.

    Raises:
        ValueError: there is no such place.
    """
    *rooms, last = key.split(".")
    place: Any = values
    try:
        for room in rooms:
            place = place[int(room)] if isinstance(place, list) else place.setdefault(room, {})
        place[int(last) if isinstance(place, list) else last] = value
    except (AttributeError, IndexError, TypeError, ValueError):
        raise ValueError(f"search.space: there is no key '{key}'") from None


def is_pretraining(path: Path) -> bool:
    """Whether a recipe is one of pretraining; one that cannot be read is left to whoever reads it."""
    keys = keys_of(path)
    return "corpus" in keys and "base" not in keys


def refuse_impossible(recipe: SweepRecipe) -> None:
    """Look at every value that can be tried, one key at a time, before anything starts.

    Raises:
        RecipeError: one is not possible.
    """
    folder = Path(recipe.run.folder)
    for key, axis in recipe.search.space.items():
        for value in values_of(axis.model_dump(mode="json")):
            recipe.plain({key: value}, folder)
    own = recipe.training.tokens
    if own and own < recipe.search.tokens:
        raise RecipeError(
            f"search.tokens: a trial's {recipe.search.tokens:,} tokens are more than the whole run's {own:,}",
            fix="lower it, or raise training.tokens",
        )
