"""Checkpoints: folders that count only once their manifest is written, and only while every file is as it says.

checkpoints/step-00001000/engine/…         what the engine needs
checkpoints/step-00001000/MANIFEST.json    written last: sizes and SHA-256 of every file, and where the run stood
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from raypretrain.errors import RunError, StorageError
from raypretrain.storage import sha256_file, write_atomic
from raypretrain.tokens.cursor import Cursor
from raypretrain.training.retention import kept

MANIFEST = "MANIFEST.json"
FORMAT = 1
CHECKPOINT_BYTES_PER_PARAMETER = 14
"""Weights, both moments of Adam, and in bf16 the copy that computes."""
_READERS = 4


@dataclass(frozen=True)
class Standing:
    """Where a run stands: all that is not in the weights.

    Args:
        step: steps done.
        cursor: the next sequence of the stream.
        tokens: tokens trained on so far.
        world_size: number of workers.
        zero: ZeRO stage of the engine's files.
        recipe, tokenizer, corpus: fingerprints of what the run is made of.
        updates: moves of the weights: the steps without those that the guard skipped; by default all of them.
    """

    step: int
    cursor: Cursor
    tokens: int
    world_size: int
    zero: int
    recipe: str
    tokenizer: str
    corpus: str
    updates: int = -1

    def __post_init__(self) -> None:
        if self.updates < 0:
            object.__setattr__(self, "updates", self.step)


def checkpoint_folder(checkpoints: Path, step: int) -> Path:
    """The folder of the checkpoint after ``step``."""
    return checkpoints / f"step-{step:08d}"


def step_of(folder: Path) -> int:
    """The step in a checkpoint folder's name."""
    return int(folder.name.removeprefix("step-"))


def hash_files(folder: Path, part: int, parts: int) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every ``parts``-th file of a checkpoint, from ``part`` on: the workers share the reading."""
    found = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in found[part::parts]
    }


def commit(
    folder: Path,
    standing: Standing,
    files: dict[str, dict[str, Any]],
    held_out_loss: float | None = None,
    name: str = MANIFEST,
) -> None:
    """Write the manifest: from now on the folder is a checkpoint.

    Args:
        files: sizes and hashes, as of :func:`hash_files`.
        held_out_loss: as measured at this step, if it was.
        name: of the manifest.
    """
    manifest = {
        "format": FORMAT,
        **asdict(standing),
        "time": round(time.time(), 3),
        "held_out_loss": held_out_loss,
    }
    manifest["files"] = files
    write_atomic(folder / name, json.dumps({**manifest, "sha256": _digest(manifest)}, indent=1))


def read_standing(folder: Path, name: str = MANIFEST) -> Standing:
    """The :class:`Standing` of a checkpoint; ``name`` is its manifest's.

    Raises:
        RunError: the manifest is damaged.
    """
    values = read_manifest(folder, name)
    try:
        names = Standing.__dataclass_fields__
        values.setdefault("updates", -1)  # manifests from before there was a guard
        return Standing(**{k: values[k] for k in names if k != "cursor"}, cursor=Cursor(**values["cursor"]))
    except (KeyError, TypeError) as error:
        raise RunError(f"the manifest is damaged ({error})", where=str(folder / name)) from None


def files_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Every file of a checkpoint, with its size and hash."""
    files: dict[str, dict[str, Any]] = read_manifest(folder)["files"]
    return files


def problem_of(folder: Path, name: str = MANIFEST, part: int = 0, parts: int = 1) -> str | None:
    """What is wrong with a checkpoint, as a line; None if every file is there and as the manifest says.

    Args:
        name: of the manifest.
        part: look at every ``parts``-th file only, from this one on: the workers share the reading.
    """
    try:
        read_standing(folder, name)
        files = read_manifest(folder, name)["files"]
    except RunError as error:
        return error.what
    mine = dict(sorted(files.items())[part::parts])
    with ThreadPoolExecutor(_READERS) as pool:  # a hash lets go of the interpreter
        return next(filter(None, pool.map(partial(_problem_of_file, folder), mine, mine.values())), None)


def size_problem_of(folder: Path, name: str = MANIFEST) -> str | None:
    """As :func:`problem_of`, but without reading the files: only their sizes are compared."""
    try:
        read_standing(folder, name)
        files = read_manifest(folder, name)["files"]
    except RunError as error:
        return error.what
    return next(filter(None, (_size_problem(folder, file, files[file]) for file in sorted(files))), None)


def _problem_of_file(folder: Path, name: str, expected: dict[str, Any]) -> str | None:
    problem = _size_problem(folder, name, expected)
    try:
        if problem is None and sha256_file(folder / name) != expected["sha256"]:
            return f"{name} is damaged (its SHA-256 differs)"
    except StorageError as error:
        return f"{name} cannot be read ({error.what})"
    return problem


