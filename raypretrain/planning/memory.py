"""What a device has to hold, by part, and the largest micro-batch that it can.

States by ZeRO stage: Rajbhandari et al., ZeRO, 2020, section 3. Activations are counted from what the networks of
``models/`` keep for the backward pass; for a GPT-2 that is Korthikanti et al., Reducing Activation Recomputation, 2022,
eq. 2, without dropout and without the scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from raypretrain.planning.compute import number_of_parameters
from raypretrain.planning.layout import Layout
from raypretrain.planning.network import Network

GIB = 2**30

KEPT = 0.94
"""Share of the counted activations that are alive at the peak, when allocators are full. Fitted by
benchmarks/planning.py: the most for which none of the micro-batches of llm-foundry's table that ran is refused."""

HOLES = 0.84
"""Of the probabilities that attention by blocks keeps on a CPU: what malloc has beside them and hardly uses again.
Fitted by benchmarks/planning_runs.py."""

LIBRARIES = 80e6
"""Bytes that torch, oneDNN, gloo and DeepSpeed have taken on a CPU after the first steps. Measured with one sequence of
64 tokens in ZeRO 0 to 2, fp32 and bf16, 1 and 2 workers: 56 to 142 MB."""

HOOKS = 100e6
"""And what ZeRO 3 takes there beside its buffers and two more copies of the weights. Measured the same way: 47 to
140 MB."""

WHOLE_LOGITS = 6
"""Bytes of a logit where all exist at once: in 16 bits, and in fp32 for the loss."""

CONTEXT = 1e9
"""Bytes of the CUDA context, NCCL's buffers and the libraries' workspaces. A guess: 0.5 to 3 GB are usual; with this
one no row of that table is refused."""

BUCKET = 500_000_000
"""Gradients that are reduced at a time: DeepSpeed 0.19's ``reduce_bucket_size``, which is allocated whole."""

LIVE = 50_000_000
"""Weights that ZeRO 3 gathers ahead: DeepSpeed's ``stage3_prefetch_bucket_size``."""

BLOCK, LONGEST = 128, 1024
"""Queries of a block, and the most keys for which attention works by blocks (models/blockwise.py)."""

CHUNK = {"cpu": 2**23, "cuda": 2**27}
CHUNK_ROWS = 992
"""Logits of a chunk (``models/loss.py``), and on a CPU the least rows."""


def states(parameters: int, layout: Layout, accumulated: int | None = None) -> dict[str, float]:
    """Bytes of a device's weights, gradients and optimizer (AdamW), and of what is offloaded to its node.

    Args:
        accumulated: bytes of a gradient; by default those of a weight, as DeepSpeed's engine has them here.
    """
    zero, shards = layout.zero, layout.workers
    unit = layout.unit
    # Two moments, and in bf16 a master copy in fp32. ZeRO 1 and 2 make one in fp32 as well.
    optimizer = 8.0 if unit == 4 and zero in (0, 3) else 12.0
    trained = parameters * layout.trained
    owned = trained * optimizer / (shards if zero >= 1 else 1)
    return {
        "weights": parameters * unit / (shards if zero >= 3 else 1),
        "gradients": trained * (accumulated or unit) / (shards if zero >= 2 else 1),
        "optimizer": owned if layout.offload == "none" else 0.0,
        "host": {"none": 0.0, "cpu": owned, "nvme": owned - 8.0 * owned / optimizer}[layout.offload],
    }


def kept_by_layer(network: Network, layout: Layout) -> float:
    """Entries a token leaves in one layer for the backward pass."""
    n = network
    attention = 2 * n.queries + 2 * n.keys  # query, key, value, and what they mix
    inner = (
        4 if n.gated else 2
    ) * n.feed_forward  # before and after the activation; of a gate both factors, too
    if n.gated and n.masked:  # query, key and value are one tensor, all of which stays
        attention += 2 * n.width
    everything = 4.0 * n.width + attention + inner
    if layout.blockwise:
        everything += _probabilities(network, layout) + _normalised(network, layout)
    if layout.checkpointing == "full":
        return n.width
    if layout.checkpointing == "selective":
        return 3.0 * n.width + attention + (2 if n.gated else 1) * n.feed_forward
    return everything


def _probabilities(network: Network, layout: Layout) -> float:
    """What attention by blocks keeps of a token: a row of each head, on average over the layers."""
    n, length = network, layout.length
    everywhere = 0.0
    if length <= LONGEST and not n.masked:
        everywhere = (length + min(BLOCK, length)) / 2
    elif length <= LONGEST and layout.documents:  # a whole row to both sides is torch's own kernel's
        everywhere = length
    reach = n.window // 2
    starts = range(0, length, BLOCK)
    near = sum(min(length, start + BLOCK + reach) - max(0, start - reach) for start in starts) / len(starts)
    share = n.global_layers / n.layers
    return n.heads * (share * everywhere + (1 - share) * near)


def _normalised(network: Network, layout: Layout) -> float:
    """What RMSNorm keeps of a token on a CPU, where it is several operations: the quotient, and both in fp32."""
    if network.biases or network.masked:  # they have LayerNorm
        return 0.0
    return network.width * (2.0 if layout.unit == 4 else 6.0)


