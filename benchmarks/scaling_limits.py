"""Which part of a run is full first, as it grows: the last table of scaling.py."""

from __future__ import annotations

from collections.abc import Callable

import scaling_constants as known
from scaling_collectives import EFA, LENGTH, LLAMA_1B, LLAMA_8B, Model, step
from scaling_head import first_full, head, of_model
from scaling_storage import restart, save

from raypretrain.training.cluster import look_seconds

EXPECTED = 0.8
"""The efficiency below which collectives count as full."""

LEAST_LOOK = look_seconds(1)


def limits() -> list[list[str]]:
    """What is full, at about how many GPUs, by which numbers, and what to do then."""

    def at(busy: Callable[[int], float]) -> str:
        return f"{first_full(busy):,} GPUs"

    def slow(zero: int) -> str:
        return at(lambda gpus: EXPECTED / step(LLAMA_8B, gpus, zero, EFA).efficiency)

    def dealt(model: Model) -> str:
        return at(lambda gpus: of_model(model, gpus).dealer)

    return [
        [
            "ZeRO 1, 2: nothing computes while gradients and weights travel (8B, EFA: efficiency under 80 %)",
            slow(2),
            "hops, share of a link, bucket",
            "more sequences a GPU: ZeRO 1 exchanges once a step, however many they are",
        ],
        [
            "ZeRO 3: the hops of a ring, for each part of the weights (8B, EFA: under 80 %)",
            slow(3),
            "hops, weights of a collective",
            "`compute.zero: 1` or `2` where the weights fit on a GPU: 2 bytes a parameter, and as many for gradients",
        ],
        [
            "a batch as large as any of Llama 3's, with one sequence of 8,192 tokens a GPU",
            at(lambda gpus: gpus * LENGTH / known.LARGEST_BATCH.value),
            "the largest global batch",
            "`compute.sequence_workers`: several GPUs share a sequence",
        ],
        [
            "the dealer's core",
            f"{dealt(LLAMA_1B)} (1B), {dealt(LLAMA_8B)} (8B)",
            "dealer: byte, token, call, window",
            "not built: a second dealer; a larger model asks for less",
        ],
        [
            "the controller's core, if it looked at its workers each 0.2 s",
            at(lambda gpus: gpus / LEAST_LOOK * known.POLL.value),
            "a worker polled",
            "done: it looks at 1,000 workers a second, and at each every 2 s at least",
        ],
        [
            "the board's core, with a heartbeat a second",
            at(lambda gpus: gpus * known.BOARD_CALL.value),
            "a call",
            "done: at most 1,000 heartbeats a second; one worker asks whether to stop",
        ],
        [
            "nodes in one Ray cluster, as far as Ray says it is tested",
            at(lambda gpus: head(gpus).nodes / known.NODES.value),
            "nodes",
            "a head node with cores to spare, nothing else on it; Ray's own larger tests have 2,000 nodes",
        ],
        [
            "actors, as far as Ray says it is tested",
            at(lambda gpus: head(gpus).actors / known.ACTORS.value),
            "actors",
            "`compute.standby: false` halves them; a restart then takes some seconds more",
        ],
        [
            "reads of one prefix of a bucket (1B)",
            at(lambda gpus: of_model(LLAMA_1B, gpus).requests / known.GETS.value),
            "a read, reads of a prefix",
            "shards under several prefixes",
        ],
        [
            "worker 0 writes all weights (8B): no save is nearer to the next",
            f"{save(LLAMA_8B, 4_096).write:.0f} s at any number",
            "a worker writes",
            "faster storage; `training.checkpoint.fast` for saves in between, to each node's own disk",
        ],
        [
            "every node reads all weights at a restart (8B: more than a minute)",
            at(lambda gpus: restart(LLAMA_8B, gpus).restore / 60),
            "storage, SHA-256",
            "faster storage; `training.checkpoint.fast`, from which a lost process, but not a lost node, is restored. "
            "Not built: one node reads, and the network hands on",
        ],
    ]
