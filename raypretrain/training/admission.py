"""How a run is let onto a cluster: sized for what this can become, and started when the first workers have room."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray
from ray.autoscaler.v2.schema import ClusterStatus
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.util.placement_group import placement_group, remove_placement_group

from raypretrain.errors import ClusterError
from raypretrain.training.cluster import Sizes, missing_now, size_up
from raypretrain.training.growth import HEAD, Growth, growth
from raypretrain.training.nodes import Node, counted, places
from raypretrain.training.recipe import PretrainRecipe

Say = Callable[[str], None]

_LOOK_SECONDS = 1.0
_AGAIN_SECONDS = 60.0
"""How often it is said again what is waited for, when nothing about it changes."""


def admit(recipe: PretrainRecipe, say: Say) -> Sizes:
    """How the run uses the cluster that this process has joined.

    Where that grows by itself, this waits until the workers have room (of a least and a most, the least), and says what
    for; elsewhere Ray Train waits.

    Raises:
        ClusterError: what the cluster has is too little, or what it can become.
    """
    sizes, grows = sizes_on_cluster(recipe, say)
    lacks = missing_now(sizes, ray.available_resources())
    if grows:
        wait_for_room(first_of(sizes, recipe), say)
    elif lacks:
        say(f"note: {lacks} are in use by other work on the cluster; waiting for them")
    return sizes


def sizes_on_cluster(recipe: PretrainRecipe, say: Say) -> tuple[Sizes, bool]:
    """How the run would use the cluster that this process has joined, and whether that grows by itself.

    Raises:
        ClusterError: as of :func:`admit`.
    """
    now = [node for node in ray.nodes() if node["Alive"]]
    can = _growth(say)
    if can is None:
        return size_up(recipe, *(node["Resources"] for node in now)), False
    head = next(Node.of(node["Resources"]) for node in now if HEAD in node["Resources"])
    return size_up_grown(recipe, head, can), True


def _growth(say: Say) -> Growth | None:
    try:
        can = growth()
    except (
        Exception
    ) as error:  # a file of others', the network, rights: whatever it is, the run may fit as it is
        reason = str(getattr(error, "cause", None) or error).split("\n")[0]
        say(f"note: what the autoscaler can bring cannot be read ({reason}); only what is there now counts")
        return None
    return can if can and can.types else None


def size_up_grown(recipe: PretrainRecipe, head: Node, can: Growth) -> Sizes:
    """The sizes of a run on a cluster when this is as large as it can be.

    Raises:
        ClusterError: even that is too little.
    """
    nodes = can.nodes(head)
    try:
        sizes = size_up(recipe, *({"CPU": node.cpus, "GPU": node.gpus} for node in nodes))
    except ClusterError as error:
        types = f"at its largest; beside the head ({head}) it can have {can}"
        raise ClusterError(f"{error.what} {types}", where=error.where, fix=error.fix) from None
    if sizes.elastic is None:
        return sizes
    # The autoscaler brings nothing at all for a request of which it cannot bring everything.
    room = places(nodes, sizes.cpus_per_worker, sizes.device == "cuda", spare=least_task(sizes))
    least, most = sizes.elastic
    return replace(sizes, elastic=(least, max(least, min(most, room))))


def least_task(sizes: Sizes) -> float:
    """CPUs of a task of the stream."""
    return min(1.0, sizes.stream_cpus)


def first_of(sizes: Sizes, recipe: PretrainRecipe) -> Sizes:
    """The sizes of the group that begins: of a least and a most, the least that divides the batch."""
    if sizes.elastic is None:
        return sizes
    batch = recipe.training.batches.first * recipe.compute.sequence_workers
    least = next(w for w in range(sizes.elastic[0], sizes.workers + 1) if batch % w == 0)
    return replace(sizes, workers=least)


def bundles(sizes: Sizes) -> list[dict[str, float]]:
    """What is asked for: a bundle for each worker, and one for a task of the stream."""
    worker = {"CPU": sizes.cpus_per_worker} | ({"GPU": 1.0} if sizes.device == "cuda" else {})
    return [*([worker] * sizes.workers), {"CPU": least_task(sizes)}]


def wait_for_room(sizes: Sizes, say: Say) -> None:
    """Until there is room for all of it at once. Ray Train takes its own a moment later."""
    since, begun, said, said_at = time.strftime("%H:%M:%S"), time.monotonic(), "", -math.inf
    with _asked_for(bundles(sizes)) as group:
        while not group.wait(_LOOK_SECONDS):
            lacks = missing_now(sizes, ray.available_resources()) or "room on one node for each worker"
            line = f"waiting for {lacks} since {since}{coming(_status())}"
            if line != said or time.monotonic() - said_at > _AGAIN_SECONDS:
                say(line)
                said, said_at = line, time.monotonic()
    if said:
        say(f"there is room for {counted(sizes.workers, 'worker')}, after {time.monotonic() - begun:.0f} s")


@contextmanager
def _asked_for(wanted: list[dict[str, float]]) -> Iterator[Any]:
    """A placement group, which the autoscaler brings nodes for; let go at the end, whatever happens."""
    group = placement_group(wanted, strategy="PACK")  # as Ray Train asks for its own
    try:
        yield group
    finally:
        remove_placement_group(group)


def _status() -> ClusterStatus:
    return get_cluster_status(ray.get_runtime_context().gcs_address)


def coming(status: ClusterStatus) -> str:
    """What the autoscaler does about it, e.g. ``; 2 nodes of gpu are starting``."""
    starting = Counter(node.ray_node_type_name for node in status.pending_nodes)
    for each in status.pending_launches:
        starting[each.ray_node_type_name] += each.count
    parts = [
        f"{counted(count, 'node')} of {name} {'is' if count == 1 else 'are'} starting"
        for name, count in sorted(starting.items())
    ]
    failed = max(status.failed_launches, key=lambda each: each.failed_ts_s or 0, default=None)
    if failed and not starting:
        reason = " ".join((failed.details or "no reason given").split())
        parts.append(f"a node of {failed.ray_node_type_name} could not be started: {reason[:200]}")
    return "".join(f"; {part}" for part in parts)
