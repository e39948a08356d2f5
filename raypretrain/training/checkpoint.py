"""Checkpoints: folders that count only once their manifest is written, and only while every file is as it says.

checkpoints/step-00001000/engine/…         what the engine needs
checkpoints/step-00001000/MANIFEST.json    written last: sizes and SHA-256 of every file, and where the run stood
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raypretrain.errors import RunError, StorageError
from raypretrain.storage import sha256_file, write_atomic
from raypretrain.tokens.cursor import Cursor

MANIFEST = "MANIFEST.json"
FORMAT = 1


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


def hash_files(folder: Path, part: int, parts: int) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every ``parts``-th file of a checkpoint, from ``part`` on: the workers share the reading."""
    found = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in found[part::parts]
    }


def commit(folder: Path, standing: Standing, files: dict[str, dict[str, Any]]) -> None:
    """Write the manifest: from now on the folder is a checkpoint."""
    manifest = {"format": FORMAT, **asdict(standing), "files": files}
    write_atomic(folder / MANIFEST, json.dumps({**manifest, "sha256": _digest(manifest)}, indent=1))


def read_standing(folder: Path) -> Standing:
    """The :class:`Standing` of a checkpoint.

    Raises:
        RunError: the manifest is damaged.
    """
    values = _read_manifest(folder)
    try:
        names = Standing.__dataclass_fields__
        values.setdefault("updates", -1)  # manifests from before there was a guard
        return Standing(**{k: values[k] for k in names if k != "cursor"}, cursor=Cursor(**values["cursor"]))
    except (KeyError, TypeError) as error:
        raise RunError(f"the manifest is damaged ({error})", where=str(folder / MANIFEST)) from None


def problem_of(folder: Path) -> str | None:
    """What is wrong with a checkpoint, as a line; None if every file is there and as the manifest says."""
    try:
        read_standing(folder)
        files = _read_manifest(folder)["files"]
    except RunError as error:
        return error.what
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{name} has {path.stat().st_size} bytes instead of {expected['bytes']}"
        if sha256_file(path) != expected["sha256"]:
            return f"{name} is damaged (its SHA-256 differs)"
    return None


def committed(checkpoints: Path) -> list[Path]:
    """Folders with a manifest, the newest first."""
    if not checkpoints.is_dir():
        return []
    return sorted((p for p in checkpoints.glob("step-*") if (p / MANIFEST).is_file()), reverse=True)


def newest_verified(checkpoints: Path, report: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that holds; ``report`` is told of each newer one that does not. Changes nothing."""
    for folder in committed(checkpoints):
        problem = problem_of(folder)
        if problem is None:
            return folder
        report(f"checkpoint {folder.name} is not used: {problem}")
    return None


def drop_after(checkpoints: Path, step: int) -> None:
    """Remove every checkpoint of a later step: a run that goes on from ``step`` has no use for damaged ones."""
    for folder in checkpoints.glob("step-*"):
        if folder.name > checkpoint_folder(checkpoints, step).name:
            clear(folder)


def prune(checkpoints: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` checkpoints, and whatever was never committed before the newest of them."""
    newest = committed(checkpoints)
    for folder in newest[keep:]:
        # Without its manifest it is no checkpoint any more, even if the removal is cut short.
        (folder / MANIFEST).unlink()
        shutil.rmtree(folder)
    for folder in _uncommitted(checkpoints):
        if newest and folder.name < newest[0].name:
            shutil.rmtree(folder)


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


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        values = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"the manifest cannot be read ({error})", where=str(folder / MANIFEST)) from None
    if not isinstance(values, dict) or values.get("format") != FORMAT or "files" not in values:
        raise RunError(f"the manifest is not of format {FORMAT}", where=str(folder / MANIFEST))
    if values.pop("sha256", None) != _digest(values):
        raise RunError("the manifest is damaged (its SHA-256 differs)", where=str(folder / MANIFEST))
    return values
