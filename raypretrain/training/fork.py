"""A fork: a new run that begins with what another one has learned, under a recipe that the other could not go on with.

Where only the training changes (rate, schedule, length, optimizer, clipping), it goes on at its parent's step and
cursor, with its optimizer's state. Where the data changes (corpus, seed, batch, sequences) or what the engine's files
belong to (ZeRO, precision), it takes the weights alone and begins at step 0.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from raypretrain.config import to_yaml
from raypretrain.errors import RecipeError, RunError
from raypretrain.storage import check_writable, sha256_file, write_atomic
from raypretrain.training import checkpoint
from raypretrain.training.changes import DATA, SAFE, UNFORKABLE, Change, among, changes, shown
from raypretrain.training.checkpoint import Standing
from raypretrain.training.length import run_length
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import RunFolder, fingerprint_of


def fork(
    recipe: PretrainRecipe, new: Path, say: Callable[[str], None], at: int | None = None
) -> PretrainRecipe:
    """Make the run ``new`` out of the one in ``recipe``'s folder, which stays as it is; returns ``new``'s recipe.

    Again, it only returns the recipe: the same command goes on with the fork.

    Args:
        at: the step of the checkpoint that it goes on from; None takes the newest.

    Raises:
        RecipeError: a change that no fork can make.
        RunError: there is no such run or no checkpoint, or ``new`` is something else.
    """
    old, child = RunFolder(recipe.run.folder), RunFolder(new.absolute())
    forked = recipe.in_folder(new)
    if child.parent.is_file():
        _refuse_other_parent(child, old)
        return forked
    if child.path.exists() and (not child.path.is_dir() or any(child.path.iterdir())):
        raise RunError("is not empty", where=str(child.path), fix="give --fork a new folder")
    found = [c for c in changes(old.read_recipe(), recipe) if c.key != "run.folder"]
    never = [c for c in found if among(c.key, UNFORKABLE)]
    if never:
        raise RecipeError(
            f"a fork keeps its parent's model and tokenizer ({shown(never)})",
            where=str(child.path),
            fix="start a new run with run.folder instead",
        )
    newest = checkpoint.newest_verified(old.checkpoints, say, at)
    if newest is None:
        raise RunError("has no checkpoint to fork from", where=str(old.path), fix="train until the first one")
    standing = checkpoint.read_standing(newest)
    anew = begins_anew(found)
    if not anew and run_length(recipe, old.reached(recipe)[1]).steps <= standing.step:
        raise RecipeError(
            f"the parent has done {standing.step} steps, and the changed recipe has no more",
            where=str(child.path),
            fix="raise training.steps or training.tokens",
        )
    _make(forked, old, child, newest, standing, anew, found)
    how = "its weights, from step 0" if anew else f"its step {standing.step:,}"
    say(f"forked from {old.path} at {newest.name}: goes on with {how}")
    return forked


def begins_anew(found: list[Change]) -> bool:
    """Whether a fork with these changes takes the weights alone."""
    safe = tuple(name for name in SAFE if name != "compute.")
    return any(among(c.key, DATA) and not among(c.key, safe) for c in found)


def _refuse_other_parent(child: RunFolder, old: RunFolder) -> None:
    parent = json.loads(child.parent.read_text(encoding="utf-8"))["run"]
    if parent != str(old.path):
        raise RunError(f"is a fork of {parent}", where=str(child.path), fix="give --fork a new folder")


def _make(
    forked: PretrainRecipe,
    old: RunFolder,
    child: RunFolder,
    newest: Path,
    standing: Standing,
    anew: bool,
    found: list[Change],
) -> None:
    """All of the new run's folder, beside it, and then at once in its place."""
    partial = RunFolder(child.path.with_name(f"{child.path.name}.partial"))
    check_writable(partial.path)
    shutil.rmtree(partial.path, ignore_errors=True)
    partial.checkpoints.mkdir(parents=True)
    if old.base.is_file():
        shutil.copy2(old.base, partial.base)
    if anew:
        partial.corpus.mkdir()
        for file in old.corpus.glob("tokenizer*"):
            shutil.copy2(file, partial.corpus)
        _copy_weights(newest, standing.zero, partial.parent_weights)
    else:
        shutil.copytree(old.corpus, partial.corpus)
        for log in (old.metrics, old.evaluations, old.sequence_losses):
            if log.is_file():  # what is later than the checkpoint is cut off at the start
                shutil.copy2(log, partial.path)
        _copy_checkpoint(newest, replace(standing, recipe=fingerprint_of(forked)), partial)
    parent = {
        "run": str(old.path),
        "step": standing.step,
        "checkpoint": newest.name,
        "manifest_sha256": sha256_file(newest / checkpoint.MANIFEST),
        "takes": "weights" if anew else "everything",
        "changed": {c.key: [c.then, c.now] for c in found},
        "time": time.time(),
    }
    if anew:
        parent["weights_sha256"] = sha256_file(partial.parent_weights)
    write_atomic(partial.parent, json.dumps(parent, indent=1))
    write_atomic(partial.recipe, to_yaml(forked))
    partial.path.rename(child.path)


def _copy_checkpoint(newest: Path, standing: Standing, partial: RunFolder) -> None:
    """The checkpoint under the new recipe's fingerprint, verified once more: the parent may be training."""
    to = partial.checkpoints / newest.name
    try:
        shutil.copytree(newest, to)
        problem = checkpoint.problem_of(to)
    except (OSError, shutil.Error) as error:
        problem = str(error)
    if problem:
        raise RunError(f"could not be copied ({problem})", where=str(newest), fix="try again")
    checkpoint.commit(to, standing, checkpoint.files_of(to))


def _copy_weights(newest: Path, zero: int, to: Path) -> None:
    from safetensors.torch import save_file

    from raypretrain.training.engine import consolidated_state

    state = consolidated_state(newest, zero)
    save_file({name: weight.contiguous().clone() for name, weight in state.items()}, to)
