"""What a run takes from a model that it goes on from: its tokenizer, with what the recipe adds, and its weights."""

from __future__ import annotations

import json
from collections.abc import Callable

from torch import Tensor

from raypretrain.errors import InputError
from raypretrain.models.config import read_json_object, read_shape
from raypretrain.models.files import CONFIG
from raypretrain.models.initial import with_new_rows
from raypretrain.models.loading import load_base
from raypretrain.storage import is_remote, sha256_file
from raypretrain.training.fetching import fetch_model
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import RunFolder
from raypretrain.training.vocabulary import given_tokenizer


def bring_base(recipe: PretrainRecipe, folder: RunFolder, say: Callable[[str], None]) -> None:
    """See that the base model of a run, if it has one, is where the workers find it, and keep what it is; once.

    Raises:
        InputError: it is no model of ours.
        StorageError: it cannot be fetched.
    """
    base = recipe.model.base
    if not base or folder.base.is_file():
        return
    if is_remote(base):
        say(f"fetching {base}")
        fetch_model(base, folder.fetched, recipe.model.storage_options)
        config = folder.fetched / CONFIG
        if read_shape(read_json_object(config), str(config)) != recipe.model.base_shape:
            raise InputError("changed while it was read", where=base, fix="start again")
    tokenizer = given_tokenizer(recipe)
    assert tokenizer is not None
    folder.write_base(base, tokenizer.vocabulary - tokenizer.added, tokenizer.added)


def base_weights(folder: RunFolder, rows: int) -> dict[str, Tensor]:
    """Of the model that the run in ``folder`` begins with, with ``rows`` rows for the tokens.

    Raises:
        InputError: it is not there, or is not the one that the run was begun with.
    """
    base = json.loads(folder.base.read_text(encoding="utf-8"))
    place = folder.base_folder(base["folder"])
    for name, wanted in base["sha256"].items():
        path = place / name
        if path.is_file() and sha256_file(path) != wanted:
            what = "is not the file that the run was begun with (its SHA-256 differs)"
            raise InputError(what, where=str(path), fix="put it back, or choose another run.folder")
    return with_new_rows(load_base(place)[1], base.get("tokens", rows), base.get("new", 0), rows)
