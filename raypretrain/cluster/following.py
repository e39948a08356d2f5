"""A job is followed to its end, or brought to it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from raypretrain.cluster.jobs import find
from raypretrain.cluster.jobserver import ClusterJob, JobServer
from raypretrain.cluster.payload import STOP_SECONDS
from raypretrain.errors import ClusterError, RunError

GONE_SECONDS = 30.0
"""A cluster that has not answered for so long is taken to be gone."""

_LOOK_SECONDS = 1.0
_STOPPED = 128 + 15
_SAVED = ("stopped after step", "finished:")


def follow(server: JobServer, name: str, write: Callable[[str], object]) -> ClusterJob:
    """Pass on what a job prints, from its beginning to its end, over any number of connections; returns how it ended.

    Raises:
        ClusterError: the cluster is gone.
    """
    log = _Once(write)
    answered = time.monotonic()
    while True:
        try:
            job = server.job(name)
            log.begin()
            server.tail(name, log)
        except ClusterError as error:
            if time.monotonic() - answered > GONE_SECONDS:
                fix = "a run goes on from its folder: submit it again when there is a cluster"
                raise ClusterError(error.what, where=error.where, fix=fix) from None
            time.sleep(_LOOK_SECONDS)
            continue
        if not job.lives:  # as it was before what has just been passed on, which then is all
            return job
        answered = time.monotonic()


def exit_status(job: ClusterJob) -> int:
    """What a command ends with that has followed it: as the job did."""
    if job.state == "succeeded":
        return 0
    return _STOPPED if job.state == "stopped" else job.status or 1


def stop(server: JobServer, name: str, say: Callable[[str], object]) -> dict[str, Any]:
    """Have a job save what it has and end, and wait for it.

    Args:
        say: is told that it may take a while.

    Returns:
        ``job``, ``state``, ``seconds`` that it took, and ``said``: the line with which it ended, if it did so in time.

    Raises:
        RunError: it has ended already, or does not end.
    """
    job, begun = find(server, name), time.monotonic()
    if not job.lives:
        raise RunError(f"has ended already ({job.state})", where=job.name)
    server.stop(job.name)
    say(f"{job.name} is asked to save a checkpoint and end")
    while (job := server.job(job.name)).lives:
        if time.monotonic() - begun > STOP_SECONDS + GONE_SECONDS:
            raise RunError(f"is still there {time.monotonic() - begun:.0f} s later", where=job.name)
        time.sleep(_LOOK_SECONDS)
    lines = [line for line in server.log(job.name).splitlines() if line.startswith(_SAVED)]
    seconds = time.monotonic() - begun
    return {"job": job.name, "state": job.state, "seconds": seconds, "said": lines[-1] if lines else None}


class _Once:
    """Passes on what was not passed on before, of a text that is read from its beginning again and again."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._written = self._read = 0

    def begin(self) -> None:
        self._read = 0

    def __call__(self, chunk: str) -> None:
        new = chunk[max(0, self._written - self._read) :]
        self._read += len(chunk)
        if new:
            self._written = self._read
            self._write(new)
