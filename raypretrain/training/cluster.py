"""The Ray cluster of a run: started on this machine or joined, and large enough for the recipe."""

from __future__ import annotations

import logging
import math
import os
import secrets
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ray

from raypretrain.errors import ClusterError, user_error
from raypretrain.training.compute_config import ComputeConfig
from raypretrain.training.nodes import Node, counted, in_words, most_left, places
from raypretrain.training.recipe import PretrainRecipe, batch_error

LEAST_STREAM_CPUS = 0.5
"""CPUs that the stream needs beside the workers, at least: Ray Data waits for ever if there are none."""

_LOOK_SECONDS, _RAYS_LOOK_SECONDS = 0.2, 2.0
_LOOKS_A_SECOND = 1_000
"""Of Ray Train's controller at one of its workers: a third of its core."""

_OBJECT_STORE_BYTES = 512 * 2**20
_TASKS_REMEMBERED = 5_000
"""Of tasks that are done, by a cluster of our own: 100,000 by default, 2 kB each. Few ever look at them."""

_ADDRESS_SECONDS = 5.0
_MANY_FILES = 512
_FILES_AT_ONCE = 16


@dataclass(frozen=True)
class Sizes:
    """How a run uses the cluster.

    Args:
        workers: training workers.
        device: ``cpu`` or ``cuda``.
        precision: ``fp32`` or ``bf16``.
        cpus_per_worker: CPUs that Ray reserves for each.
        threads: threads that a worker computes with.
        micro_batch: sequences of one forward pass.
        stream_cpus: CPUs that reading and tokenizing may use at once.
        elastic: the least and the most workers, where the number may change while the run lasts.
    """

    workers: int
    device: str
    precision: str
    cpus_per_worker: float
    threads: int
    micro_batch: int
    stream_cpus: float
    elastic: tuple[int, int] | None = None


def connect(address: str | None, cpus: float | None = None) -> None:
    """Join the cluster at ``address``, or start one on this machine; does nothing if this process is in one.

    A cluster of our own asks for a token on its (loopback) ports; the token lives in this process and its children
    alone, not in the home directory.

    Raises:
        ClusterError: nothing answers at the address.
    """
    if ray.is_initialized():
        return
    # How soon the workers hear that their node is being reclaimed: 5 s by default.
    os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        _refuse_unreachable(address)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            said = str(error)
            # Of versions that differ, Ray names both, on lines of their own.
            reason = " ".join(said.split()) if said.startswith("Version mismatch") else said.split("\n")[0]
            raise ClusterError(
                f"no Ray cluster answers ({reason})", where=f"compute.address {address}"
            ) from None
        return
    if not any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    ray.init(
        address="local",  # or Ray would join what `ray start` has left word of on this machine, dead or alive
        num_cpus=int(cpus) if cpus else (os.cpu_count() or 1),
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _system_config={"task_events_max_num_task_in_gcs": _TASKS_REMEMBERED},
    )


def look_seconds(workers: int) -> float:
    """Seconds between two looks of Ray Train at its workers, which is how soon it knows of a lost one.

    A fifth of one, and for many workers up to two, which is its own default for any number.
    """
    return min(_RAYS_LOOK_SECONDS, max(_LOOK_SECONDS, workers / _LOOKS_A_SECOND))


