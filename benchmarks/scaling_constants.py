"""The numbers that scaling.py reckons with, each with where it comes from: measured here, published, or assumed."""

from __future__ import annotations

from dataclasses import dataclass

from goodput import LLAMA_3_DAYS, LLAMA_3_FAILURES, LLAMA_3_GPUS


@dataclass(frozen=True)
class Known:
    """A number.

    Args:
        kind: ``measured`` (on two cores, by the benchmark that the source names), ``published`` or ``assumed``.
    """

    name: str
    value: float
    unit: str
    kind: str
    source: str


# The GPUs.
PEAK = Known("an H100, dense bf16", 989.4e12, "FLOP/s", "published", "NVIDIA's data sheet")
TOKENS_OF_8B = Known(
    "Llama 8B, a GPU", 6_667, "tokens/s", "published", "torchtitan: 8 H100, compiled, sequences of 8,192"
)
USE_OF_1B = Known(
    "Llama 1B, share of the peak", 0.418, "", "published", "llm-foundry: 1B on H100, 41.8 % MFU"
)
NVLINK = Known(
    "NVLink, a direction", 450e9, "bytes/s", "published", "NVIDIA's H100 data sheet: 900 GB/s both"
)
TO_HOST = Known("from a GPU to its host", 25e9, "bytes/s", "assumed", "PCIe 5 x16, less than half of it")

# The network.
REACHED = Known(
    "share of a link that collectives reach", 0.8, "", "assumed", "raypretrain doctor measures yours"
)
BASE = Known("a collective's beginning", 8.4e-6, "s", "published", "NCCL, src/graph/tuning.cc: ring, Simple")
HOP_INSIDE = Known(
    "a hop by NVLink, ring", 3.4e-6, "s", "published", "NCCL, src/graph/tuning.cc: ring, Simple"
)
HOP_BETWEEN = Known("a hop by the network", 14e-6, "s", "published", "NCCL, src/graph/tuning.cc: Simple")
BUCKET = Known(
    "gradients of a collective", 5e8, "entries", "published", "DeepSpeed 0.19.8: reduce_bucket_size"
)
PREFETCH = Known(
    "weights of a collective, ZeRO 3",
    5e7,
    "entries",
    "published",
    "DeepSpeed 0.19.8: stage3_prefetch_bucket_size",
)

# The stream.
TOKENS_OF_A_CORE = Known(
    "reading and tokenizing",
    5.3e6,
    "tokens/s a core",
    "measured",
    "stream.py: BPE, 2 tasks, from s3, 2 cores",
)
BYTES_OF_A_TOKEN = Known("text", 4.1, "bytes a token", "measured", "stream.py: reviews, 16,384 pieces")
REQUEST = Known("a read of a bucket", 500e3, "bytes", "measured", "stream.py: what a task asks for at once")
GETS = Known(
    "reads of a prefix in S3", 5_500, "a second", "published", "AWS, Amazon S3 performance guidelines"
)
DEALER_CALL = Known("the dealer: a call", 0.48e-3, "s of CPU", "measured", "dealing.py")
DEALER_BYTE = Known("the dealer: a byte handed out", 2.5e-9, "s of CPU", "measured", "dealing.py")
DEALER_TOKEN = Known("the dealer: a token laid end to end", 2.0e-9, "s of CPU", "measured", "dealing.py")
DEALER_WINDOW = Known("the dealer: a window taken in", 6.4e-3, "s of CPU", "measured", "dealing.py")

# The head.
POLL = Known(
    "Ray Train's controller: a worker polled", 0.35e-3, "s of CPU", "measured", "scaling.py --measure"
)
BOARD_CALL = Known("the board: a call", 0.38e-3, "s of CPU", "measured", "scaling.py --measure")
LOOK = Known("the driver: a worker's heartbeat read", 0.01e-3, "s of CPU", "measured", "scaling.py --measure")
STARTED = Known(
    "actors that Ray starts", 389, "a second", "published", "Ray 1.12, release_logs: many_actors, 64 nodes"
)
ACTORS = Known("actors that Ray is tested with", 10_000, "", "published", "Ray, release/benchmarks/README.md")
NODES = Known("nodes that Ray is tested with", 250, "", "published", "Ray, release/benchmarks/README.md")

# Checkpoints and failures.
WRITER = Known(
    "a worker writes: copied, hashed, synced",
    0.51e9,
    "bytes/s",
    "measured",
    "checkpoint.py: 1.34 GB in 2.63 s",
)
HASHED = Known("SHA-256 on a core", 1.8e9, "bytes/s", "measured", "checkpoint.py: 1.34 GB in 0.76 s")
STALL = Known("training's stall by a save", 0.020, "s", "measured", "checkpoint.py")
STORE = Known(
    "the run's storage, all together",
    10e9,
    "bytes/s",
    "assumed",
    "a file system of 100 Gb/s; doctor measures yours",
)
FOUND = Known("a lost worker is noticed", 0.44, "s", "measured", "recovery.py")
GROUP = Known("a group stands again, two workers", 0.19, "s", "measured", "recovery.py: processes stand by")
FIRST_STEP = Known("engine and first step", 1.6, "s", "measured", "recovery.py, llama-30m")
JOINED = Known(
    "NCCL joins all workers", 30.0, "s", "assumed", "seconds at some hundred GPUs, more at thousands"
)
FAILURES = Known(
    "unexpected failures",
    LLAMA_3_FAILURES / LLAMA_3_DAYS / LLAMA_3_GPUS,
    "a GPU and day",
    "published",
    "The Llama 3 Herd of Models, 3.3.4: 419 in 54 days on 16,384 GPUs",
)
LARGEST_BATCH = Known(
    "the largest global batch of Llama 3 405B",
    16e6,
    "tokens",
    "published",
    "The Llama 3 Herd of Models, 3.4.1",
)

ALL = [value for value in list(globals().values()) if isinstance(value, Known)]
