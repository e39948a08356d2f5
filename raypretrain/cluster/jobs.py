"""The jobs of a cluster that are ours: which there are, which one a name means, and how far each is."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from raypretrain.cluster.jobserver import ClusterJob, JobServer
from raypretrain.cluster.payload import COMMAND, NAME, RUN
from raypretrain.errors import RaypretrainError, RunError
from raypretrain.training.status import status_of

_LINE = re.compile(r" *[\d.]+ s  (step|trial|sequence) ([\d,]+)/([\d,]+)  (.*)")
"""A line of progress, as the views of the commands print it where there is no terminal."""

_COMMAND = re.compile(r"\braypretrain(?:\.cli)? (pretrain|search|finetune)\b")


def list_jobs(server: JobServer) -> list[dict[str, Any]]:
    """Every job that carries out one of our commands, the newest first, with its progress while it lives.

    Raises:
        ClusterError: the cluster does not answer.
    """
    now = time.time()
    return [
        {
            "job": job.name,
            "command": command,
            "run": job.labels.get(RUN),
            "state": job.state,
            "started": job.started,
            "seconds": (job.ended or now) - job.started if job.started else None,
            "progress": progress_of(server, job) if job.lives else None,
        }
        for job in server.jobs()
        if (command := _command_of(job))
    ]


def find(server: JobServer, name: str) -> ClusterJob:
    """The job that ``name`` means: its own name, or its run's, of which the one that lives or else the newest counts.

    Raises:
        RunError: there is none, or several live.
    """
    jobs = server.jobs()
    for job in jobs:
        if job.name == name:
            return job
    of_run = [job for job in jobs if name in (job.labels.get(NAME), job.labels.get(RUN))]
    living = [job for job in of_run if job.lives]
    if len(living) > 1:
        both = " and ".join(f"{job.name} ({job.labels.get(RUN)})" for job in living)
        raise RunError(f"several jobs are meant: {both}", where=name, fix="give the name of one of them")
    if not of_run:
        raise RunError(
            "the cluster has no such job", where=name, fix="'raypretrain jobs' lists those that there are"
        )
    return (living or of_run)[0]


def progress_of(server: JobServer, job: ClusterJob) -> dict[str, Any] | None:
    """How far a job is: by its run's folder where that can be seen from here, else by the last line that says it.

    Returns:
        ``unit``, ``done``, ``of``, ``text``; None if it has not begun.
    """
    folder = job.labels.get(RUN, "")
    if job.labels.get(COMMAND) == "pretrain" and (Path(folder) / "recipe.yaml").is_file():
        try:
            return _of_status(status_of(Path(folder)))
        except RaypretrainError:
            pass
    return of_log(server.log(job.name))


def of_log(text: str) -> dict[str, Any] | None:
    """The progress that the last line of a log tells."""
    found = next((line for line in map(_LINE.fullmatch, reversed(text.splitlines())) if line), None)
    if found is None:
        return None
    done, of = (int(number.replace(",", "")) for number in found.group(2, 3))
    return {"unit": found[1], "done": done, "of": of, "text": " ".join(found[4].split())}


def _of_status(found: dict[str, Any]) -> dict[str, Any] | None:
    if not found["steps"]:
        return None
    figures = [f"loss {found['loss']:.3f}"] if found["loss"] is not None else []
    if found["tokens_per_second"]:
        figures.append(f"{found['tokens_per_second']:,.0f} tokens/s")
    if found["seconds_left"] is not None:
        figures.append(f"{found['seconds_left']:.0f} s left")
    return {"unit": "step", "done": found["step"], "of": found["steps"], "text": " ".join(figures)}


def _command_of(job: ClusterJob) -> str | None:
    found = _COMMAND.search(job.entrypoint)
    return job.labels.get(COMMAND) or (found[1] if found else None)
