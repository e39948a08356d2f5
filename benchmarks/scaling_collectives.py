"""What a step takes on many GPUs: computing, and the collectives of ZeRO that nothing hides. Pure functions.

Rings and trees as NCCL's own model has them: of a ring of n workers every byte passes each node's link once a round, so
that the node's whole bandwidth is that of the ring.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scaling_constants import (
    BASE,
    BUCKET,
    HOP_BETWEEN,
    HOP_INSIDE,
    NVLINK,
    PEAK,
    PREFETCH,
    REACHED,
    TOKENS_OF_8B,
    USE_OF_1B,
)

from raypretrain.models.config import ModelConfig

GPUS_OF_A_NODE = 8
LENGTH = 8_192
VOCABULARY = 128_256
WEIGHT = 2  # bytes, bf16; DeepSpeed reduces the gradients in bf16 as well


@dataclass(frozen=True)
class Network:
    """Between nodes: ``gigabits`` a second and node."""

    name: str
    gigabits: float

    @property
    def bytes(self) -> float:
        """A second that collectives get of it, a node."""
        return self.gigabits / 8 * 1e9 * REACHED.value


ETHERNET = Network("Ethernet, 100 Gb/s", 100)
INFINIBAND = Network("InfiniBand, 400 Gb/s", 400)
EFA = Network("EFA, 3,200 Gb/s", 3_200)
NETWORKS = (ETHERNET, INFINIBAND, EFA)


@dataclass(frozen=True)
class Model:
    """What is trained; a worker has one sequence in each step.

    Args:
        compute: seconds of a step on one GPU, without waiting for others.
    """

    name: str
    parameters: int
    compute: float


def _models() -> tuple[Model, Model]:
    small, large = (ModelConfig(preset=name).shape(VOCABULARY, LENGTH) for name in ("llama-1b", "llama-8b"))
    of_small = small.flops_per_token(LENGTH) * LENGTH / (USE_OF_1B.value * PEAK.value)
    return (
        Model("Llama 1B", small.parameters, of_small),
        Model("Llama 8B", large.parameters, LENGTH / TOKENS_OF_8B.value),
    )


LLAMA_1B, LLAMA_8B = _models()


def nodes_of(gpus: int) -> int:
    """Of eight GPUs each."""
    return math.ceil(gpus / GPUS_OF_A_NODE)


def bandwidth(gpus: int, network: Network) -> float:
    """Bytes a second of a ring: the node's link, or NVLink's where there is one node, or where that is less."""
    inside = NVLINK.value * REACHED.value
    return inside if nodes_of(gpus) == 1 else min(inside, network.bytes)


def reduced_volume(gpus: int) -> float:
    """What of a message passes a worker's link in an all-reduce by a ring: 2(n−1)/n of it."""
    return 2 * (gpus - 1) / gpus


def gathered_volume(gpus: int) -> float:
    """As :func:`reduced_volume`, of an all-gather or a reduce-scatter: (n−1)/n."""
    return (gpus - 1) / gpus


def ring_latency(gpus: int, rounds: int) -> float:
    """Seconds of a ring's hops; ``rounds`` is 2 for an all-reduce, 1 for an all-gather or a reduce-scatter."""
    hops, nodes = rounds * (gpus - 1), nodes_of(gpus)
    between = rounds * nodes if nodes > 1 else 0
    between = min(between, hops)
    return BASE.value + (hops - between) * HOP_INSIDE.value + between * HOP_BETWEEN.value


def tree_latency(gpus: int) -> float:
    """Seconds of the hops of an all-reduce by a tree over the nodes, up and down."""
    nodes = nodes_of(gpus)
    inside = min(gpus, GPUS_OF_A_NODE) - 1
    return BASE.value + 2 * (inside * HOP_INSIDE.value + math.log2(nodes) * HOP_BETWEEN.value)


def all_reduce(gpus: int, nbytes: float, messages: int, network: Network) -> float:
    """Seconds of an all-reduce of ``nbytes`` in so many messages, by a ring or a tree, whichever has less latency."""
    latency = min(ring_latency(gpus, 2), tree_latency(gpus))
    return nbytes * reduced_volume(gpus) / bandwidth(gpus, network) + messages * latency


def all_gather(gpus: int, nbytes: float, messages: int, network: Network) -> float:
    """Seconds of an all-gather, or a reduce-scatter, of ``nbytes`` in all: by a ring."""
    return nbytes * gathered_volume(gpus) / bandwidth(gpus, network) + messages * ring_latency(gpus, 1)


@dataclass(frozen=True)
class Step:
    """Seconds of a step: computing, all communication, and what of that no computing hides."""

    gpus: int
    compute: float
    communication: float
    exposed: float

    @property
    def seconds(self) -> float:
        """In all."""
        return self.compute + self.exposed

    @property
    def efficiency(self) -> float:
        """Share of the time in which GPUs compute."""
        return self.compute / self.seconds

    @property
    def tokens(self) -> float:
        """A second, of all GPUs: a sequence each in a step."""
        return self.gpus * LENGTH / self.compute * self.efficiency


def step(
    model: Model, gpus: int, zero: int, network: Network, sequences: int = 1, overlap: bool = False
) -> Step:
    """A step with ZeRO stage ``zero``, 1 to 3.

    Args:
        sequences: of a worker, one micro-batch each; the others accumulate.
        overlap: with stage 1 and 2, gradients are reduced beside the backward pass.
    """
    make = _stage_3 if zero == 3 else _stages_1_and_2
    compute = model.compute * sequences
    communication, exposed = make(model, gpus, zero, network, sequences, overlap)
    return Step(gpus, compute, communication, exposed)


def _stages_1_and_2(
    model: Model, gpus: int, zero: int, network: Network, sequences: int, overlap: bool
) -> tuple[float, float]:
    """DeepSpeed brings gradients together by all-reduce, and the weights that each worker moved by all-gather.

    Stage 1 reduces at the end of a step, stage 2 after each micro-batch.
    """
    size, buckets = model.parameters * WEIGHT, math.ceil(model.parameters / BUCKET.value)
    reduce = all_reduce(gpus, size, buckets, network)
    gather = all_gather(gpus, size, buckets, network)
    times = sequences if zero == 2 else 1
    hidden = 0.0
    if overlap:  # all but the last bucket, which is full when the backward pass is over
        hidden = min(reduce * (1 - 1 / buckets), model.compute * 2 / 3)
    return times * reduce + gather, times * (reduce - hidden) + gather


def _stage_3(
    model: Model, gpus: int, zero: int, network: Network, sequences: int, overlap: bool
) -> tuple[float, float]:
    """Weights are gathered before each layer's two passes, and gradients scattered, all beside the computing."""
    size = model.parameters * WEIGHT
    parts = math.ceil(model.parameters / PREFETCH.value)
    gather = all_gather(gpus, size, parts, network)
    scatter = all_gather(gpus, size, math.ceil(model.parameters / BUCKET.value), network)
    forward, backward = model.compute / 3, model.compute * 2 / 3
    exposed = max(gather / parts, gather - forward) + max(gather / parts, gather + scatter - backward)
    return sequences * (2 * gather + scatter), sequences * exposed
