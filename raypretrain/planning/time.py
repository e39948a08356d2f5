"""How long a training step takes: computing at measured efficiencies, communication of the ZeRO stage, overlap."""

from __future__ import annotations

import math
from dataclasses import dataclass

from raypretrain.planning.calibration import Calibration
from raypretrain.planning.compute import BACKWARD, number_of_parameters, operations, orthogonalizing
from raypretrain.planning.hardware import LATENCY, Gpu
from raypretrain.planning.layout import Layout
from raypretrain.planning.network import Network

ENTRIES = 90
"""Entries of the width that a layer's cheap operations (norms, activations, additions, casts) read and write for a
token in a whole step. A scale: the fitted share of the bandwidth is relative to it."""

LOGIT_BYTES = 20
"""Bytes that the loss reads and writes for a logit: in 16 bits and in fp32, forward and backward."""

CAUSAL = 0.5
"""Share of the scores that a causal mask leaves, and the kernels compute."""

ATTENTION_BACKWARD = 2.5
"""FlashAttention's backward pass in forward passes: five products for two (Dao et al., 2022)."""

CHEAP = 0.8
"""Share of the forward pass's operations on entries that selective checkpointing does again. A guess: the products'
results are kept, and what follows each of them comes again."""

OPTIMIZER_BYTES = 30
"""Bytes a parameter that AdamW reads and writes: gradient, master copy, two moments, and the new weight."""


@dataclass(frozen=True)
class Step:
    """Seconds of a step of one worker; what is exposed of the communication is what computing does not hide.

    Args:
        products: matrix products of the layers and the head.
        attention: scores and mixing.
        entries: operations that are bound by the memory: norms, activations, the loss.
        launches: no kernel runs.
        exposed: communication that the computing waits for.
        optimizer: AdamW, and what Muon adds.
        communication: all of it, also what is hidden; not in the sum.
    """

    products: float
    attention: float
    entries: float
    launches: float
    exposed: float
    optimizer: float
    communication: float

    @property
    def seconds(self) -> float:
        """The whole step."""
        return self.products + self.attention + self.entries + self.launches + self.exposed + self.optimizer


def step(
    network: Network, layout: Layout, gpu: Gpu, calibration: Calibration, span: float | None = None
) -> Step:
    """A step with all its micro-batches.

    Args:
        span: positions that a token's attention spans on average (:func:`mean_span`); by default the sequence.
    """
    c, n = calibration, network
    micro_batches, tokens = layout.accumulation, layout.tokens
    cost = operations(n, layout.length if span is None else round(span), layout.predicted)
    full, selective = layout.checkpointing == "full", layout.checkpointing == "selective"
    passes = 1 + BACKWARD + full
    peak = c.products * (gpu.flops_fp32 if layout.precision == "fp32" else gpu.flops)
    faster = c.fp8 if layout.precision == "fp8" else 1.0
    products = tokens * (passes * cost.layers / faster + (1 + BACKWARD) * cost.head) / peak
    seen = cost.attention * (1.0 if n.masked else CAUSAL)
    of_attention = c.attention / c.products * peak
    attention = tokens * (1 + ATTENTION_BACKWARD + full) * seen / of_attention
    again = 1 + (1 if full else CHEAP if selective else 0) / (1 + BACKWARD)
    moved = tokens * layout.unit * n.layers * n.width * ENTRIES * again
    moved += tokens * layout.predicted * n.vocabulary * LOGIT_BYTES * layout.unit / 2
    entries = moved / (c.memory * gpu.bandwidth) * (c.halves if layout.unit == 2 else 1.0)
    launches = passes * n.layers * c.launch
    computing = products + attention + entries + launches
    travelling = communication(n, layout, gpu, c)
    exposed = max((1 - c.hidden) * travelling, travelling - computing)
    owned = number_of_parameters(n) / (layout.workers if layout.zero else 1)
    optimizer = owned * OPTIMIZER_BYTES / gpu.bandwidth
    if layout.muon:  # in bf16 whatever the precision; with ZeRO 1 and 2 the workers share it
        shares = layout.workers if layout.zero in (1, 2) else 1
        optimizer += orthogonalizing(n) / shares / (c.products * gpu.flops)
    return Step(
        products=micro_batches * products,
        attention=micro_batches * attention,
        entries=micro_batches * entries,
        launches=micro_batches * launches,
        exposed=micro_batches * exposed,
        optimizer=optimizer,
        communication=micro_batches * travelling,
    )


def communication(network: Network, layout: Layout, gpu: Gpu, calibration: Calibration) -> float:
    """Seconds that a micro-batch's share of the step's collectives takes.

    In bytes of a weight, by stage (Rajbhandari et al., ZeRO, 2020, section 7): 0 to 2 reduce the gradients and hand the
    weights out, once a step; 3 gathers the weights for the forward and for the backward pass, and reduces, for each
    micro-batch. Between nodes the ring is as fast as the network's share of all of a node's GPUs together.
    """
    workers = layout.workers
    if workers == 1:
        return 0.0
    in_node = calibration.link * gpu.link
    across = workers > gpu.per_node
    speed = min(in_node, calibration.network * gpu.network * gpu.per_node) if across else in_node
    size = number_of_parameters(network) * layout.unit * (workers - 1) / workers
    times = 3.0 if layout.zero == 3 else 2.0 / layout.accumulation
    collectives = 3 * network.layers if layout.zero == 3 else 2
    wait = LATENCY * math.log2(workers / gpu.per_node) * collectives if across else 0.0
    return times * size / speed + wait
