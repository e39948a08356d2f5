"""What a doctor measures of nodes and between them; what it means is for judge.py and its neighbours to say."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import ray

from raypretrain.cluster import probe
from raypretrain.cluster.judge import LIBRARIES, Card, Node
from raypretrain.cluster.judge_between import AllReduce, Clock, Link, Reading, offset
from raypretrain.cluster.judge_room import Disk
from raypretrain.cluster.needs import Needs
from raypretrain.cluster.nodes import Nodes, Place, answered, on_node, within
from raypretrain.errors import StorageError
from raypretrain.storage import Options, list_files

_START_SECONDS = 60.0
"""Until an actor has started on a node and told of it, which on a busy one takes a while."""

SECONDS = 20.0
"""For what takes a moment."""

_PULL_SECONDS = 60.0
_CLOCK_TIMES = 8
_SENT, _SENT_FIRST = 32 << 20, 1 << 20
_PART, _PARTS = 1 << 20, 16
_ADDED = 4 << 20
_MEET_SECONDS = 60.0

RAYS, TIER = "Ray's temporary folder", "fast tier"


def facts(nodes: Nodes, needs: Needs | None) -> tuple[list[Node], list[Disk]]:
    """What each node knows of itself."""

    def places(place: Place) -> dict[str, str]:
        return {RAYS: place.session} | ({TIER: needs.tier} if needs and needs.tier else {})

    def ask(place: Place) -> Any:
        return place.actor.facts.remote(list(LIBRARIES), places(place), place.resources.get("GPU", 0) > 0)

    found = nodes.ask("node", _START_SECONDS, ask)
    each = needs.tier_bytes // max(1, len(found)) if needs else 0
    disks = [
        Disk(
            what,
            path,
            place.name,
            need=each if what == TIER else 0,
            spills=what == RAYS,
            **values["disks"][what],
        )
        for place, values in found.items()
        for what, path in places(place).items()
    ]
    return [_node(place, values) for place, values in found.items()], disks


def _node(place: Place, values: dict[str, Any]) -> Node:
    resources = place.resources
    return Node(
        name=place.name,
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
        store=int(resources.get("object_store_memory", 0)),
        versions=values["versions"],
        cards=tuple(Card(*card) for card in values["cards"]),
        cards_problem=values["cards_problem"],
        cuda=values["cuda"],
        shared_memory=values["shared_memory"] and tuple(values["shared_memory"]),
        compiler=values["compiler"],
        ninja=values["ninja"],
        locks=tuple(values["locks"]),
    )


def clocks(nodes: Nodes) -> list[Clock]:
    """How far each node's clock is from this machine's; one node after the other, so that nobody waits for another."""
    found = []
    for place in list(nodes.places):
        asked = list(_times(nodes, place))
        if asked:
            found.append(Clock(place.name, *offset(asked)))
    return found


def _times(nodes: Nodes, place: Place) -> Iterator[tuple[float, float, float]]:
    """Our clock before, that node's clock, our clock after; several times."""
    for _ in range(_CLOCK_TIMES):
        before = time.time()
        told = nodes.ask("clocks", SECONDS, lambda place: place.actor.clock.remote(), [place])
        if place not in told:
            return
        yield before, told[place], time.time()


def links(nodes: Nodes) -> list[Link]:
    """An object from each node to the next one, all at the same time."""
    ring = list(zip(nodes.places, [*nodes.places[1:], *nodes.places[:1]], strict=True))
    if len(ring) < 2:
        return []
    _pull(nodes, ring, _SENT_FIRST)  # which opens the connections
    return _pull(nodes, ring, _SENT)


def _pull(nodes: Nodes, ring: list[tuple[Place, Place]], size: int) -> list[Link]:
    put = {place.actor.put.remote(size): place for place in nodes.places}
    made = {put[ref]: refs for ref, refs in answered(list(put), SECONDS)[0].items()}
    asked = {target.actor.pull.remote(made[source]): source for source, target in ring if source in made}
    took = {asked[ref]: seconds for ref, seconds in answered(list(asked), _PULL_SECONDS)[0].items()}
    late = f"{size >> 20} MiB did not arrive within {_PULL_SECONDS:g} s"
    return [
        Link(source.name, target.name, size, took.get(source, 0.0), "" if source in took else late)
        for source, target in ring
    ]


def disk(path: str, need: int) -> Disk:
    """The disk of the run's folder, as this process sees it; ``need`` in bytes."""
    usage = within(SECONDS, probe.disk, path) or {"problem": "it hangs"}
    return Disk("run's folder", path, need=need, **usage)


def bucket(nodes: Nodes, url: str, options: Options | None) -> list[Reading]:
    """Some MB of a source, read by every node as the stream does."""
    try:
        files = list_files(url, options)
    except StorageError as error:
        return [_refused(url, "this process", error.what, error.fix or "", "s3:ListBucket")]
    parts = _parts((file.url, file.size) for file in files)
    if not parts:
        return [Reading(url, "this process", problem="no file there holds anything", do="check the name")]
    found = nodes.ask("bucket", _PULL_SECONDS, lambda place: place.actor.read.remote(parts, options))
    return [
        _refused(read.get("where") or url, place.name, read["problem"], read["do"], "s3:GetObject")
        if "problem" in read
        else Reading(url, place.name, read["bytes"], read["seconds"])
        for place, read in found.items()
    ]


def _parts(files: Iterable[tuple[str, int]]) -> list[tuple[str, int, int]]:
    """The ranges to read: the beginnings of the files, until they are enough."""
    found: list[tuple[str, int, int]] = []
    for url, size in files:
        starts = range(0, size, _PART)[: _PARTS - len(found)]
        found += [(url, start, min(size, start + _PART)) for start in starts]
    return found


def _refused(url: str, node: str, problem: str, fix: str, action: str) -> Reading:
    denied = problem == "access denied"
    asks = f"{fix}; they need {action}" if denied and url.startswith("s3://") else fix
    return Reading(url, node, problem=problem, do=asks)


def all_reduce(slots: list[Place], backend: str) -> AllReduce:
    """Have a process in each of ``slots`` meet the others, as workers do, and add up."""
    workers, on = len(slots), len({place.node for place in slots})
    port, failures = answered([slots[0].actor.free_port.remote()], SECONDS)
    for reason in failures.values():
        return AllReduce(backend, workers, on, problem=f"{slots[0].name} {reason}")
    [meeting] = (f"{slots[0].address}:{number}" for number in port.values())
    terms = (workers, meeting, backend, _ADDED, _MEET_SECONDS)
    gpus = 1 if backend == "nccl" else 0
    refs = {
        on_node(probe.all_reduce, place.node, gpus).remote(rank, *terms): place
        for rank, place in enumerate(slots)
    }
    found, failures = answered(list(refs), _MEET_SECONDS + SECONDS)
    for ref in failures:
        ray.cancel(ref, force=True)
    problems = [each["problem"] for each in found.values() if "problem" in each]
    problems += [f"{refs[ref].name} {reason}" for ref, reason in failures.items()]
    if problems:
        return AllReduce(backend, workers, on, problem=problems[0])
    seconds = max(each["seconds"] for each in found.values())
    right = all(each["right"] for each in found.values())
    return AllReduce(backend, workers, on, 4 * _ADDED, seconds, right)
