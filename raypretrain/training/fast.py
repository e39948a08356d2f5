"""The fast tier: a few checkpoints on each node's own disk, so that a lost worker costs seconds.

FOLDER/NAME-HASH/step-00000120/engine/…          what the workers of this node wrote
FOLDER/NAME-HASH/step-00000120/rank-00001.json   written last by each: its manifest, of its own files
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from pathlib import Path

from raypretrain.errors import RunError
from raypretrain.training import checkpoint
from raypretrain.training.checkpoint import Standing, checkpoint_folder, commit, read_manifest, step_of
from raypretrain.training.writing import State, write_part

KEPT = 2


def manifest_name(rank: int) -> str:
    """A worker's manifest, in the folder of a step."""
    return f"rank-{rank:05d}.json"


class FastTier:
    """One worker's part of it.

    Args:
        folder: on this node's disk; of several runs.
        run: the run's own folder.
        rank: this worker's number.

    ``folder`` is the run's part of it, ``name`` the name of this worker's manifests.
    """

    def __init__(self, folder: str | Path, run: Path, rank: int) -> None:
        run = run.absolute()
        name = hashlib.sha256(str(run).encode()).hexdigest()[:12]
        self.folder = Path(folder) / f"{run.name}-{name}"
        self.name = manifest_name(rank)

    def write(self, standing: Standing, state: State) -> None:
        """Write this worker's part of a checkpoint, and remove what is older than the last few.

        Raises:
            OSError, StorageError: it cannot be written.
        """
        folder = checkpoint_folder(self.folder, standing.step)
        (folder / self.name).unlink(missing_ok=True)
        files = write_part(folder, state)
        commit(folder, standing, files, name=self.name)
        for step in self.steps()[KEPT:]:
            self._remove(checkpoint_folder(self.folder, step))

    def steps(self) -> list[int]:
        """The steps that this worker's part is there of, the newest first; not verified."""
        found = self.folder.glob(f"step-*/{self.name}")
        return sorted((step_of(path.parent) for path in found), reverse=True)

    def problem_of(self, step: int) -> str | None:
        """What is wrong with this worker's part, as a line."""
        return checkpoint.problem_of(checkpoint_folder(self.folder, step), self.name)

    def read_standing(self, step: int) -> Standing | None:
        """Where the run stood; None if that cannot be read."""
        try:
            return checkpoint.read_standing(checkpoint_folder(self.folder, step), self.name)
        except RunError:
            return None

    def drop_after(self, step: int) -> None:
        """Remove this worker's part of every later step."""
        for later in self.steps():
            if later > step:
                self._remove(checkpoint_folder(self.folder, later))

    def clear(self) -> None:
        """The run is finished: nothing here is of use any more."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _remove(self, folder: Path) -> None:
        """Take this worker's files away, the manifest first; the last worker's removal takes the folder."""
        with contextlib.suppress(RunError):
            names = list(read_manifest(folder, self.name)["files"])
            (folder / self.name).unlink(missing_ok=True)
            for name in names:
                (folder / name).unlink(missing_ok=True)
        (folder / self.name).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another worker has just done it
            if not any(folder.glob("rank-*.json")):
                shutil.rmtree(folder, ignore_errors=True)
