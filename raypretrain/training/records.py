"""What a group's first worker writes into the run's folder: metrics, evaluations, losses, quarantined lines."""

from __future__ import annotations

import logging
import time
from typing import Any

from raypretrain.tokens.dealer import StepRows
from raypretrain.training.events import Events, read_events
from raypretrain.training.goodput import repeated
from raypretrain.training.job import Job
from raypretrain.training.metrics import Quarantine, StepLog
from raypretrain.training.runfolder import RunFolder

logger = logging.getLogger(__name__)


class Records:
    """The logs of a group; what stands in them after the step that it goes on from is taken out.

    Args:
        job: of the run.
        poster: to the driver.
        after: the step that the group goes on from.
        starting: seconds of what went before, by name; the first step adds its own.
    """

    def __init__(self, job: Job, poster: Any, after: int, starting: dict[str, float]) -> None:
        folder = RunFolder(job.folder)
        self._job, self._poster, self._after, self._starting = job, poster, after, starting
        self._metrics = StepLog(folder.metrics, after)
        # The one before the first step is done again with it.
        self._evaluations = StepLog(folder.evaluations, after or -1)
        if job.recipe.training.sequence_losses:
            self._sequences = StepLog(folder.sequence_losses, after)
        self._quarantine = Quarantine(folder.quarantine)

    def step(self, row: dict[str, Any], data: StepRows, skipped: int) -> None:
        """The metrics of a step, and what it was trained on; ``skipped`` steps so far moved no weights."""
        named = self._job.recipe.corpus.source_name
        row = {
            **row,
            "time": time.time(),
            "sources": {named(i): share for i, share in enumerate(data.sources)},
            "quarantined": len(data.bad),
        }
        if data.storage.get("requests"):
            row["storage"] = data.storage
        if data.bad:
            self._quarantine.add(data.bad)
        self._metrics.append(row)
        first = row["step"] == self._after + 1
        if first:
            self._starting["first_batch"] = row["data_wait_seconds"]
            self._starting["first_step"] = row["step_seconds"] - row["data_wait_seconds"]
            self._poster.post("starting", self._starting, now=True)
            self._poster.post("phase", "training", now=True)
        last = row["step"] == self._job.length.steps
        self._poster.post("step", {**row, "skipped_steps": skipped}, now=first or last)

    def losses(self, step: int, losses: list[float]) -> None:
        """The loss of each sequence of a step's batch."""
        self._sequences.append({"step": step, "losses": losses})

    def evaluation(self, row: dict[str, Any]) -> None:
        """An evaluation; its sources, if any, get their names."""
        if "sources" in row:
            named = self._job.recipe.corpus.source_name
            row["sources"] = {named(source): figures for source, figures in row["sources"].items()}
        self._evaluations.append(row)
        self._poster.post("evaluation", row, now=True)


def record_group(
    job: Job, events: Events, incarnation: int, world: int, after: int, starting: dict[str, float]
) -> None:
    """The ledger's line of a group that begins; before its :class:`Records`, which forget what is done again."""
    folder = RunFolder(job.folder)
    again = repeated(folder.metrics, folder.evaluations, after)
    events.append("group", incarnation=incarnation, world=world, step=after, spans=starting, repeated=again)


def asked_at(job: Job) -> float:
    """When Ray had to start these workers: as the run began, or when those before them were lost."""
    events = read_events(RunFolder(job.folder).events)
    return max([job.submitted, *(event["time"] for event in events if event["event"] == "lost")])


def log_takeup(job: Job, incarnation: int, step: int, found: bool) -> None:
    """What a worker begins with, and what befell those before it: who is killed leaves no word."""
    events = [e for e in read_events(RunFolder(job.folder).events) if e["time"] > job.submitted]
    losses = [event for event in events if event["event"] == "lost"]
    groups = [event for event in events if event["event"] == "group"]
    before = [event["time"] for event in groups if event["incarnation"] < incarnation]
    if losses and losses[-1]["time"] > max(before, default=0.0):
        logger.warning("the group before was lost: %s", losses[-1]["reason"])
    logger.info("goes on from step %d" if found else "begins at step %d", step)
