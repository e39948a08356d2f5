"""Which nodes an autoscaler can bring. Ray tells nobody; it is read where the autoscaler reads it, on the head.

``ray start --autoscaling-config`` names a file there, also after ``ray up``; on Kubernetes it is the RayCluster, which
KubeRay lets its head read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
import yaml
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raypretrain.training.nodes import Node, NodeType, possible

HEAD = "node:__internal_head__"
"""A resource of the head alone."""

_FLAG, _LOGS = "--autoscaling-config=", "--logs-dir="
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Growth:
    """How large a cluster can become.

    Args:
        types: of nodes that can come, in the order of its configuration.
        most: of such nodes together.
    """

    types: tuple[NodeType, ...]
    most: int

    def nodes(self, head: Node) -> list[Node]:
        """All that there can be at once."""
        return possible(head, self.types, self.most)

    def __str__(self) -> str:
        return ", ".join(map(str, self.types))


def growth() -> Growth | None:
    """What the autoscaler of the cluster that this process has joined can bring; None without one.

    Raises:
        Exception: of many kinds: there is one, but what it can bring cannot be read.
    """
    head = next((node for node in ray.nodes() if node["Alive"] and HEAD in node["Resources"]), None)
    if head is None:
        return None
    context = ray.get_runtime_context()
    if head["NodeID"] == context.get_node_id():
        return read_growth(context.get_session_name())
    there = NodeAffinitySchedulingStrategy(head["NodeID"], soft=False)
    task = ray.remote(read_growth).options(num_cpus=0, scheduling_strategy=there)
    found: Growth | None = ray.get(task.remote(context.get_session_name()))
    return found


def read_growth(session: str) -> Growth | None:
    """As :func:`growth`; to be called on the head.

    Args:
        session: Ray's name of the cluster: several may have their heads on one machine.
    """
    path = _file_of_monitor(session)
    if path:
        return growth_of(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    name = os.environ.get("RAY_CLUSTER_NAME")  # set by KubeRay in all its pods
    if name and _NAMESPACE.is_file():
        from ray.autoscaler._private.kuberay.node_provider import KubernetesHttpApiClient

        client = KubernetesHttpApiClient(_NAMESPACE.read_text(encoding="utf-8").strip())
        return growth_of_kubernetes(client.get(f"rayclusters/{name}"))
    return None


def _file_of_monitor(session: str) -> str | None:
    """The configuration of the process that scales this cluster."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if any(part.startswith(_LOGS) and session in Path(part).parts for part in command):
            found = [part.removeprefix(_FLAG) for part in command if part.startswith(_FLAG)]
            if found:
                return found[0]
    return None


def growth_of_kubernetes(cluster: dict[str, Any]) -> Growth | None:
    """Of a RayCluster as the Kubernetes API has it; None if it does not scale by itself."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    if not cluster["spec"].get("enableInTreeAutoscaling"):
        return None
    return growth_of(_derive_autoscaling_config_from_ray_cr(cluster))


def growth_of(config: dict[str, Any]) -> Growth:
    """Of an autoscaling configuration, as ``ray up`` writes it."""
    head, most = config.get("head_node_type"), int(config["max_workers"])
    types = (
        # Ray's defaults: no other head, and of any other type as many as of all.
        NodeType(
            name, Node.of(kind.get("resources", {})), kind.get("max_workers", 0 if name == head else most)
        )
        for name, kind in config["available_node_types"].items()
    )
    return Growth(tuple(kind for kind in types if kind.most > 0), most)
