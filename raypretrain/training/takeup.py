"""How a group of workers takes up what its run has: a checkpoint, converted if another number of workers saved it."""

from __future__ import annotations

from collections.abc import Callable

import torch.distributed as dist

from raypretrain.errors import RunError
from raypretrain.training.checkpoint import Standing
from raypretrain.training.crew import Crew
from raypretrain.training.durable import Copies
from raypretrain.training.engine import Engine
from raypretrain.training.events import Events
from raypretrain.training.fast import FastTier
from raypretrain.training.job import Job
from raypretrain.training.resize import (
    Conversion,
    clear_scratch,
    needs_conversion,
    scratch_folder,
    start_conversion,
)
from raypretrain.training.restoring import Found, find
from raypretrain.training.runfolder import RunFolder


class TakeUp:
    """The checkpoint that all workers go on from; they share in verifying it. Made by all at the same time.

    Args:
        job: for this number of workers.
        crew: the workers.
        fast: the fast tier, if there is one.
        note: tells the user a line.

    Attributes:
        standing: where the run stands.
        found: the checkpoint; None if the run begins.
        universal: whether it has to be converted; worker 0 has begun to do that.
    """

    def __init__(self, job: Job, crew: Crew, fast: FastTier | None, note: Callable[[str], None]) -> None:
        self._job, self._crew, self._fast, self._note = job, crew, fast, note
        self._run = RunFolder(job.folder)
        self.found = self._find()
        self.standing = self.found.standing if self.found else job.start
        if self.found:
            _refuse_other(self.standing, job.start, str(self.found.folder))
        saved_by, zero = self.standing.world_size, job.recipe.compute.zero
        self.universal = self.found is not None and needs_conversion(saved_by, crew.world, zero)
        self._conversion = self._begin_conversion() if crew.rank == 0 else None

    def load(self, engine: Engine) -> None:
        """Give the engine what it goes on from."""
        if self.found is None:
            return
        if not self.universal:
            engine.load(self.found.folder)
            return
        if self._conversion:
            self._conversion.finish()
        dist.barrier()
        engine.load(scratch_folder(self.found.folder))
        dist.barrier()
        if self._crew.rank == 0:
            clear_scratch(self._run.checkpoints)

    def back(self, engine: Engine) -> Standing | None:
        """Give a living engine the newest checkpoint; None if there is none, or none of this number of workers."""
        found = self._find()
        zero = self._job.recipe.compute.zero
        if found is None or needs_conversion(found.standing.world_size, self._crew.world, zero):
            return None
        engine.load(found.folder)
        return found.standing

    def _find(self) -> Found | None:
        copies = Copies.of(self._job.recipe.training.checkpoint)
        return find(self._crew, self._run, self._job.start, self._fast, copies)

    def _begin_conversion(self) -> Conversion | None:
        """Begun at once, beside the building of the engine."""
        clear_scratch(self._run.checkpoints)
        world, saved_by = self._crew.world, self.standing.world_size
        if saved_by != world:
            self._note(f"going on with {world} workers instead of {saved_by}")
            Events(self._run.events).append("resize", workers=world, before=saved_by, step=self.standing.step)
        return start_conversion(self.found.folder) if self.found and self.universal else None


def _refuse_other(found: Standing, wanted: Standing, where: str) -> None:
    """Refuse a checkpoint of another recipe, tokenizer or corpus, or of another ZeRO stage."""
    for name in ("recipe", "tokenizer", "corpus"):
        if getattr(found, name) != getattr(wanted, name):
            raise RunError(f"was made with another {name}", where=where, fix="choose another run.folder")
    if found.zero != wanted.zero:
        raise RunError(
            f"was saved with ZeRO {found.zero}, not {wanted.zero}",
            where=where,
            fix="go on with the same compute.zero",
        )
