"""One trial on several workers: processes of their own, in the placement group that Ray Tune gave the trial.

The trial's own process only leads them, so that it can always be stopped, and is in no collective that one of them has
left. They share the base model and the tokens of the object store.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raypretrain.errors import ClusterError, RunError, user_error
from raypretrain.finetuning.adapt import AdaptConfig
from raypretrain.finetuning.recipe import TrialCompute
from raypretrain.finetuning.results import Goal
from raypretrain.training.interfaces import talk_over
from raypretrain.training.nodes import Node, in_words

_GRACE_SECONDS = 10.0
"""When one worker has failed, the others fail in the next collective, or wait in it for ever."""


@dataclass(frozen=True)
class Order:
    """What a trial's workers are to do.

    Args:
        folder: of the trial.
    """

    task: str
    adapt: AdaptConfig
    goal: Goal
    folder: Path
    compute: TrialCompute

    @property
    def world(self) -> int:
        """Workers; a head is solved for by one."""
        return 1 if self.adapt.way == "head" else self.compute.workers_per_trial


def resources_of(compute: TrialCompute) -> dict[str, float] | tune.PlacementGroupFactory:
    """What Ray Tune is to reserve for a trial."""
    cpus, gpus = compute.of_a_worker
    if compute.workers_per_trial == 1:
        return {"cpu": cpus, "gpu": gpus}
    # The trial's own process, the first, only waits.
    return tune.PlacementGroupFactory([{}, *[{"CPU": cpus, "GPU": gpus}] * compute.workers_per_trial])


def check_room(compute: TrialCompute) -> None:
    """Refuse trials that the nodes have no room for: Tune would wait for ever.

    Raises:
        ClusterError: with what the nodes have.
    """
    workers, (cpus, gpus) = compute.workers_per_trial, compute.of_a_worker
    nodes = [Node.of(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    room = sum(node.room(cpus, gpus) for node in nodes)
    if room >= workers:
        return
    if workers == 1:
        largest = max(nodes, default=Node(0, 0))
        wants = f"{cpus:g} CPUs and {gpus:g} GPUs"
        has = f"the largest node has {largest.cpus:g} and {largest.gpus:g}"
    else:
        wants = f"{workers} workers of {cpus:g} CPUs and {gpus:g} GPUs each"
        has = f"{in_words(nodes)} have room for {room}"
    keys = ["cpus_per_trial", "gpus_per_trial", "workers_per_trial"][: 2 if workers == 1 else 3]
    raise ClusterError(
        f"a trial wants {wants}, and {has}", fix="lower " + " or ".join(f"compute.{key}" for key in keys)
    )


class TrialWorker:
    """An actor: one process of a trial."""

    def address(self) -> tuple[str, int]:
        """Where the others find this first worker."""
        import torch.distributed as dist

        host = ray.util.get_node_ip_address()
        self._store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False)  # a port that is free
        return host, self._store.port

    def begin(self, order: Order, rank: int, address: tuple[str, int], start: Any, tokens: Any) -> None:
        """Join the others, and be ready for the first epoch."""
        cpus, gpus = order.compute.of_a_worker
        device = "cuda" if gpus else "cpu"
        # DeepSpeed looks for these; a worker sees the GPU alone that Ray gave it.
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(order.world)}
        os.environ["DS_ACCELERATOR"] = device
        talk_over(ray.util.get_node_ip_address())
        import torch.distributed as dist

        from raypretrain.finetuning.head import FeatureCache
        from raypretrain.finetuning.team import Team
        from raypretrain.finetuning.trial import trial_lines
        from raypretrain.models.cpu import use_cpus

        use_cpus(max(1, int(cpus)))
        team = Team(device=device)
        if order.world > 1:
            store = dist.TCPStore(*address) if rank else self._store
            backend = "nccl" if gpus else "gloo"
            dist.init_process_group(backend, store=store, rank=rank, world_size=order.world)
            team = Team(rank, order.world, order.compute.zero, device)
        assert order.adapt.length is not None
        task = tokens[order.task, order.adapt.length]
        self._lines = trial_lines(start, task, order.adapt, order.folder, order.goal, FeatureCache(), team)

    def advance(self) -> dict[str, Any] | None:
        """The numbers of the next epoch; None once the trial is done and written."""
        line, _ = next(self._lines, (None, None))
        return line


def lead(
    order: Order, start: ray.ObjectRef[Any], tokens: ray.ObjectRef[Any], report: Callable[..., None]
) -> None:
    """Carry out a trial, in the placement group of the caller, whose bundles are its workers'.

    Args:
        start: what all trials have in common.
        tokens: (task, length) → the task's tokens.
        report: is called with each line of ``metrics.jsonl``; the workers go on when it returns.

    Raises:
        RaypretrainError: a worker's, or that one was lost.
    """
    cpus, gpus = order.compute.of_a_worker
    group = ray.util.get_current_placement_group()
    assert group is not None  # as resources_of has it
    workers: list[Any] = [
        ray.remote(TrialWorker)
        .options(
            num_cpus=cpus,
            num_gpus=gpus,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=i),
        )
        .remote()
        for i in range(order.world)
    ]
    try:
        [address] = _all([workers[0].address.remote()])
        _all([worker.begin.remote(order, i, address, start, tokens) for i, worker in enumerate(workers)])
        while (line := _all([worker.advance.remote() for worker in workers])[0]) is not None:
            report(line)
    finally:  # also when Tune has the trial stopped, in report
        for worker in workers:
            ray.kill(worker)


def _all(asked: list[Any]) -> list[Any]:
    """The answers of all workers, by rank; the reason, if one has none."""
    waiting, errors = list(asked), dict[int, Exception]()
    while waiting:
        done, waiting = ray.wait(waiting, timeout=_GRACE_SECONDS if errors else None)
        if not done:
            break
        try:
            ray.get(done[0])
        except Exception as error:
            errors[asked.index(done[0])] = error
    if errors:
        raise _reason(errors, len(asked)) from None
    return ray.get(asked)


def _reason(errors: dict[int, Exception], world: int) -> Exception:
    """Of the errors of several workers the one that the others come from."""
    known = next(filter(None, map(user_error, errors.values())), None)
    if known is not None:
        return known
    lost = [rank for rank, error in errors.items() if isinstance(error, ray.exceptions.RayActorError)]
    if lost:
        return RunError(
            f"worker {lost[0]} of the trial's {world} (from 0) was lost",
            fix="see whether its machine ran out of memory",
        )
    first = errors[min(errors)]
    return getattr(first, "cause", None) or first
