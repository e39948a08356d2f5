"""A Ray cluster of several nodes on this machine: raylets of their own, which can be lost, drained and added."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

_STORE_BYTES = 100 * 2**20


@contextmanager
def nodes(number: int) -> Iterator[Cluster]:
    """A head and ``number`` nodes more, of one CPU each. This process does not join it."""
    head = {"num_cpus": 1, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, connect=False, head_node_args=head)
    try:
        for _ in range(number):
            add(cluster)
        yield cluster
    finally:
        cluster.shutdown()


def add(cluster: Cluster) -> Any:
    """One more node."""
    return cluster.add_node(num_cpus=1, object_store_memory=_STORE_BYTES)


def raylet(node: Any) -> psutil.Process:
    """Its process."""
    return psutil.Process(node.all_processes[PROCESS_TYPE_RAYLET][0].process.pid)


def trains(node: Any) -> bool:
    """Whether one of Ray Train's workers is on it."""
    return any(p.name().startswith("ray::RayTrainW") for p in raylet(node).children(recursive=True))


def that_trains(cluster: Cluster) -> Any:
    """A node, other than the head, with a worker of the run on it."""
    return next(node for node in cluster.worker_nodes if trains(node))


def wait_until(true: Any, seconds: float, process: subprocess.Popen[str]) -> None:
    """Until ``true()``; fails if it takes longer, or the command ends before."""
    deadline = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it does not get there"
        time.sleep(0.05)


def drain(cluster: Cluster, node: Any, deadline: float) -> None:
    """As ``ray drain-node`` does: a notice that the node is gone at ``deadline`` (clock time)."""
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    client = GcsClient(address=cluster.address)
    accepted, why = client.drain_node(node.node_id, reason, "spot", int(deadline * 1000))
    assert accepted, why
