"""Those numbers of scaling_constants.py that this machine can measure again: CPU time of real actors, few of them.

What a process spends on each of its workers does not hang on how many there are, so a few actors that are asked again
and again stand for thousands. CPU time, not the clock: other work on the machine then matters less.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import time
from typing import Any

import ray
from dealing import measure_calls, seconds_of_a_token
from ray.train.v2._internal.execution.worker_group.poll import WorkerStatus
from scaling_collectives import LENGTH
from scaling_constants import BOARD_CALL, DEALER_BYTE, DEALER_CALL, DEALER_TOKEN, HASHED, LOOK, POLL, Known

from raypretrain.training.board import Board
from raypretrain.training.cluster import connect
from raypretrain.training.heartbeat import Heartbeat, Progress
from raypretrain.training.watching import Beat, Watcher

POLLED = (4, 16)  # actors that play workers: the cost of one should be the same
POLLS = 4_000  # of single workers
BEATS = 4_000
WORKERS = 4_096


def cpu() -> float:
    """Seconds of CPU that this process has used."""
    times = os.times()
    return times.user + times.system


class Worker:
    """Answers as a worker of Ray Train does that has nothing to tell."""

    def poll_status(self) -> WorkerStatus:
        """It runs."""
        return WorkerStatus(running=True)


class Controller:
    """Polls workers as Ray Train's does: asks all, waits for all, takes each answer."""

    def poll(self, workers: list[Any], times: int) -> float:
        """CPU seconds of this process for one worker."""
        before = cpu()
        for _ in range(times):
            asked = [worker.poll_status.remote() for worker in workers]
            done, _ = ray.wait(asked, num_returns=len(asked))
            assert all(ray.get(answer).running for answer in done)
        return (cpu() - before) / times / len(workers)


class WatchedBoard(Board):
    """The board, and what it takes."""

    def cpu(self) -> float:
        """Seconds of CPU that this process has used."""
        return cpu()


class Rank:
    """A worker that only tells how far it is."""

    def beat(self, board: list[Any], times: int) -> None:
        """As a training process does, again and again."""
        for _ in range(times):
            board[0].beat.remote(heartbeat(0))
        ray.get(board[0].error.remote())


def heartbeat(rank: int) -> dict[str, Any]:
    """What a worker posts in the middle of a run."""
    progress = Progress()
    progress.mark("forward", 1_000)
    progress.busy.append((999, 1.2))
    who = {
        "rank": rank,
        "world": WORKERS,
        "incarnation": 0,
        "node": "10.0.0.1",
        "node_id": "f" * 56,
        "pid": 1_000 + rank,
        "born": 100_000,
    }
    return Heartbeat(progress, print, who, 600).values()


def seconds_of_a_poll(workers: int) -> float:
    """CPU of the controller for one worker, of so many."""
    controller = ray.remote(Controller).options(num_cpus=0).remote()
    actors = [ray.remote(Worker).options(num_cpus=0).remote() for _ in range(workers)]
    ray.get(controller.poll.remote(actors, 20))
    found: float = ray.get(controller.poll.remote(actors, POLLS // workers))
    for actor in (controller, *actors):
        ray.kill(actor)
    return found


def seconds_of_a_beat() -> float:
    """CPU of the board for one call."""
    board = ray.remote(WatchedBoard).options(num_cpus=0).remote()
    ranks = [ray.remote(Rank).options(num_cpus=0).remote() for _ in range(2)]
    ray.get([rank.beat.remote([board], 100) for rank in ranks])
    before = ray.get(board.cpu.remote())
    ray.get([rank.beat.remote([board], BEATS // 2) for rank in ranks])
    found: float = (ray.get(board.cpu.remote()) - before) / BEATS
    for actor in (board, *ranks):
        ray.kill(actor)
    return found


def seconds_of_a_look() -> float:
    """CPU of the driver for a worker's heartbeat: unpacked, read, and judged with all others."""
    packed = pickle.dumps([(heartbeat(rank), 0.5) for rank in range(WORKERS)])
    watcher, times = Watcher(600.0, 1.5), 5
    before = time.process_time()
    for now in range(times):
        beats = [Beat.of(values, now - age) for values, age in pickle.loads(packed)]
        watcher.look(beats, now)
    return (time.process_time() - before) / times / WORKERS


def bytes_hashed() -> float:
    """A second, with SHA-256 on one core."""
    data, before = os.urandom(1 << 28), time.process_time()
    hashlib.sha256(data).digest()
    return len(data) / (time.process_time() - before)


def measure() -> list[list[str]]:
    """Rows: the number, what is reckoned with, what it is now, and the unit."""
    connect(None, cpus=2)
    polls = {workers: seconds_of_a_poll(workers) for workers in POLLED}
    beat = seconds_of_a_beat()
    small, large = measure_calls(256, 64, 1, 10), measure_calls(64, LENGTH, 8, 5)
    ray.shutdown()
    token = seconds_of_a_token(256, LENGTH, 10)
    byte = (large.seconds - large.tokens * token - small.seconds) / large.bytes
    found: list[tuple[Known, str, float]] = [
        *((POLL, f", of {workers}", seconds) for workers, seconds in polls.items()),
        (BOARD_CALL, "", beat),
        (LOOK, f", of {WORKERS:,}", seconds_of_a_look()),
        (DEALER_CALL, "", small.seconds),
        (DEALER_BYTE, "", max(0.0, byte)),
        (DEALER_TOKEN, "", token),
        (HASHED, "", bytes_hashed()),
    ]
    return [[f"{k.name}{of}", f"{k.value:.3g}", f"{now:.3g}", k.unit] for k, of, now in found]
