"""What a doctor says of room: CPUs beside the workers, the object store, shared memory, disks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raypretrain.cluster.judge import Line, Node
from raypretrain.training.cluster import Sizes

# From here on Ray itself makes no object on the node any more.
_FULL, _NEARLY_FULL = 0.95, 0.85
_LEAST_SHARED = 64 << 20
"""What a container has of shared memory where nobody asked for more."""

_GPUS_FOR_A_CPU = 4
"""A CPU tokenizes some MB a second, which is what several GPUs take, but for the smallest models."""


@dataclass(frozen=True)
class Disk:
    """A place on a disk.

    Args:
        what: is kept there, e.g. ``run's folder``.
        node: that has the disk; empty for one that all of them see.
        total, free, need: bytes; ``need`` is 0 where it is not known.
        spills: whether Ray keeps objects there.
        problem: why it could not be measured.
    """

    what: str
    path: str
    node: str = ""
    total: int = 0
    free: int = 0
    need: int = 0
    spills: bool = False
    problem: str = ""


def cpus(nodes: Sequence[Node], sizes: Sizes | None, missing: str, grows: bool = False) -> list[Line]:
    """Whether the workers of a recipe have their CPUs, and the stream some beside them.

    Args:
        sizes: what the recipe takes; None without one.
        missing: what of it is in use by others, e.g. ``2 CPUs``.
        grows: whether an autoscaler brings what is not there yet.
    """
    total = sum(node.cpus for node in nodes)
    if sizes is None:
        return [Line("ok", "CPUs", f"{total:g} on {_count(len(nodes), 'node')}")]
    found = (
        f"{total:g} on {_count(len(nodes), 'node')}: {_count(sizes.workers, 'worker')} of {sizes.cpus_per_worker:g}, "
        f"{sizes.stream_cpus:g} for the stream"
    )
    fitting = sum(fits(node, sizes) for node in nodes)
    if grows and (missing or fitting < sizes.workers):
        return [Line("ok", "CPUs", f"{found}; a run waits for the nodes that the autoscaler brings")]
    if fitting < sizes.workers:
        fix = (
            "take a smaller compute.cpus_per_worker, fewer workers, or larger nodes; Ray would wait for ever"
        )
        return [
            Line("fail", "CPUs", f"{found}; but the nodes have room for {_count(fitting, 'worker')}", fix)
        ]
    if missing:
        fix = "wait for it, or stop it; a run would wait"
        return [Line("warn", "CPUs", f"{found}; {missing} of it are in use by other work", fix)]
    if sizes.device == "cuda" and sizes.stream_cpus * _GPUS_FOR_A_CPU < sizes.workers:
        fix = "add nodes with CPUs, or take a smaller compute.cpus_per_worker; the GPUs may wait for text"
        return [Line("warn", "CPUs", found, fix)]
    return [Line("ok", "CPUs", found)]


def trials(nodes: Sequence[Node], each: tuple[float, float], workers: int = 1) -> list[Line]:
    """Whether there is room for a trial of fine-tuning, and how many the cluster has room for.

    Args:
        each: CPUs and GPUs of a worker of a trial, which has to fit on a node.
        workers: of each trial.
    """
    wants = f"{each[0]:g} CPUs and {each[1]:g} GPUs"
    wants = f"a trial takes {wants}" if workers == 1 else f"a trial takes {workers} workers of {wants} each"
    rooms = [
        min(int(has / want + 1e-9) for has, want in zip((node.cpus, node.gpus), each, strict=True) if want)
        for node in nodes
    ]
    if sum(rooms) < workers:
        has = f"the nodes have room for {_count(sum(rooms), 'worker')}" if workers > 1 else "no node has them"
        fix = "lower compute.cpus_per_trial or compute.gpus_per_trial"
        return [Line("fail", "CPUs", f"{wants}, and {has}", fix)]
    return [Line("ok", "CPUs", f"{wants}: room for {sum(rooms) // workers} at once")]


def fits(node: Node, sizes: Sizes) -> int:
    """How many workers fit on ``node``."""
    by_cpus = int(node.cpus / sizes.cpus_per_worker + 1e-9)
    return min(by_cpus, int(node.gpus)) if sizes.device == "cuda" else by_cpus


def object_store(nodes: Sequence[Node], need: int) -> list[Line]:
    """Whether what the stream reads ahead has room.

    Args:
        need: bytes that it would hold, all nodes together; 0 without a recipe.
    """
    total = sum(node.store for node in nodes)
    found = f"{size(total)} on {_count(len(nodes), 'node')}"
    if total < 2 * need:  # the stream takes at most half of it
        fix = "start Ray with a larger --object-store-memory, or take a smaller sequences.window"
        return [
            Line("warn", "object store", f"{found}; to read ahead the stream wants {size(2 * need)}", fix)
        ]
    return [Line("ok", "object store", found)]


def shared_memory(nodes: Sequence[Node]) -> list[Line]:
    """Whether /dev/shm holds the object store, and what workers of one node hand each other."""
    lines = []
    fix = "give the container more: --shm-size, or on Kubernetes a volume of medium Memory at /dev/shm"
    for node in nodes:
        if node.shared_memory is None:
            lines.append(Line("warn", "shared memory", f"{node.name} has no /dev/shm", fix))
            continue
        total, free = node.shared_memory
        has = f"{node.name} has {size(total)}, {size(free)} of it free"
        if free < _LEAST_SHARED or (total <= _LEAST_SHARED and node.gpus > 1):
            lines.append(Line("fail", "shared memory", has, fix))
        elif total < node.store:
            what = (
                f"{has}, less than its object store of {size(node.store)}, which Ray then keeps on the disk"
            )
            lines.append(Line("warn", "shared memory", what, fix))
    least = min((node.shared_memory[1] for node in nodes if node.shared_memory), default=0)
    where = "at least " if len(nodes) > 1 else ""
    return lines or [Line("ok", "shared memory", f"{where}{size(least)} free")]


def disks(found: Sequence[Disk]) -> list[Line]:
    """Whether there is room for what a run writes, and Ray goes on making objects."""
    return [_disk(disk) for disk in found]


def _disk(disk: Disk) -> Line:
    name = f"{disk.what} on {disk.node}" if disk.node else disk.what
    if disk.problem:
        return Line("fail", "disk", f"{name}: {disk.path}: {disk.problem}", "give another folder")
    has = f"{name}: {size(disk.free)} of {size(disk.total)} free"
    if disk.free < disk.need:
        what = f"{has}, {size(disk.need)} needed ({disk.path})"
        return Line("fail", "disk", what, "free some, or give another folder")
    used = 1 - disk.free / disk.total if disk.total else 0.0
    if disk.spills and used >= _FULL:
        what = f"{has}; from {_FULL:.0%} on Ray makes no more objects ({disk.path})"
        return Line("fail", "disk", what, "free some, or start Ray with another --temp-dir")
    if disk.spills and used >= _NEARLY_FULL:
        return Line("warn", "disk", f"{has} ({disk.path})", "free some, or start Ray with another --temp-dir")
    need = f", {size(disk.need)} needed" if disk.need else ""
    return Line("ok", "disk", f"{has}{need}")


def size(number: float) -> str:
    """Bytes as people read them."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
