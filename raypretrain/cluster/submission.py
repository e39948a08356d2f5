"""A run is submitted to a cluster as a job that is named after it, and that is the only one."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypretrain.cluster.address import address_of
from raypretrain.cluster.checks import check_versions, refuse_gpus, refuse_local_paths, refuse_open
from raypretrain.cluster.inventory import take, versions_of
from raypretrain.cluster.jobserver import ClusterJob, JobServer
from raypretrain.cluster.payload import RECIPE, RUN, Payload, pack
from raypretrain.errors import RunError


@dataclass(frozen=True)
class Submission:
    """A job as it was submitted, or would be.

    Args:
        name: of the job: the run's, and a number that counts its submissions.
        sent: bytes.
    """

    server: JobServer
    payload: Payload
    name: str
    sent: int

    @property
    def values(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "job": self.name,
            "run": self.payload.folder,
            "command": self.payload.command,
            "address": self.server.address,
            "entrypoint": self.payload.entrypoint,
            "bytes": self.sent,
        }


def submit(
    recipe: Path,
    overrides: Iterable[str],
    address: str | None,
    say: Callable[[str], object],
    *,
    insecure: bool = False,
    same_paths: bool = False,
    dry_run: bool = False,
) -> Submission:
    """Check the recipe at ``recipe`` and the cluster at ``address``, and submit the one to the other.

    Args:
        say: is told what is worth knowing.
        insecure: send it even where everybody is let in.
        same_paths: the cluster's nodes see this machine's paths.
        dry_run: check all, send nothing.

    Raises:
        RaypretrainError: what the user can mend.
    """
    payload = pack(recipe, overrides)
    url = address_of(address)
    if not insecure:
        refuse_open(url)
    server = JobServer(url)
    for line in check_versions(*versions_of(server)):
        say(f"note: {line}")
    found = take(server)
    refuse_gpus(payload, found)
    if not same_paths:
        refuse_local_paths(payload, recipe, found)
    name = _next_name(payload, server.jobs())
    sent = payload.text.encode()
    if not dry_run:
        with tempfile.TemporaryDirectory(prefix="raypretrain-") as folder:
            (Path(folder) / RECIPE).write_bytes(sent)
            server.submit(name, payload.entrypoint, payload.runtime_env(Path(folder)), payload.labels)
    return Submission(server, payload, name, len(sent))


def _next_name(payload: Payload, jobs: list[ClusterJob]) -> str:
    """The run's name and the next number.

    Raises:
        RunError: the run is being carried out.
    """
    living = next((job for job in jobs if job.lives and job.labels.get(RUN) == payload.folder), None)
    if living:
        raise RunError(
            f"the run is already being carried out, by the job {living.name}",
            where=payload.folder,
            fix=f"'raypretrain follow {living.name}' shows it, 'raypretrain stop {living.name}' ends it",
        )
    pattern = re.compile(rf"{re.escape(payload.name)}-(\d+)")
    taken = [int(found[1]) for job in jobs if (found := pattern.fullmatch(job.name))]
    return f"{payload.name}-{max(taken, default=0) + 1}"
