"""What a recipe needs of the places and nodes that a doctor looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from raypretrain.config import keys_of, load_recipe
from raypretrain.finetuning.recipe import FinetuneRecipe
from raypretrain.storage import Options, is_remote
from raypretrain.training.checkpoint import CHECKPOINT_BYTES_PER_PARAMETER
from raypretrain.training.fast import KEPT
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.vocabulary import given_tokenizer

_WINDOWS_AHEAD = 8


@dataclass(frozen=True)
class Needs:
    """Of one recipe.

    Args:
        folder: of the run.
        folder_bytes: that its checkpoints take, about; 0 where that is not known.
        tier: the folder on each node's own disk; empty where there is none.
        tier_bytes: of all nodes together.
        ahead_bytes: that the stream reads ahead, at least.
        compiled: whether layers are compiled.
        sources: URL and options of what lies in object stores.
        pretraining: the recipe itself, if it is one of pretraining.
        trial: CPUs and GPUs of a trial's worker, if it is one of fine-tuning.
        trial_workers: of each trial.
    """

    folder: str
    folder_bytes: int = 0
    tier: str = ""
    tier_bytes: int = 0
    ahead_bytes: int = 0
    compiled: bool | Literal["auto"] = False
    sources: tuple[tuple[str, Options | None], ...] = ()
    pretraining: PretrainRecipe | None = None
    trial: tuple[float, float] = (0.0, 0.0)
    trial_workers: int = 1


def load(path: Path, overrides: Sequence[str]) -> Needs:
    """The needs of the recipe at ``path``, of pretraining or of fine-tuning.

    Raises:
        RaypretrainError: it cannot be read, or something in it is wrong.
    """
    if "tasks" in keys_of(path):
        recipe = load_recipe(path, FinetuneRecipe, overrides)
        compute = recipe.compute
        return Needs(recipe.run.folder, trial=compute.of_a_worker, trial_workers=compute.workers_per_trial)
    return needs_of(load_recipe(path, PretrainRecipe, overrides))


def needs_of(recipe: PretrainRecipe) -> Needs:
    """The needs of a recipe of pretraining.

    Raises:
        RaypretrainError: the tokenizer that it names cannot be used.
    """
    given = given_tokenizer(recipe)
    shape = recipe.model.shape(
        given.vocabulary if given else recipe.tokenizer.vocabulary, recipe.sequences.length
    )
    checkpoint, kept = shape.parameters * CHECKPOINT_BYTES_PER_PARAMETER, recipe.training.checkpoint
    corpus = recipe.corpus
    places = [(source.path, source.storage_options) for source in corpus.sources]
    if corpus.tokenized is not None:
        places = [(corpus.tokenized, corpus.tokenized_options)]
    return Needs(
        folder=recipe.run.folder,
        folder_bytes=checkpoint * (kept.keep + 1),  # while one is written, those that stay are there as well
        tier=kept.fast.folder,
        tier_bytes=checkpoint * (KEPT + 1),
        ahead_bytes=_WINDOWS_AHEAD * recipe.sequences.window,
        compiled=recipe.compute.compile if recipe.compute.compilable else False,
        sources=tuple(place for place in places if is_remote(place[0])),
        pretraining=recipe,
    )
