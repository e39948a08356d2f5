"""What a worker does with a copy of its state, in a thread: to its node's disk, or to the run's folder and its copy.

No collective runs here: the threads of several workers meet by files in the checkpoint's folder, which all of them see.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from pathlib import Path
from typing import Any

from raypretrain.errors import StorageError
from raypretrain.storage import write_atomic
from raypretrain.training import checkpoint
from raypretrain.training.checkpoint import Standing
from raypretrain.training.checkpoint_config import CheckpointConfig
from raypretrain.training.crew import Crew
from raypretrain.training.durable import Copies
from raypretrain.training.events import Events
from raypretrain.training.fast import FastTier, manifest_name
from raypretrain.training.runfolder import RunFolder
from raypretrain.training.writing import Files, Snapshot, give_way, write_part

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.02
_SEEN_WITHIN_SECONDS = 60.0
"""A shared file system may show a file of another node so much later."""


class Means:
    """What a worker saves with: the workers, the run's folder, the recipe's keys, and the tiers.

    Args:
        crew: the workers.
        run: the run's folder, which all of them see.
        config: of the recipe.
        fast: the fast tier, if there is one.

    To be made by all workers at the same time.
    """

    def __init__(self, crew: Crew, run: RunFolder, config: CheckpointConfig, fast: FastTier | None) -> None:
        self.crew, self.run, self.config, self.fast = crew, run, config, fast
        self.copies = Copies.of(config)
        self.events = Events(run.events)
        # What workers of an earlier start leave, that are not dead yet, is not ours.
        self.attempt: str = crew.first(secrets.token_hex(8))


class Work(threading.Thread):
    """One save of one worker, in the background.

    Args:
        means: what to save with.
        standing: where the run stands.
        folder: of the checkpoint, in the run's folder.
        snapshot: of this worker's part.
        held_out_loss: as measured, or None.
    """

    def __init__(
        self,
        means: Means,
        standing: Standing,
        folder: Path,
        snapshot: Snapshot,
        held_out_loss: float | None,
    ) -> None:
        super().__init__(name="saving", daemon=True)
        self.means, self.standing, self.folder = means, standing, folder
        self.state, self._copied = snapshot
        self.held_out_loss, self.crew = held_out_loss, means.crew
        self.own = threading.Event()  # this worker's part is over, whatever it came to
        self.everyone = threading.Event()  # all parts are
        self.parts: list[str | None] = []
        self.problem: str | None = None
        self.bug: BaseException | None = None
        self.stall = self.seconds = 0.0

    def told(self, parts: list[str | None]) -> None:
        """What the parts of all workers came to."""
        self.parts = parts
        self.everyone.set()

    def run(self) -> None:
        begun = time.perf_counter()
        give_way()
        try:
            self._copied()
            self.carry_out()
        except (OSError, RuntimeError, StorageError) as error:
            self.problem = reason_of(error)
            if self.problem is None:
                self.bug, self.problem = error, str(error)
        except BaseException as error:
            self.bug, self.problem = error, repr(error)
        finally:
            self.state = []
            self.own.set()
        self.seconds = time.perf_counter() - begun

    def carry_out(self) -> None:
        """Do it; an error of the disk is a failed save."""
        raise NotImplementedError

    def report(self) -> None:
        """Say that the save has failed, unless it has not."""
        if self.problem and self.crew.rank == 0:
            line = f"note: step {self.standing.step:,} is not saved: {self.problem}"
            self.crew.note(f"{line}; the run goes on" if self.means.config.failures > 1 else line)
            self._event("save-failed", problem=self.problem)

    def _event(self, event: str, **values: Any) -> None:
        try:
            self.means.events.append(event, step=self.standing.step, **values)
        except OSError:  # as full as the disk is
            return


class ToNode(Work):
    """To this node's own disk. Nobody waits for anybody; if it fails, the run has its folder."""

    def carry_out(self) -> None:
        assert self.means.fast
        self.means.fast.write(self.standing, self.state)

    def run(self) -> None:
        super().run()
        if self.problem and self.bug is None:
            self.crew.note(f"note: step {self.standing.step:,} is not in the fast tier: {self.problem}")


