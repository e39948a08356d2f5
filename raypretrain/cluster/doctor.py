"""The examination: what a recipe, or any, would find on a cluster or on this machine, line by line."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import ray

from raypretrain.cluster import judge, judge_between, judge_room, measure, probe, sharing
from raypretrain.cluster.doors import try_doors
from raypretrain.cluster.judge import Line, Node
from raypretrain.cluster.needs import Needs
from raypretrain.cluster.nodes import Nodes, Place
from raypretrain.errors import ClusterError
from raypretrain.training.admission import sizes_on_cluster
from raypretrain.training.cluster import Sizes, connect, missing_now


def examine(needs: Needs | None, address: str | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Look at every node of the cluster at ``address``, or of the environment, or at this machine.

    Args:
        needs: of a recipe; without one what hangs on it is left out.
        say: is told lines of progress.

    Returns:
        ``state`` (the worst of all), ``address``, ``nodes`` and ``lines`` (state, what, found, do).

    Raises:
        ClusterError: no cluster answers at the address.
    """
    recipe = needs.pretraining if needs else None
    address = address or (recipe.compute.address if recipe else None)
    _refuse_from_afar(address or os.environ.get("RAY_ADDRESS", ""))
    say("asking the nodes")
    connect(address)
    nodes = Nodes()
    examination = _Examination(nodes, needs, say)
    try:
        for step in (
            examination.machines, examination.room, examination.clocks, examination.links, examination.folder,
            examination.buckets, examination.doors, examination.all_reduce,
        ):  # fmt: skip
            say(f"looking at: {step.__name__.replace('_', '-')}")
            step()
    finally:
        nodes.close()
    lines = [judge.silent(*each) for each in nodes.silent] + examination.lines
    return {
        "state": judge.worst(lines),
        "address": ray.get_runtime_context().gcs_address,
        "nodes": [asdict(node) for node in examination.known],
        "lines": [asdict(line) for line in lines],
    }


class _Examination:
    """The steps, in their order; each adds lines."""

    def __init__(self, nodes: Nodes, needs: Needs | None, say: Callable[[str], None]) -> None:
        self._nodes, self._needs, self._say = nodes, needs, say
        self._sizes: Sizes | None = None
        self.known: list[Node] = []
        self.lines: list[Line] = []

    def machines(self) -> None:
        """What is installed on each node, its GPUs and its compiler."""
        self.known, self._disks = measure.facts(self._nodes, self._needs)
        here = {name: probe.version(name) for name in judge.LIBRARIES}
        self.lines += judge.versions(self.known, here)
        self.lines += judge.gpus(self.known)
        compiled = self._needs.compiled if self._needs else "auto"
        self.lines += judge.compiler(self.known, compiled)

    def room(self) -> None:
        """CPUs, memory and disks."""
        needs = self._needs
        if needs and not needs.pretraining:
            self.lines += judge_room.trials(self.known, needs.trial, needs.trial_workers)
        else:
            self.lines += self._cpus()
        self.lines += judge_room.object_store(self.known, needs.ahead_bytes if needs else 0)
        self.lines += judge_room.shared_memory(self.known)
        self.lines += judge_room.disks(self._disks)

    def _cpus(self) -> list[Line]:
        recipe = self._needs.pretraining if self._needs else None
        if not recipe:
            return judge_room.cpus(self.known, None, "")
        try:
            self._sizes, grows = sizes_on_cluster(recipe, self._say)
        except ClusterError as error:
            return [judge.refused("workers", error)]
        missing = missing_now(self._sizes, ray.available_resources())
        return judge_room.cpus(self.known, self._sizes, missing, grows)

    def clocks(self) -> None:
        """How far they are apart."""
        self.lines += judge_between.clocks(measure.clocks(self._nodes))

    def links(self) -> None:
        """The network between the nodes."""
        self.lines += judge_between.links(measure.links(self._nodes))

    def folder(self) -> None:
        """Whether all write to the run's folder."""
        if not self._needs:
            return
        on_gpus = self._sizes is not None and self._sizes.device == "cuda"
        trains = {node.name: node.gpus > 0 or not on_gpus for node in self.known}
        path = sharing.existing(self._needs.folder)
        self.lines += judge_between.folder(path, sharing.share(self._nodes, path, trains))
        self.lines += judge_room.disks([measure.disk(path, self._needs.folder_bytes)])

    def buckets(self) -> None:
        """Whether all read the corpus."""
        for url, options in self._needs.sources if self._needs else ():
            read = measure.bucket(self._nodes, url, options)
            self.lines += judge_between.buckets(read, self._sizes.stream_cpus if self._sizes else 0)

    def doors(self) -> None:
        """Whether Ray's ports ask for a token."""
        self.lines += judge_between.doors(try_doors(self._nodes.places))

    def all_reduce(self) -> None:
        """Whether all workers add up."""
        slots, backend = self._slots()
        if not slots:
            return
        if backend == "nccl" and ray.available_resources().get("GPU", 0) < len(slots):
            what = f"not measured: of the {len(slots)} GPUs some are in use"
            self.lines.append(Line("warn", "all-reduce", what, "ask again when they are free"))
            return
        self.lines += judge_between.all_reduce(measure.all_reduce(slots, backend))

    def _slots(self) -> tuple[list[Place], str]:
        """A node for each worker, and what they speak; without a recipe all GPUs, or a worker on each node."""
        places = {place.name: place for place in self._nodes.places}
        known = [node for node in self.known if node.name in places]
        sizes = self._sizes
        if sizes:
            slots = [places[node.name] for node in known for _ in range(judge_room.fits(node, sizes))]
            return slots[: sizes.workers], "nccl" if sizes.device == "cuda" else "gloo"
        gpus = [places[node.name] for node in known for _ in range(int(node.gpus))]
        return (gpus, "nccl") if gpus else (list(places.values()), "gloo")


def _refuse_from_afar(address: str) -> None:
    """The dashboard's address and Ray Client's are for other machines; from there nothing can be measured."""
    if address.startswith(("http://", "https://", "ray://")):
        fix = f"have it run there: ray job submit --address {address} -- raypretrain doctor"
        raise ClusterError(
            "is for machines outside of the cluster, and the doctor has to be inside", where=address, fix=fix
        )
