"""The nodes of a cluster as a doctor asks them: an actor on each, and a time limit on every question."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raypretrain.cluster import probe

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Place:
    """A node, as Ray knows it.

    Args:
        node: its id.
        name: its host's name, or what tells it apart.
        session: the folder of Ray's session there.
        actor: of :class:`raypretrain.cluster.probe.Probe`.
    """

    node: str
    name: str
    address: str
    session: str
    resources: dict[str, float]
    actor: Any


class Nodes:
    """All nodes that are alive. Those that do not answer in time are asked nothing more.

    Args:
        say: is told lines of progress.
    """

    def __init__(self) -> None:
        ray.cloudpickle.register_pickle_by_value(probe)
        found = [node for node in ray.nodes() if node["Alive"]]
        names = _names(found)
        self.places = [
            Place(
                node=node["NodeID"],
                name=name,
                address=node["NodeManagerAddress"],
                session=node["ObjectStoreSocketName"].rpartition("/sockets/")[0],
                resources=node["Resources"],
                actor=_remote(probe.Probe, node["NodeID"]).remote(),
            )
            for node, name in zip(found, names, strict=True)
        ]
        self.silent: list[tuple[str, str, str]] = []
        """What was looked at, the name of the node that did not say, and why not."""

    def ask(
        self, doing: str, seconds: float, question: Callable[[Place], Any], of: Sequence[Place] | None = None
    ) -> dict[Place, Any]:
        """What each node answers to ``question(place)``, a reference; who is late is noted, and asked nothing more.

        Args:
            doing: what is looked at.
            of: the nodes to ask; by default all.
        """
        asked = {question(place): place for place in (self.places if of is None else of)}
        answers, failures = answered(list(asked), seconds)
        late = [asked[ref] for ref in failures]
        self.silent += [(doing, asked[ref].name, reason) for ref, reason in failures.items()]
        self.places = [place for place in self.places if place not in late]
        return {asked[ref]: answer for ref, answer in answers.items()}

    def close(self) -> None:
        """End the actors."""
        for place in self.places:
            ray.kill(place.actor)


def answered(refs: list[Any], seconds: float) -> tuple[dict[Any, Any], dict[Any, str]]:
    """The values that are there within ``seconds``, and why the others are not."""
    ready, late = ray.wait(refs, num_returns=len(refs), timeout=seconds) if refs else ([], [])
    failures = dict.fromkeys(late, f"does not answer within {seconds:g} s")
    values = {}
    for ref in ready:
        try:
            values[ref] = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            failures[ref] = f"cannot be measured ({type(error.cause).__name__}: {error.cause})"
        except ray.exceptions.RayError as error:
            failures[ref] = f"was lost ({type(error).__name__})"
    return values, failures


def on_node(function: Callable[..., T], node: str, gpus: float = 0) -> Any:
    """``function`` as a task that runs on ``node`` alone, in a process that asks for no CPU, and once."""
    return _remote(function, node, num_gpus=gpus, max_retries=0)


def within(seconds: float, function: Callable[..., T], *arguments: Any) -> T | None:
    """What ``function`` returns; None if it takes longer, as on a file system that hangs."""
    found: list[T] = []
    thread = threading.Thread(target=lambda: found.append(function(*arguments)), daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else None


def _remote(thing: Any, node: str, **options: Any) -> Any:
    here = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(thing).options(num_cpus=0, scheduling_strategy=here, **options)


def _names(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """What tells them apart: the hosts' names, their addresses, or the ids."""
    hosts = [node["NodeManagerHostname"] or node["NodeManagerAddress"] for node in nodes]
    addresses = [node["NodeManagerAddress"] for node in nodes]
    if len(set(hosts)) == len(nodes):
        return hosts
    if len(set(addresses)) == len(nodes):
        return addresses
    return [f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})" for node in nodes]