def _size_problem(folder: Path, name: str, expected: dict[str, Any]) -> str | None:
    path = folder / name
    if not path.is_file():
        return f"{name} is missing"
    size = path.stat().st_size
    return f"{name} has {size} bytes instead of {expected['bytes']}" if size != expected["bytes"] else None


def committed(checkpoints: Path) -> list[Path]:
    """Folders with a manifest, the newest first."""
    if not checkpoints.is_dir():
        return []
    return sorted((p for p in checkpoints.glob("step-*") if (p / MANIFEST).is_file()), reverse=True)


def verified(checkpoints: Path, report: Callable[[str], None], at: int | None = None) -> Iterator[Path]:
    """The checkpoints that hold, the newest first; ``report`` is told of each that does not. Changes nothing.

    Args:
        at: the newest one's step; None begins with the newest there is.

    Raises:
        RunError: there is no checkpoint after the step ``at``, or it does not hold.
    """
    folders = committed(checkpoints)
    if at is not None:
        folders = [folder for folder in folders if step_of(folder) <= at]
        problem = problem_of(folders[0]) if folders and step_of(folders[0]) == at else "there is none"
        if problem:
            steps = ", ".join(f"{step_of(folder):,}" for folder in reversed(committed(checkpoints)))
            raise RunError(
                f"the checkpoint of step {at:,} cannot be used ({problem})",
                where=str(checkpoints),
                fix=f"there are those of steps {steps}" if steps else "train until the first one",
            )
    for folder in folders:
        problem = problem_of(folder)
        if problem is None:
            yield folder
        else:
            report(f"checkpoint {folder.name} is not used: {problem}")


def newest_verified(checkpoints: Path, report: Callable[[str], None], at: int | None = None) -> Path | None:
    """The first of :func:`verified`."""
    return next(verified(checkpoints, report, at), None)


def drop_after(checkpoints: Path, step: int) -> None:
    """Remove every checkpoint of a later step: a run that goes on from ``step`` has no use for damaged ones."""
    for folder in checkpoints.glob("step-*"):
        if folder.name > checkpoint_folder(checkpoints, step).name:
            clear(folder)


def prune(checkpoints: Path, keep: int, every: int | None = None, best: bool = False) -> None:
    """Remove what need not stay (see :mod:`~raypretrain.training.retention`), and what was never committed.

    Args:
        keep: so many of the newest stay.
        every: those whose step is a multiple of it stay.
        best: the one with the lowest held-out loss stays.
    """
    newest = committed(checkpoints)
    measured = {step_of(folder): _loss_of(folder) for folder in newest} if best else {}
    found = {step: loss for step, loss in measured.items() if loss is not None}
    stay = kept([step_of(folder) for folder in newest], keep, every, found)
    for folder in newest:
        if step_of(folder) not in stay:
            # Without its manifest it is no checkpoint any more, even if the removal is cut short.
            (folder / MANIFEST).unlink()
            shutil.rmtree(folder)
    for folder in _uncommitted(checkpoints):
        if newest and folder.name < newest[0].name:
            shutil.rmtree(folder)


def _loss_of(folder: Path) -> float | None:
    try:
        loss: float | None = read_manifest(folder).get("held_out_loss")
    except RunError:
        return None
    return loss


def clear(folder: Path) -> None:
    """Remove what an interrupted save left in ``folder``.

    Raises:
        StorageError: it cannot be removed.
    """
    try:
        (folder / MANIFEST).unlink(missing_ok=True)
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise StorageError(f"cannot be removed ({error.strerror})", where=str(folder)) from None


def _uncommitted(checkpoints: Path) -> Iterator[Path]:
    return (p for p in checkpoints.glob("step-*") if p.is_dir() and not (p / MANIFEST).is_file())


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path, name: str = MANIFEST) -> dict[str, Any]:
    """What a manifest says.

    Raises:
        RunError: it is damaged.
    """
    where = str(folder / name)
    try:
        text = (folder / name).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise RunError(f"the manifest cannot be read ({error})", where=where) from None
    return parse_manifest(text, where)


def parse_manifest(text: str, where: str) -> dict[str, Any]:
    """What the text of a manifest says; ``where`` is for the error's line.

    Raises:
        RunError: it is damaged.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise RunError(f"the manifest cannot be read ({error})", where=where) from None
    if not isinstance(values, dict) or values.get("format") != FORMAT or "files" not in values:
        raise RunError(f"the manifest is not of format {FORMAT}", where=where)
    if values.pop("sha256", None) != _digest(values):
        raise RunError("the manifest is damaged (its SHA-256 differs)", where=where)
    return values
