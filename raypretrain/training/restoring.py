"""Which checkpoint a run goes on from: the newest that holds and that all workers can load, of the nearest tier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from raypretrain.errors import RunError, StorageError
from raypretrain.storage import write_atomic
from raypretrain.training import checkpoint
from raypretrain.training.checkpoint import MANIFEST, Standing, checkpoint_folder, read_standing
from raypretrain.training.crew import Crew
from raypretrain.training.durable import Copies
from raypretrain.training.fast import FastTier
from raypretrain.training.metrics import read_log
from raypretrain.training.runfolder import RunFolder

_TIERS = ("fast", "run", "copy")


@dataclass(frozen=True)
class Found:
    """A checkpoint to go on from: its tier (``fast``, ``run``, ``copy``), its folder, and where the run stood."""

    tier: str
    folder: Path
    standing: Standing


def find(
    crew: Crew, run: RunFolder, wanted: Standing, fast: FastTier | None, copies: Copies | None
) -> Found | None:
    """The checkpoint to go on from; None if the run has not got any. Removes later ones, which do not hold.

    To be called by all workers: they share the reading, and are all given the same.

    Args:
        wanted: the fingerprints that a checkpoint of this run has.

    Raises:
        RunError: there are checkpoints, and none holds.
        StorageError: there is no checkpoint here, and the copies cannot be read.
    """
    search = _Search(crew, run, wanted, fast, copies)
    found = search.newest()
    step = found.standing.step if found else 0
    if crew.rank == 0:
        checkpoint.drop_after(run.checkpoints, step)
    if fast:
        fast.drop_after(step)
    return found


@dataclass
class _Search:
    crew: Crew
    run: RunFolder
    wanted: Standing
    fast: FastTier | None
    copies: Copies | None

    def newest(self) -> Found | None:
        in_run = self.crew.first([checkpoint.step_of(path) for path in self._committed()])
        in_fast = self._in_fast()
        in_copy = self._in_copy(bool(in_run or in_fast))
        steps = {"fast": in_fast, "run": in_run, "copy": in_copy}
        for step, tier in _in_order(steps):
            folder = self._verified(step, tier)
            if folder:
                name = self.fast.name if tier == "fast" and self.fast else MANIFEST
                return Found(tier, folder, read_standing(folder, name))
        if in_run or in_copy:
            raise RunError(
                "none of its checkpoints holds",
                where=str(self.run.checkpoints),
                fix="put an intact copy of one back, or remove the folder to begin anew",
            )
        return None

    def _committed(self) -> list[Path]:
        return checkpoint.committed(self.run.checkpoints) if self.crew.rank == 0 else []

    def _in_fast(self) -> list[int]:
        """The steps that every worker has on its node, and that the metrics have come to."""
        if not self.fast:
            return []
        own = [step for step in self.fast.steps() if self._fits(self.fast.read_standing(step))]
        everyones = self.crew.share(own)
        rows = read_log(self.run.metrics) if self.crew.rank == 0 else []
        last = self.crew.first(rows[-1]["step"] if rows else 0)
        return [step for step in own if step <= last and all(step in steps for steps in everyones)]

    def _fits(self, standing: Standing | None) -> bool:
        names = ("recipe", "tokenizer", "corpus", "world_size", "zero")
        return standing is not None and all(getattr(standing, n) == getattr(self.wanted, n) for n in names)

    def _in_copy(self, others: bool) -> list[int]:
        """The steps that are copied. If they cannot be listed, the run goes on only where it has others."""
        if not self.copies:
            return []
        steps: list[int] = []
        problem: str | None = None
        if self.crew.rank == 0:
            try:
                steps = self.copies.steps()
            except StorageError as error:
                problem = str(error)
        steps, problem = self.crew.first([steps, problem])
        if problem and not others:
            raise StorageError(problem)
        if problem and self.crew.rank == 0:
            self.crew.note(f"note: the copies of checkpoints cannot be looked at: {problem}")
        return steps

    def _verified(self, step: int, tier: str) -> Path | None:
        """The folder of a checkpoint if it holds for all; what is wrong is told the user."""
        crew, folder = self.crew, checkpoint_folder(self.run.checkpoints, step)
        if tier == "fast":
            assert self.fast
            folder = checkpoint_folder(self.fast.folder, step)
            problem = self.fast.problem_of(step)
        elif tier == "run":
            problem = checkpoint.problem_of(folder, part=crew.rank, parts=crew.world)
        else:
            problem = self._fetch(step, folder)
        problems = crew.share(problem)
        found = next((p for p in problems if p), None)
        if found is None:
            return folder
        if crew.rank == 0:
            place = {"fast": " of the fast tier", "run": "", "copy": " of the copies"}[tier]
            crew.note(f"checkpoint {folder.name}{place} is not used: {found}")
        return None

    def _fetch(self, step: int, folder: Path) -> str | None:
        """Bring a copy into the run's folder, each worker a part of it; the manifest last."""
        assert self.copies
        problem: str | None = None
        text = ""
        try:
            if self.crew.rank == 0:
                self.crew.note(f"fetching the checkpoint of step {step:,} from {self.copies.url}")
                checkpoint.clear(folder)
                text = self.copies.manifest_text(step)
        except StorageError as error:
            problem = str(error)
        text, problem = self.crew.first([text, problem])
        if problem:
            return problem
        try:
            files = checkpoint.parse_manifest(text, MANIFEST)["files"]
            mine = dict(sorted(files.items())[self.crew.rank :: self.crew.world])
            problem = self.copies.fetch(step, folder, mine)
        except RunError as error:
            problem = error.what
        except (OSError, StorageError) as error:
            problem = str(error)
        if any(self.crew.share(problem)):
            return problem
        if self.crew.rank == 0:
            try:
                self.copies.fetch_logs((self.run.metrics, self.run.evaluations))
                write_atomic(folder / MANIFEST, text)
            except StorageError as error:
                problem = str(error)
        return problem


def _in_order(steps: dict[str, list[int]]) -> Iterator[tuple[int, str]]:
    """Every step of every tier, the newest first; of the same step the nearest."""
    pairs = [(step, tier) for tier, found in steps.items() for step in found]
    yield from sorted(pairs, key=lambda pair: (-pair[0], _TIERS.index(pair[1])))