class ToRun(Work):
    """To the run's folder, and from there to where it is copied."""

    def run(self) -> None:
        super().run()
        if self.bug is None:
            self.report()

    def carry_out(self) -> None:
        files = self._write_own()
        if self.crew.rank:
            self._copy(files)
            return
        self.own.set()
        begun = time.perf_counter()
        parts = self._everyones("")
        failed = [part["problem"] for part in parts if part.get("problem")]
        if self.problem or failed:
            self.problem = self.problem or failed[0]
            checkpoint.clear(self.folder)
            return
        every = {name: about for part in parts for name, about in part["files"].items()}
        checkpoint.commit(self.folder, self.standing, every, self.held_out_loss)
        if not self.means.copies:
            self._forget_parts()
        size = sum(about["bytes"] for about in every.values())
        logger.info("saved step %d, %d bytes", self.standing.step, size)
        self._event("save", bytes=size, stall_seconds=self.stall, commit_seconds=time.perf_counter() - begun)
        self._prune()
        self._copy(files)
        if self.means.copies:
            self._commit_copy()

    def _write_own(self) -> Files:
        """Write this worker's part, and leave word for the first worker of what it came to."""
        files: Files = {}
        try:
            files = write_part(self.folder, self.state)
        except (OSError, RuntimeError) as error:
            self.problem = reason_of(error)
            if self.problem is None:
                raise
        finally:
            self.state = []
        self._leave("", {"files": files, "problem": self.problem})
        return files

    def _copy(self, files: Files) -> None:
        """Upload this worker's files. That it fails is no failed save: the run's folder has them."""
        copies = self.means.copies
        if not copies or self.problem:
            return
        problem = None
        try:
            if self.crew.rank == 0:
                copies.begin(self.folder)
            copies.put(self.folder, files)
        except (OSError, StorageError) as error:
            problem = str(error)
        self._leave(".copied", {"problem": problem})

    def _commit_copy(self) -> None:
        copies, config = self.means.copies, self.means.config
        assert copies
        try:
            problem = next((p["problem"] for p in self._everyones(".copied") if p["problem"]), None)
            if problem is None:
                copies.commit(self.folder, (self.means.run.metrics, self.means.run.evaluations))
                copies.prune(config.keep, config.keep_every, config.keep_best)
        except (OSError, StorageError) as error:
            problem = str(error)
        if problem:
            self.crew.note(f"note: step {self.standing.step:,} is not copied: {problem}")
            self._event("copy-failed", problem=problem)
        else:
            self._event("copy", to=copies.url)
        self._forget_parts()

    def _prune(self) -> None:
        config = self.means.config
        try:
            checkpoint.prune(self.means.run.checkpoints, config.keep, config.keep_every, config.keep_best)
        except OSError as error:
            self.crew.note(f"note: an old checkpoint cannot be removed ({error.strerror})")

    def _leave(self, suffix: str, word: dict[str, Any]) -> None:
        """Leave word in the checkpoint's folder: threads of several workers cannot meet otherwise."""
        write_atomic(
            self.folder / f"{manifest_name(self.crew.rank)}{suffix}",
            json.dumps({**word, "attempt": self.means.attempt}),
        )

    def _everyones(self, suffix: str) -> list[dict[str, Any]]:
        """Every worker's word, once all have left it.

        Raises:
            StorageError: one could not leave its word.
        """
        paths = [self.folder / f"{manifest_name(rank)}{suffix}" for rank in range(self.crew.world)]
        found: dict[Path, dict[str, Any]] = {}
        until: float | None = None
        while len(found) < len(paths):
            over = self.everyone.is_set()
            for path in paths:
                if path not in found and path.is_file():
                    word = json.loads(path.read_text(encoding="utf-8"))
                    if word["attempt"] == self.means.attempt:
                        found[path] = word
            if len(found) == len(paths):
                break
            failed = next((problem for problem in self.parts if problem), None)
            if over and failed:
                raise StorageError(failed)
            if over:
                until = until or time.monotonic() + _SEEN_WITHIN_SECONDS
                if time.monotonic() > until:
                    raise StorageError("what another worker wrote is not to be seen here")
            time.sleep(_LOOK_SECONDS)
        return [found[path] for path in paths]

    def _forget_parts(self) -> None:
        for path in self.folder.glob("rank-*.json*"):
            path.unlink(missing_ok=True)


def reason_of(error: BaseException) -> str | None:
    """Why a file could not be written; None if that was not the error. torch's writer says it in its own words."""
    if isinstance(error, StorageError):
        return error.what if error.where else str(error)
    if isinstance(error, OSError):
        return error.strerror or str(error)
    own_words = ("PytorchStreamWriter", "inline_container", "iostream error")
    return "no space left, or the disk is failing" if any(w in str(error) for w in own_words) else None
