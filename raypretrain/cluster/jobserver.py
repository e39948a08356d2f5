"""The job server of a cluster, over HTTP: submit, list, stop, and read what a job has printed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from raypretrain.cluster.address import asks_for_token
from raypretrain.cluster.judge_between import AGENT_FIX
from raypretrain.errors import ClusterError, RunError

_SECONDS = 30.0
_SILENCE_SECONDS = 60.0
"""After so long without a line it is seen whether the connection still stands."""

_TOKEN_FIX = "point RAY_AUTH_TOKEN_PATH to the file of the cluster's token, or put it into ~/.ray/auth_token"

_CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers that say what nobody asked."""


@dataclass(frozen=True)
class ClusterJob:
    """A job of the cluster.

    Args:
        name: its submission id.
        state: ``pending``, ``running``, ``succeeded``, ``failed`` or ``stopped``.
        started: seconds since 1970, and so ``ended``.
        message: what Ray says of its state.
        status: the exit status of its command, where it has ended by itself.
        labels: what it was submitted with, see ``payload.py``.
    """

    name: str
    state: str
    entrypoint: str
    started: float | None = None
    ended: float | None = None
    message: str = ""
    status: int | None = None
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        return self.state in ("pending", "running")


class JobServer:
    """Of the cluster whose dashboard is at ``address``; what goes wrong between is a ClusterError."""

    def __init__(self, address: str) -> None:
        """Ask for its version, with the token of this machine's user if it wants one.

        Raises:
            ClusterError: it does not answer, wants a token and there is none, or refuses it.
        """
        self.address = address
        # Empty, but there: otherwise Ray's client would show a token to who asks for none.
        shown = f"Bearer {_token(address)}" if asks_for_token(address) else ""
        self._headers = {"Authorization": shown}
        for chatty in _CHATTY:
            logging.getLogger(chatty).setLevel(logging.WARNING)
        with self._told(), _only(address):
            self._client = JobSubmissionClient(address, headers=dict(self._headers))

    def get(self, path: str) -> Any:
        """What the dashboard says at ``path``, as JSON."""
        request = urllib.request.Request(self.address + path, headers=self._headers)
        with self._told(), urllib.request.urlopen(request, timeout=_SECONDS) as reply:
            return json.loads(reply.read())

    def jobs(self) -> list[ClusterJob]:
        """All jobs that were submitted to it since its start, the newest first."""
        with self._told():
            found = [_as_ours(one) for one in self._client.list_jobs() if one.submission_id]
        return sorted(found, key=lambda job: job.started or 0, reverse=True)

    def job(self, name: str) -> ClusterJob:
        """One of them, as it is now."""
        with self._told():
            return _as_ours(self._client.get_job_info(name))

    def submit(self, name: str, entrypoint: str, runtime_env: dict[str, Any], labels: dict[str, str]) -> None:
        """Submit a job of that name.

        Raises:
            RunError: there is one.
        """
        with self._told():
            try:
                self._client.submit_job(
                    entrypoint=entrypoint, submission_id=name, runtime_env=runtime_env, metadata=labels
                )
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise
                what = "a job of this name was submitted at the same moment"
                raise RunError(what, where=name, fix=f"see 'raypretrain follow {name}'") from None

    def stop(self, name: str) -> None:
        """Ask it to stop; it may take its time."""
        with self._told():
            self._client.stop_job(name)

    def log(self, name: str) -> str:
        """All that it has printed."""
        with self._told():
            return self._client.get_job_logs(name)

    def tail(self, name: str, write: Callable[[str], object]) -> None:
        """Pass on what it prints, from its beginning, until it ends or nothing came for a while."""
        with self._told():
            asyncio.run(self._tail(name, write))

    async def _tail(self, name: str, write: Callable[[str], object]) -> None:
        chunks = aiter(self._client.tail_job_logs(name))
        with contextlib.suppress(StopAsyncIteration, TimeoutError):
            while True:
                write(await asyncio.wait_for(anext(chunks), _SILENCE_SECONDS))

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What Ray and the network raise, as the user's errors."""
        try:
            yield
        except AuthenticationError:
            what = "the cluster refuses the token of this machine's user"
            raise ClusterError(what, where=self.address, fix=_TOKEN_FIX) from None
        except (OSError, aiohttp.ClientError) as error:
            what = f"the cluster does not answer any more ({type(error).__name__})"
            raise ClusterError(what, where=self.address) from None
        except RuntimeError as error:
            last = str(error).rstrip(".\n").rpartition("\n")[2]
            fix = AGENT_FIX if "No available agent" in last else None
            raise ClusterError(f"the cluster could not do it ({last})", where=self.address, fix=fix) from None


def _token(address: str) -> str:
    """The token of this machine's user, where Ray looks for it."""
    loader = AuthenticationTokenLoader.instance()
    loader.reset_cache()
    try:
        found = str(loader.get_raw_token(ignore_auth_mode=True))
    except AuthenticationError as error:
        raise ClusterError(str(error).partition(". ")[0], where=address, fix=_TOKEN_FIX) from None
    if not found:
        raise ClusterError("the cluster asks for a token, and here is none", where=address, fix=_TOKEN_FIX)
    return found


@contextlib.contextmanager
def _only(address: str) -> Iterator[None]:
    """Ray's client prefers an address of the environment to the one that it is given."""
    name = "RAY_API_SERVER_ADDRESS"
    before = os.environ.get(name)
    os.environ[name] = address
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _as_ours(found: JobDetails) -> ClusterJob:
    return ClusterJob(
        name=found.submission_id or "",
        state=found.status.value.lower(),
        entrypoint=found.entrypoint,
        started=found.start_time / 1000 if found.start_time else None,
        ended=found.end_time / 1000 if found.end_time else None,
        message=found.message or "",
        status=found.driver_exit_code,
        labels=found.metadata or {},
    )
