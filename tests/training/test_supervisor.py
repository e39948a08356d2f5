"""What the driver says of workers that were lost or hang."""

from __future__ import annotations

from pathlib import Path

import ray
from ray.core.generated.common_pb2 import ActorDiedErrorContext, NodeDeathInfo
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from raypretrain.training.supervisor import describe, reason_of, write_stacks
from raypretrain.training.watching import Beat, Stall


def beat(rank: int, stack: str = "") -> Beat:
    return Beat(
        rank=rank, world=2, incarnation=1, node=f"10.0.0.{rank}", node_id="", pid=100 + rank, born=1, marks=9,
        step=7, steps=6, phase="data", since=31.0, arrived=0.0, stack=stack,
    )  # fmt: skip


def died(text: str, **values: object) -> ray.exceptions.ActorDiedError:
    return ray.exceptions.ActorDiedError(
        ActorDiedErrorContext(error_message=text, actor_id=bytes(16), **values)
    )


def test_a_dead_process_a_dead_node_and_too_little_memory_are_told_apart() -> None:
    ended = died("Worker unexpectedly exits with a connection error code 2. End of file.")
    assert describe(WorkerHealthCheckFailedError("A health check failed", failure=ended)) == (
        "lost", "its process ended",
    )  # fmt: skip
    gone = "The actor died because its node has died. Node Id: 4f"
    assert describe(died(gone)) == ("lost", "its node is gone")
    preempted = NodeDeathInfo(reason=NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED)
    assert describe(died(gone, node_death_info=preempted)) == ("lost", "its node was reclaimed")
    assert describe(ray.exceptions.OutOfMemoryError("…")) == ("lost", "its node ran out of memory")
    assert describe(RuntimeError("first line\nthe last one\n")) == ("error", "the last one")
    assert describe(RuntimeError()) == ("error", "RuntimeError")


def test_the_lost_worker_is_the_reason_and_not_those_that_lost_it() -> None:
    failures = {0: ("error", "Connection closed by peer"), 1: ("lost", "its process ended")}
    assert (
        reason_of(failures, [beat(0), beat(1)])
        == "worker 1 was lost (node 10.0.0.1, pid 101: its process ended)"
    )
    assert reason_of(failures, []) == "worker 1 was lost (its process ended)"
    failures[1] = ("error", "Connection closed by peer")
    assert reason_of(failures, [beat(0)]) == "worker 0 failed: Connection closed by peer"


def test_the_stacks_say_where_each_worker_was(tmp_path: Path) -> None:
    frozen, waits = beat(1), beat(0, '  File "loop.py", line 90, in train\n')
    stall = Stall("frozen", (frozen,), 31.0, (frozen, waits))
    path = write_stacks(tmp_path / "stacks", stall)
    assert path.read_text() == (
        "worker 1 (node 10.0.0.1, pid 101) does not answer for 31 s; last heard of in phase 'data' of step 7\n\n"
        "worker 0, node 10.0.0.0, pid 100: phase 'data' of step 7 for 31.0 s\n"
        '  File "loop.py", line 90, in train\n\n\n'
        "worker 1, node 10.0.0.1, pid 101: phase 'data' of step 7 for 31.0 s\n"
        "  no stack: it does not answer\n"
    )
