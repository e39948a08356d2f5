"""What the nodes of a cluster have, and what fits on them: a worker has to fit on one. Plain functions; no Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_LITTLE = 1e-9


@dataclass(frozen=True, order=True)
class Node:
    """CPUs and GPUs of one node."""

    gpus: float
    cpus: float

    @classmethod
    def of(cls, resources: dict[str, float]) -> Node:
        """As Ray names them, ``CPU`` and ``GPU``."""
        return cls(float(resources.get("GPU", 0.0)), float(resources.get("CPU", 0.0)))

    def places(self, cpus: float, gpu: bool) -> int:
        """Workers of ``cpus`` CPUs, and a GPU each if ``gpu``, that fit on it."""
        room = max(0, int(self.cpus / cpus + _LITTLE))
        return min(room, int(self.gpus)) if gpu else room

    def room(self, cpus: float, gpus: float) -> int:
        """How often ``cpus`` CPUs and ``gpus`` GPUs, either perhaps a fraction, fit on it."""
        wanted = ((self.cpus, cpus), (self.gpus, gpus))
        return min(int(has / want + _LITTLE) for has, want in wanted if want)

    def __str__(self) -> str:
        gpus = f" and {counted(self.gpus, 'GPU')}" if self.gpus else ""
        return counted(self.cpus, "CPU") + gpus


@dataclass(frozen=True)
class NodeType:
    """Nodes that an autoscaler can bring.

    Args:
        name: as the cluster's configuration has it.
        node: what each of them has.
        most: how many there can be.
    """

    name: str
    node: Node
    most: int

    def __str__(self) -> str:
        return f"{self.name} ({self.node}, up to {self.most})"


def places(nodes: Iterable[Node], cpus: float, gpu: bool, spare: float = 0.0) -> int:
    """The most workers of ``cpus`` CPUs that fit on the nodes, where one of these keeps ``spare`` CPUs free."""
    shapes = Counter(nodes)
    everywhere = sum(node.places(cpus, gpu) * count for node, count in shapes.items())
    with_less = [
        Node(node.gpus, node.cpus - spare).places(cpus, gpu) - node.places(cpus, gpu)
        for node in shapes
        if node.cpus > spare - _LITTLE
    ]
    return everywhere + max(with_less) if with_less else 0


def most_left(nodes: Iterable[Node], workers: int, cpus: float, gpu: bool) -> float:
    """CPUs that one node can keep free when all workers have their places, 0 if they do not fit."""
    shapes = set(nodes)
    left = [0.0]
    everywhere = places(nodes, cpus, gpu)
    for node in shapes:
        here = node.places(cpus, gpu)
        needed = max(0, workers - (everywhere - here))
        if needed <= here:
            left.append(node.cpus - needed * cpus)
    return max(left)


def possible(head: Node, types: Sequence[NodeType], most: int) -> list[Node]:
    """The nodes that a cluster has when it is as large as it can be.

    Args:
        head: is always there.
        types: of the others.
        most: of the others, of all types together.
    """
    others = sorted((kind.node for kind in types for _ in range(kind.most)), reverse=True)
    return [head, *others[:most]]


def in_words(nodes: Iterable[Node]) -> str:
    """E.g. ``2 nodes of 1 CPU, 1 node of 8 CPUs and 1 GPU``."""
    shapes = sorted(Counter(nodes).items())
    return ", ".join(f"{counted(count, 'node')} of {node}" for node, count in shapes)


def counted(number: float, name: str) -> str:
    """E.g. ``1 CPU``, ``2.5 CPUs``."""
    return f"{number:g} {name}" if number == 1 else f"{number:g} {name}s"