def activations(network: Network, layout: Layout) -> float:
    """Bytes that a micro-batch leaves for the backward pass, at the moment when it is most."""
    entries = network.layers * kept_by_layer(network, layout) if layout.trained else 0.0
    if layout.checkpointing != "none" or not layout.trained:  # the layer that is being computed again
        entries += kept_by_layer(network, replace(layout, checkpointing="none"))
    if layout.blockwise:  # gradients of the layer whose backward pass is under way; on a GPU they are in KEPT
        entries += kept_by_layer(network, replace(layout, checkpointing="none")) if layout.trained else 0.0
    return (1.0 if layout.blockwise else KEPT) * layout.tokens * entries * layout.unit


def logits(network: Network, layout: Layout) -> float:
    """Bytes of the head and the loss."""
    rows = layout.tokens * layout.predicted
    if not rows:
        return 0.0
    if not layout.chunked:
        return WHOLE_LOGITS * layout.unit / 2 * rows * network.vocabulary
    # A chunk's logits and their gradient, on a CPU in the same memory; the gradients of the inputs, and in fp32 those
    # of the matrix.
    gradients = rows * network.width * layout.unit + 4.0 * network.vocabulary * network.width
    if layout.blockwise:
        chunk = max(CHUNK["cpu"], CHUNK_ROWS * network.vocabulary)
        return min(rows * network.vocabulary, chunk) * layout.unit + gradients
    return 2.0 * min(rows * network.vocabulary, CHUNK["cuda"]) * layout.unit + gradients


def buffers(network: Network, layout: Layout, on_cpu: bool = False) -> float:
    """Bytes for what travels: a bucket of gradients; with ZeRO 3 the weights that are gathered."""
    number = number_of_parameters(network)
    # On a CPU only what is written to takes memory.
    bucket = float(min(number, BUCKET) if on_cpu else BUCKET)
    if layout.zero == 0:
        return float(min(number, BUCKET) * layout.unit) if layout.workers > 1 else 0.0
    travelling = bucket * layout.unit
    if layout.zero == 3:
        largest = max(network.layer_matrices, network.vocabulary * network.width)
        travelling = 2 * travelling + min(number, LIVE + 2 * largest) * layout.unit
        travelling += HOOKS + 2 * number * layout.unit if on_cpu else 0.0
    return travelling


def memory(network: Network, layout: Layout) -> dict[str, float]:
    """Bytes of one device by part; ``host`` is of its node's memory, and not in ``total``."""
    parts = states(number_of_parameters(network), layout)
    host = parts.pop("host")
    on_cpu = layout.blockwise
    kept, head = activations(network, layout), logits(network, layout)
    parts |= {
        "activations": kept,
        "logits": head,
        "buffers": buffers(network, layout, on_cpu),
        "fragmentation": _holes(network, layout) if on_cpu else 0.0,
        "context": LIBRARIES if on_cpu else CONTEXT,
    }
    return parts | {"total": sum(parts.values()), "host": host}


def _holes(network: Network, layout: Layout) -> float:
    layers = (1 if layout.checkpointing == "full" else network.layers) if layout.trained else 0
    return HOLES * layers * _probabilities(network, layout) * layout.tokens * layout.unit


def fits(network: Network, layout: Layout, capacity: float) -> bool:
    """Whether a device of so many bytes can hold it."""
    return memory(network, layout)["total"] <= capacity


def largest_micro_batch(network: Network, layout: Layout, capacity: float, most: int) -> int:
    """The most sequences a forward pass of one worker can have, up to ``most``; 0 where not even one fits."""
    if not fits(network, replace(layout, micro_batch=1), capacity):
        return 0
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        if fits(network, replace(layout, micro_batch=middle), capacity):
            low = middle
        else:
            high = middle - 1
    return low


def remedies(layout: Layout) -> Iterator[tuple[str, Layout]]:
    """What can be changed where nothing fits, the cheapest in time first, each with the layout that it makes."""
    one = replace(layout, micro_batch=1)
    if layout.micro_batch > 1:
        yield "compute.micro_batch: 1", one
    for zero in range(layout.zero + 1, 4):
        if not (zero == 3 and layout.checkpointing == "selective"):
            yield f"compute.zero: {zero}", replace(one, zero=zero)
    wide = replace(one, zero=max(2, layout.zero))
    if layout.checkpointing == "none" and layout.zero < 3:
        yield "compute.gradient_checkpointing: selective, zero: 2", replace(wide, checkpointing="selective")
    deep = replace(one, zero=3, checkpointing="full")
    yield "compute.gradient_checkpointing: full, zero: 3", deep
    yield "compute.offload: cpu, gradient_checkpointing: full, zero: 3", replace(deep, offload="cpu")
    for together in (2, 4, 8):
        if layout.workers % together == 0:
            yield (
                f"compute.sequence_workers: {together}, offload: cpu, gradient_checkpointing: full, zero: 3",
                replace(deep, offload="cpu", sequence_workers=together),
            )


def first_remedy(network: Network, layout: Layout, capacity: float) -> tuple[str, Layout] | None:
    """The first of :func:`remedies` with which it fits; None if none does."""
    return next(
        ((said, changed) for said, changed in remedies(layout) if fits(network, changed, capacity)), None
    )