def _refuse_unreachable(address: str) -> None:
    """Ray itself tries for minutes before it gives an address up."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        return  # a name that Ray resolves, e.g. "auto"
    try:
        socket.create_connection((host, int(port)), timeout=_ADDRESS_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"no Ray cluster answers at {address} ({error.strerror or error})",
            where="compute.address",
            fix="start one, or leave the key out to run on this machine",
        ) from None


def local_resources() -> dict[str, float]:
    """CPUs and GPUs of this machine, without starting Ray: what a dry run reckons with."""
    import torch

    return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}


def size_up(recipe: PretrainRecipe, *resources: dict[str, float]) -> Sizes:
    """What a run of ``recipe`` takes of a cluster.

    Args:
        resources: of each of its nodes, ``CPU`` and ``GPU``.

    Raises:
        ClusterError: there is too little, or the workers do not divide the global batch.
    """
    compute = recipe.compute
    nodes = [Node.of(each) for each in resources]
    cpus, gpus = sum(node.cpus for node in nodes), int(sum(node.gpus for node in nodes))
    device = _device(compute, gpus)
    on_gpu = device == "cuda"
    # What divides the smallest batch divides all others.
    batch, given = recipe.training.batches.first * compute.sequence_workers, compute.workers
    elastic = given if isinstance(given, tuple) else None
    stream = compute.stream_cpus or max(LEAST_STREAM_CPUS, cpus / 4)
    if isinstance(given, tuple):
        each = compute.cpus_per_worker or _cpus_for_each(nodes, stream, given[1], on_gpu)
        room = places(nodes, each, on_gpu, spare=LEAST_STREAM_CPUS)
        # Where not even the least fit, what follows says so.
        workers = most_workers(batch, given[0], min(given[1], room))
        workers = workers or next(w for w in range(given[0], given[1] + 1) if batch % w == 0)
    else:
        workers = given or (most_workers(batch, 1, max(1, gpus)) if on_gpu else 1)
        each = compute.cpus_per_worker or _cpus_for_each(nodes, stream, workers, on_gpu)
    if batch % workers:
        raise ClusterError(batch_error(batch, workers))
    _refuse_too_many(nodes, workers, each, on_gpu)
    left = most_left(nodes, workers, each, on_gpu)
    return Sizes(
        workers=workers,
        device=device,
        precision=compute.precision or ("bf16" if on_gpu else "fp32"),
        cpus_per_worker=each,
        threads=max(1, round(each)),
        micro_batch=micro_batch_of(recipe, device, workers),
        # A task of the stream takes a CPU, or less where no node has one left.
        stream_cpus=min(stream, cpus - workers * each, left if left < 1 else math.inf),
        elastic=elastic,
    )


def _refuse_too_many(nodes: list[Node], workers: int, each: float, on_gpu: bool) -> None:
    """Raises where so many workers of ``each`` CPUs do not fit, or leave the stream nothing."""
    cpus, gpus = sum(node.cpus for node in nodes), int(sum(node.gpus for node in nodes))
    if on_gpu and workers > gpus:
        raise ClusterError(
            f"{workers} workers need as many GPUs, the cluster has {gpus}",
            where="compute.workers",
            fix=f"take at most {gpus} workers, or compute.device: cpu"
            if gpus
            else "take compute.device: cpu",
        )
    if workers * each + LEAST_STREAM_CPUS > cpus + 1e-9:
        raise ClusterError(
            f"{workers} workers of {each:g} CPUs and {LEAST_STREAM_CPUS:g} for the stream need "
            f"{workers * each + LEAST_STREAM_CPUS:g} CPUs, the cluster has {cpus:g}",
            where="compute.workers",
            fix="take fewer workers, or a smaller compute.cpus_per_worker",
        )
    if places(nodes, each, on_gpu, spare=LEAST_STREAM_CPUS) < workers:
        worker = Node(1.0 if on_gpu else 0.0, each)
        raise ClusterError(
            f"{counted(workers, 'worker')} of {worker} and {LEAST_STREAM_CPUS:g} CPUs for the stream "
            f"do not fit on {in_words(nodes)}",
            where="compute.workers",
            fix="a worker has to fit on one node: take fewer workers, or a smaller compute.cpus_per_worker",
        )


def missing_now(sizes: Sizes, available: dict[str, float]) -> str:
    """What of the run's needs is not free at this moment, e.g. ``2 CPUs``; empty if all is."""
    needs = {"CPU": sizes.workers * sizes.cpus_per_worker + LEAST_STREAM_CPUS}
    if sizes.device == "cuda":
        needs["GPU"] = sizes.workers
    lacks = {kind: need - available.get(kind, 0.0) for kind, need in needs.items()}
    return " and ".join(counted(round(lack, 2), kind) for kind, lack in lacks.items() if lack > 1e-9)


def _device(compute: ComputeConfig, gpus: int) -> str:
    if compute.device == "auto":
        return "cuda" if gpus else "cpu"
    return compute.device


def most_workers(batch: int, least: int, most: int) -> int:
    """The most workers, of ``least`` to ``most``, that divide the global batch; 0 if none do."""
    return max((w for w in range(least, most + 1) if batch % w == 0), default=0)


def _cpus_for_each(nodes: list[Node], stream: float, workers: int, on_gpu: bool) -> float:
    """An equal part of what the stream leaves, in quarters; at most 4 beside a GPU, where they only feed it."""
    cpus, largest = sum(node.cpus for node in nodes), max(node.cpus for node in nodes)
    part = int(min((cpus - stream) / workers, largest, 4.0 if on_gpu else math.inf) * 4) / 4
    while part > 0.25 and places(nodes, part, on_gpu, spare=LEAST_STREAM_CPUS) < workers:
        part -= 0.25
    return max(0.25, part)  # where that does not fit, the caller says so


def micro_batch_of(recipe: PretrainRecipe, device: str, workers: int) -> int:
    """The largest divisor of a worker's share within the recipe's micro-batch, or by default some thousand tokens."""
    together = recipe.compute.sequence_workers
    share, length = recipe.training.global_batch * together // workers, recipe.sequences.length // together
    most = recipe.compute.micro_batch or max(1, (16384 if device == "cuda" else 4096) // length)
    return max(m for m in range(1, share + 1) if share % m == 0 and m <= most)


def footers_in_threads(cut: Callable[[int], Any], files: list[int]) -> list[Any]:
    """``cut`` of each of ``files``."""
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        return list(pool.map(cut, files))


def footers_in_tasks(address: str | None, cut: Callable[[int], Any], files: list[int]) -> list[Any]:
    """``cut`` of each of ``files``: with many of them as Ray tasks, over the whole cluster, otherwise in threads."""
    if len(files) < _MANY_FILES:
        return footers_in_threads(cut, files)
    connect(address)
    task, shared = ray.remote(footers_in_threads), ray.put(cut)
    parts = [files[i : i + _MANY_FILES] for i in range(0, len(files), _MANY_FILES)]
    try:
        return [found for part in ray.get([task.remote(shared, part) for part in parts]) for found in part]
    except ray.exceptions.RayTaskError as error:
        raise (user_error(error) or error) from None
