"""What a doctor says of a cluster's machines: plain functions from measurements to lines. Neither Ray nor torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from raypretrain.errors import ClusterError

LIBRARIES = ("python", "ray", "torch", "deepspeed", "raypretrain")
"""What has to be the same on all nodes."""

_NAMED = 4


@dataclass(frozen=True)
class Line:
    """One thing that was looked at.

    Args:
        state: ``fail`` is what a run would fail of, ``warn`` what it may do badly with.
        what: was looked at, e.g. ``clocks``.
        found: what it came to.
        do: what to do about it; empty where nothing is to be done.
    """

    state: Literal["ok", "warn", "fail"]
    what: str
    found: str
    do: str = ""


def worst(lines: Iterable[Line]) -> str:
    """The worst state among ``lines``."""
    return max((line.state for line in lines), key=("ok", "warn", "fail").index, default="ok")


@dataclass(frozen=True)
class Card:
    """A GPU: its kind, its driver's version, its memory in bytes."""

    kind: str
    driver: str
    memory: int


@dataclass(frozen=True)
class Node:
    """A node of the cluster, as far as it was measured.

    Args:
        name: what a user knows it by.
        cpus, gpus, store: what Ray takes it to have; the object store in bytes.
        versions: of :data:`LIBRARIES`; None is not installed.
        cards: as the driver's own tool lists them.
        cards_problem: why it lists none, though Ray counts some.
        cuda: the version of CUDA that its torch is built for; None is for CPUs, or was not asked for.
        shared_memory: total and free bytes of /dev/shm; None where there is none.
        compiler: why a small program like those of torch.compile cannot be built; empty if it can.
        ninja: whether there is one.
        locks: of PyTorch's builder of extensions, older than any build takes.
    """

    name: str
    cpus: float
    gpus: float
    store: int
    versions: dict[str, str | None]
    cards: tuple[Card, ...] = ()
    cards_problem: str = ""
    cuda: str | None = None
    shared_memory: tuple[int, int] | None = None
    compiler: str = ""
    ninja: bool = True
    locks: tuple[str, ...] = field(default=())


def versions(nodes: Sequence[Node], here: dict[str, str | None]) -> list[Line]:
    """Whether every node has what this process has.

    Args:
        here: the versions in this process.
    """
    lines = []
    for name in LIBRARIES:
        others = [node for node in nodes if _plain(node.versions.get(name)) != _plain(here[name])]
        there = _by(others, lambda node, name=name: {node.versions.get(name) or "none"})
        if there:
            fix = "give every node the same image, or install requirements.lock on it"
            found = f"{name} {here[name] or 'none'} here, {_list(there)}"
            lines.append(Line("fail", "versions", found, fix))
    same = ", ".join(f"{name} {here[name] or 'none'}" for name in LIBRARIES)
    where = f", on all {len(nodes)} nodes" if len(nodes) > 1 else ""
    return lines or [Line("ok", "versions", f"{same}{where}")]


def gpus(nodes: Sequence[Node]) -> list[Line]:
    """Whether the GPUs are alike, and torch can use them. None are fine."""
    lines = [line for node in nodes for line in _gpus_of(node)]
    kinds = _by(nodes, lambda node: {card.kind for card in node.cards})
    drivers = _by(nodes, lambda node: {card.driver for card in node.cards})
    if len(kinds) > 1:
        fix = "all workers go as fast as the slowest; keep to one kind"
        lines.append(Line("warn", "GPUs", f"of {len(kinds)} kinds: {_list(kinds)}", fix))
    if len(drivers) > 1:
        lines.append(
            Line(
                "warn",
                "GPUs",
                f"different drivers: {_list(drivers)}",
                "install the same driver on every node",
            )
        )
    number = int(sum(node.gpus for node in nodes))
    if lines:
        return lines
    if not number:
        return [Line("ok", "GPUs", "none")]
    kind, driver = next(iter(kinds), "of unknown kind"), next(iter(drivers), "")
    return [Line("ok", "GPUs", f"{number} {kind}" + (f", driver {driver}" if driver else ""))]


def _gpus_of(node: Node) -> Iterable[Line]:
    counted, listed = int(node.gpus), len(node.cards)
    if listed and not node.cuda:
        what = f"{node.name} has {listed}, but its torch {node.versions.get('torch')} is built for CPUs"
        yield Line("fail", "GPUs", what, "install the build of torch for CUDA there")
    if counted and not listed:
        what = f"Ray counts {counted} on {node.name}, but the driver tells of none ({node.cards_problem})"
        yield Line("fail", "GPUs", what, "mend the driver there, or start its container with the GPUs")
    elif counted != listed:
        what = f"{node.name} has {listed}, Ray counts {counted}"
        yield Line(
            "warn", "GPUs", what, "start Ray there without --num-gpus, and with CUDA_VISIBLE_DEVICES unset"
        )


def compiler(nodes: Sequence[Node], asked: bool | Literal["auto"] = "auto") -> list[Line]:
    """Whether C++ can be built, which compiled layers on CPUs need; and what a killed build has left.

    Args:
        asked: the recipe's ``compute.compile``.
    """
    lines = []
    for problem, names in _by(nodes, lambda node: {node.compiler} - {""}).items():
        what = f"no C++ can be built on {names} ({problem})"
        if asked is True:
            lines.append(
                Line(
                    "fail",
                    "compiler",
                    what,
                    "install g++ and Python's headers, or set compute.compile: false",
                )
            )
        elif asked == "auto":
            fix = (
                "nothing, if layers need not be compiled on CPUs; otherwise install g++ and Python's headers"
            )
            lines.append(Line("warn", "compiler", what, fix))
    without = [node for node in nodes if not node.ninja]
    if without:
        fix = "pip install ninja, if extensions of DeepSpeed are to be built there; raypretrain builds none"
        lines.append(Line("warn", "compiler", f"no ninja on {_names(without)}", fix))
    for node in nodes:
        if node.locks:
            what = f"{node.name} has locks that a killed build has left: {', '.join(node.locks[:_NAMED])}"
            fix = "remove them, or whoever builds these extensions next waits for ever; raypretrain does not"
            lines.append(Line("warn", "compiler", what, fix))
    return lines or [Line("ok", "compiler", "builds C++; no locks of killed builds")]


def silent(doing: str, name: str, reason: str) -> Line:
    """What is said of a node that did not answer."""
    fix = "look at its load and at raylet.out there; take it out of the cluster if it hangs"
    return Line(
        "fail", "node", f"{name} {reason}" + (f", asked for: {doing}" if doing != "node" else ""), fix
    )


def refused(what: str, error: ClusterError) -> Line:
    """A line of what a start would refuse."""
    return Line("fail", what, error.what, error.fix or "")


def _plain(version: str | None) -> str:
    """Without the build: GPU nodes and a head without any have different builds of one torch."""
    return (version or "").partition("+")[0]


def _by(nodes: Sequence[Node], values: Any) -> dict[str, str]:
    """Value → the names of the nodes that have it."""
    found: dict[str, list[Node]] = {}
    for node in nodes:
        for value in sorted(values(node)):
            found.setdefault(value, []).append(node)
    return {value: _names(having) for value, having in found.items()}


def _list(found: dict[str, str]) -> str:
    return "; ".join(f"{value} on {names}" for value, names in found.items())


def _names(nodes: Iterable[Node]) -> str:
    names = [node.name for node in nodes]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
