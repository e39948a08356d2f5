"""What a cluster has, as its dashboard tells it: versions, nodes, and whether more may come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raypretrain.cluster.jobserver import JobServer
from raypretrain.errors import ClusterError

_NODE_GROUP = "ray.io/node-group"
"""The label of nodes that a cluster launcher or KubeRay has started; others do not come by themselves."""


@dataclass(frozen=True)
class Inventory:
    """What there is now.

    Args:
        hosts: the names of the nodes' machines.
        nodes: what each node has, e.g. ``{"CPU": 8, "GPU": 1}``.
        groups: the node types that the nodes are of; empty if nobody but people adds nodes.
    """

    hosts: frozenset[str]
    nodes: tuple[dict[str, float], ...]
    groups: frozenset[str]

    def largest(self, kind: str) -> float:
        """Of a resource, the most that a node has."""
        return max((node.get(kind, 0.0) for node in self.nodes), default=0.0)

    def total(self, kind: str) -> float:
        """Of a resource, what all nodes have."""
        return sum(node.get(kind, 0.0) for node in self.nodes)


def versions_of(server: JobServer) -> tuple[str, str]:
    """Of Ray and of Python, on the head.

    Raises:
        ClusterError: it does not answer.
    """
    found = server.get("/api/v0/cluster_metadata")["data"]
    return found["rayVersion"], found["pythonVersion"]


def take(server: JobServer) -> Inventory:
    """Ask the dashboard.

    Raises:
        ClusterError: it does not answer, or its first node is still starting.
    """
    hosts = server.get("/nodes?view=hostNameList")["data"]["hostNameList"]
    listed = server.get("/api/v0/nodes?limit=10000")["data"]["result"]["result"]
    if not hosts or not listed:
        raise ClusterError("the cluster has no node yet", where=server.address, fix="try again in a moment")
    nodes: list[dict[str, Any]] = [node for node in listed if node["state"] == "ALIVE"]
    return Inventory(
        hosts=frozenset(hosts),
        nodes=tuple(node["resources_total"] for node in nodes),
        groups=frozenset(group for node in nodes if (group := (node.get("labels") or {}).get(_NODE_GROUP))),
    )
