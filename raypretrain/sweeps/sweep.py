"""A search over pretraining: one short run after the other, each in a folder of its own; the best is continued.

A trial is a run like any other, with its own schedule over its few tokens, so it can be looked at, and goes on where it
was killed. They run one after the other: each has the whole cluster, as the run has that they are to find settings for.
Nothing is remembered of a search but its trials' folders: which trial is next, and which ends early, follows from them.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from raypretrain.config import save_recipe
from raypretrain.errors import RaypretrainError, RunError
from raypretrain.finetuning.results import write_tables
from raypretrain.storage import check_writable, write_atomic
from raypretrain.sweeps.full import in_full, kept_where_it_decays
from raypretrain.sweeps.recipe import SweepRecipe, put, refuse_impossible
from raypretrain.sweeps.stopping import Curve, stopped_at
from raypretrain.sweeps.trials import Trial, number_of_trials, trial
from raypretrain.training.length import run_length
from raypretrain.training.metrics import read_log
from raypretrain.training.pretrain import Outcome, pretrain
from raypretrain.training.runfolder import RunFolder, locked

Progress = Callable[[dict[str, Any]], None]


@dataclass
class Tried:
    """A trial and what it came to.

    Args:
        name: of its folder.
        status: ``finished``, ``stopped`` (early), ``failed``, or ``missing``.
        curve: its evaluations, up to where it was to be stopped.
        error: of one that failed.
    """

    trial: Trial
    name: str
    status: str = "missing"
    curve: Curve = field(default_factory=list)
    seconds: float = 0.0
    error: str = ""

    @property
    def loss(self) -> float | None:
        """The last held-out loss; None if it failed."""
        return self.curve[-1][1] if self.curve and self.status != "failed" else None

    def row(self) -> dict[str, Any]:
        """Of the table."""
        tokens = self.curve[-1][0] if self.curve else 0
        found = {"trial": self.name, "status": self.status, **self.trial.values}
        found |= {"held_out_loss": self.loss, "tokens": tokens, "seconds": round(self.seconds, 1)}
        return found | ({"error": self.error} if self.error else {})


@dataclass(frozen=True)
class SweepResult:
    """What a search came to.

    Args:
        rows: one a trial, in their order: trial, status, its values, held-out loss, tokens, seconds.
        best: the row of the best finished trial.
        run: the folder of the run that it was continued to.
        outcome: of that run.
        paths: ``results`` (JSON) and ``table`` (Parquet).
        signal: the number of the signal that ended the search, if one did.
    """

    rows: list[dict[str, Any]]
    best: dict[str, Any] | None
    run: Path
    outcome: Outcome | None
    paths: dict[str, str]
    signal: int | None = None


class Sweep:
    """A search in a run's folder: ``trials/NAME/`` are runs, ``best/`` the run that the best becomes.

    Args:
        recipe: with its axes.
        tell: is told ``step`` (trial, step, steps, loss), ``trial`` (its row), lines as
            ``say``, and as ``run`` what the run in full tells.
    """

    def __init__(self, recipe: SweepRecipe, tell: Progress) -> None:
        self.recipe, self.search, self._tell = recipe, recipe.search, tell
        self.folder = Path(recipe.run.folder)
        self._rest = self._of_all_trials()
        self.tried: list[Tried] = []
        self.signal: int | None = None

    def run(self) -> SweepResult:
        """Run what has no result yet, write the table, and continue the best.

        Raises:
            RaypretrainError: what the user can mend; all trials failed.
        """
        total = number_of_trials(self.search)
        self._tell({"say": f"{total} trials of {self.search.tokens:,} tokens"})
        while len(self.tried) < total and self.signal is None:
            before = [(tried.trial, tried.loss) for tried in self.tried]
            self.tried.append(self._try(trial(self.search, self.recipe.run.seed, before)))
            self._forget_others()
        best = self.best
        rows = [tried.row() for tried in self.tried]
        paths = write_tables(self.folder, rows, {"best": best.row() if best else None})
        run, outcome = self.folder / "best", None
        if self.signal is None:
            if best is None:
                first = next(tried for tried in self.tried if tried.error)
                raise RunError(
                    f"none of {total} trials was finished; the first: {first.error}", where=str(self.folder)
                )
            outcome = self._continued(best, run)
            self.signal = outcome.signal
        return SweepResult(rows, best.row() if best else None, run, outcome, paths, self.signal)

    @property
    def best(self) -> Tried | None:
        """The finished trial with the lowest held-out loss."""
        finished = [tried for tried in self.tried if tried.status == "finished" and tried.loss is not None]
        return min(finished, key=lambda tried: tried.loss or 0.0, default=None)

    def _of_all_trials(self) -> dict[str, Any]:
        """What trials are made of beside their values."""
        left_out: Any = {
            "run": {"folder"},
            "search": True,
            "compute": True,
            "card": True,
            "training": {"tokens", "steps"},
        }
        rest = self.recipe.model_dump(mode="json", exclude=left_out)
        for key in self.search.space:
            if not key.startswith("compute."):
                put(rest, key, None)
        return rest | {"tokens": self.search.tokens}

    def _folder(self, tried: Tried) -> Path:
        return self.folder / "trials" / tried.name

    def _try(self, next_one: Trial) -> Tried:
        """Run a trial, unless it has a result; one that failed is tried again."""
        tried = Tried(next_one, next_one.name(self._rest))
        ended = self._folder(tried) / "ended.json"
        if ended.is_file():
            known = json.loads(ended.read_text(encoding="utf-8"))
            if known["status"] != "failed":
                tried.status, tried.seconds = known["status"], known["seconds"]
                tried.curve = [(tokens, loss) for tokens, loss in known["curve"]]
                return tried
            ended.unlink()
        begun = time.monotonic()
        try:
            tried.status = self._train(tried)
        except RaypretrainError as error:
            tried.status, tried.error = "failed", str(error)
        tried.seconds = time.monotonic() - begun
        if tried.status == "missing":  # somebody interrupted it
            return tried
        values = {name: getattr(tried, name) for name in ("status", "curve", "seconds", "error")}
        write_atomic(ended, json.dumps({"values": next_one.values, **values}, indent=1, default=str))
        self._tell({"event": "trial", **tried.row()})
        return tried

    def _train(self, tried: Tried) -> str:
        folder = RunFolder(self._folder(tried))
        recipe = kept_where_it_decays(self.recipe.plain(tried.trial.values, folder.path, self.search.tokens))
        before = [other.curve for other in self.tried]

        def look() -> int | None:
            rows = [row for row in read_log(folder.evaluations) if row["step"]]
            # JSON has no nan.
            losses = [inf if row["held_out_loss"] is None else row["held_out_loss"] for row in rows]
            curve = [(row["tokens"], loss) for row, loss in zip(rows, losses, strict=True)]
            stop = stopped_at(self.search.scheduler, curve, before, self.search.tokens)
            # What was measured after that, before the workers heard of it, does not count.
            tried.curve = [point for point in curve if stop is None or point[0] <= stop]
            return stop

        steps = run_length(recipe, 0).steps

        def watch(event: dict[str, Any]) -> None:
            if row := event.get("step"):
                about = {"step": row["step"], "steps": steps, "loss": row["loss"]}
                self._tell({"event": "step", "trial": tried.name, **about})

        outcome = pretrain(recipe, watch, enough=lambda: look() is not None)
        stop = look()
        if outcome.signal and outcome.status != "finished" and stop is None:
            self.signal = outcome.signal
            return "missing"
        if not tried.curve:
            raise RunError("has no held-out loss", where=str(folder.path), fix="raise corpus.held_out")
        return "finished" if stop is None else "stopped"

    def _forget_others(self) -> None:
        """Weights of a trial that is not the best are of no use any more."""
        for tried in self.tried:
            if tried is not self.best and tried.status in ("finished", "stopped"):
                for part in ("checkpoints", "model", "ray"):
                    shutil.rmtree(self._folder(tried) / part, ignore_errors=True)

    def _continued(self, best: Tried, to: Path) -> Outcome:
        own, values = self._folder(best), best.trial.values
        short = self.recipe.plain(values, own, self.search.tokens)
        recipe = in_full(self.recipe.plain(values, to), short, RunFolder(own), self._say)
        self._say(f"the best is {best.name}; it is trained in full in {to}")
        return pretrain(recipe, self._tell_run)

    def _say(self, line: str) -> None:
        self._tell({"say": line})

    def _tell_run(self, event: dict[str, Any]) -> None:
        self._tell({"event": "run", **event})


def sweep(recipe: SweepRecipe, tell: Progress) -> SweepResult:
    """Search, and continue the best; the same recipe again goes on where it stopped.

    Raises:
        RaypretrainError: what the user can mend; another process searches in this folder.
    """
    refuse_impossible(recipe)
    folder = Path(recipe.run.folder)
    check_writable(folder)
    with locked(folder):
        save_recipe(recipe, folder / "recipe.yaml")
        return Sweep(recipe, tell).run()
