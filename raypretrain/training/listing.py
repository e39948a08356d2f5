"""The checkpoints of a run, in every tier, and the state of each."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from raypretrain.errors import RunError
from raypretrain.training import checkpoint
from raypretrain.training.checkpoint import MANIFEST
from raypretrain.training.durable import Copies
from raypretrain.training.fast import FastTier
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import RunFolder

Row = dict[str, Any]


def list_checkpoints(run: RunFolder, verify: bool = False) -> list[Row]:
    """Every checkpoint: ``tier``, ``step``, ``bytes``, ``age_seconds``, ``held_out_loss``, ``state`` and ``problem``.

    The tier is ``run`` (the run's folder), ``fast`` (this node's disk) or ``copy``. The state is ``whole`` (every byte
    was read), ``committed`` (every file is there and as large as it was), ``damaged`` or ``not committed``.

    Args:
        verify: read every file, and compare its hash.

    Raises:
        RunError: there is no such run.
        StorageError: the copies cannot be read.
    """
    recipe = run.read_recipe()
    rows = [_of_run(folder, verify) for folder in run.checkpoints.glob("step-*") if folder.is_dir()]
    rows += _of_fast(run, recipe, verify)
    copies = Copies.of(recipe.training.checkpoint)
    if copies:
        rows += [_of_copy(copies, step, names, verify) for step, names in copies.names().items()]
    return sorted(rows, key=lambda row: (-row["step"], row["tier"]))


def _of_run(folder: Path, verify: bool) -> Row:
    step = checkpoint.step_of(folder)
    if not (folder / MANIFEST).is_file():
        return _row("run", step, _size(folder), _age(folder), "not committed")
    problem = checkpoint.problem_of(folder) if verify else checkpoint.size_problem_of(folder)
    try:
        values = checkpoint.read_manifest(folder)
    except RunError:
        values = {}
    age = time.time() - values["time"] if "time" in values else _age(folder)
    state = "damaged" if problem else _good(verify)
    return _row("run", step, _size(folder), age, state, problem, values.get("held_out_loss"))


def _of_fast(run: RunFolder, recipe: PretrainRecipe, verify: bool) -> list[Row]:
    """What lies on this node: a row for each step, whatever workers have written it."""
    fast = recipe.training.checkpoint.fast
    if fast.every is None:
        return []
    rows = []
    for folder in FastTier(fast.folder, run.path, 0).folder.glob("step-*"):
        names = [path.name for path in folder.glob("rank-*.json")]
        look = checkpoint.problem_of if verify else checkpoint.size_problem_of
        problem = next((p for p in (look(folder, name) for name in sorted(names)) if p), None)
        state = "not committed" if not names else "damaged" if problem else _good(verify)
        rows.append(_row("fast", checkpoint.step_of(folder), _size(folder), _age(folder), state, problem))
    return rows


def _of_copy(copies: Copies, step: int, names: dict[str, int], verify: bool) -> Row:
    size = sum(names.values())
    if MANIFEST not in names:
        return _row("copy", step, size, None, "not committed")
    try:
        values = copies.manifest(step)
    except RunError as error:
        return _row("copy", step, size, None, "damaged", error.what)
    problem = copies.problem_of(step) if verify else _size_problem(values["files"], names)
    age = time.time() - values["time"] if "time" in values else None
    state = "damaged" if problem else _good(verify)
    return _row("copy", step, size, age, state, problem, values.get("held_out_loss"))


def _size_problem(files: dict[str, Any], names: dict[str, int]) -> str | None:
    for name, about in sorted(files.items()):
        if name not in names:
            return f"{name} is missing"
        if names[name] != about["bytes"]:
            return f"{name} has {names[name]} bytes instead of {about['bytes']}"
    return None


def _row(
    tier: str,
    step: int,
    size: int,
    age: float | None,
    state: str,
    problem: str | None = None,
    held_out_loss: float | None = None,
) -> Row:
    row = {"tier": tier, "step": step, "bytes": size, "age_seconds": age, "held_out_loss": held_out_loss}
    return {**row, "state": state, "problem": problem}


def _good(verified: bool) -> str:
    return "whole" if verified else "committed"


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # a run that goes on removes what is old
            total += path.stat().st_size if path.is_file() else 0
    return total


def _age(folder: Path) -> float | None:
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:
        return None
