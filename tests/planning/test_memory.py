"""Memory by part: the exact facts that are published, what changes with each setting, and what to change first."""

from __future__ import annotations

from dataclasses import replace

import pytest
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs

from raypretrain.models.config import PRESETS
from raypretrain.planning.layout import Layout
from raypretrain.planning.memory import (
    CHUNK,
    CHUNK_ROWS,
    GIB,
    activations,
    first_remedy,
    fits,
    largest_micro_batch,
    memory,
    states,
)
from raypretrain.planning.network import Network
from raypretrain.training.planned import network_of


def network(preset: str, vocabulary: int = 32_000, length: int = 2048) -> Network:
    return network_of(replace(PRESETS[preset], vocabulary=vocabulary, max_length=length))


LAYOUT = Layout(workers=8, zero=1, micro_batch=1, length=2048)


def held(parameters: int, layout: Layout, accumulated: int | None = None) -> float:
    return sum(bytes for part, bytes in states(parameters, layout, accumulated).items() if part != "host")


def test_18_bytes_a_parameter_with_gradients_in_fp32() -> None:
    assert held(1000, replace(LAYOUT, zero=0), accumulated=4) == 18_000


@pytest.mark.parametrize("shards", [1, 2, 8, 64])
def test_6_bytes_and_12_by_shards_with_a_sharded_optimizer(shards: int) -> None:
    assert held(1000, replace(LAYOUT, workers=shards), accumulated=4) == pytest.approx(6000 + 12_000 / shards)


def test_2783_million_parameters_under_zero_3_take_what_deepspeeds_page_says() -> None:
    """46.91 GB on one GPU, with offload 5.43 GB there and 62.23 GB of the node's; largest layer: 65 M."""
    number, largest = 2_783_000_000, 65_000_000
    one = replace(LAYOUT, zero=3, workers=1)
    gathered = 4 * largest
    assert (held(number, one, accumulated=4) + gathered) / GIB == pytest.approx(46.91, abs=0.05)
    offloaded = replace(one, offload="cpu")
    # The page has the gradients on the CPU too: weights alone stay, and 16 bytes a parameter go, half as much again.
    on_gpu = states(number, offloaded)["weights"] + gathered
    on_cpu = 1.5 * (states(number, offloaded)["host"] + 4 * number)
    assert on_gpu / GIB == pytest.approx(5.43, abs=0.01)
    assert on_cpu / GIB == pytest.approx(62.23, abs=0.1)


@pytest.mark.parametrize("gpus", [1, 4, 8])
def test_states_are_deepspeeds_own_estimate(gpus: int) -> None:
    number = 1_234_567_890
    _, theirs, _ = estimate_zero3_model_states_mem_needs(number, 0, gpus, cpu_offload=False)
    assert held(number, replace(LAYOUT, zero=3, workers=gpus), accumulated=4) == pytest.approx(
        theirs, rel=1e-6
    )


def test_on_nvme_the_node_keeps_the_master_copy_alone() -> None:
    assert states(1000, replace(LAYOUT, workers=1, offload="nvme"))["host"] == pytest.approx(4000)


def test_each_zero_stage_shards_one_part_more() -> None:
    stages = [states(1000, replace(LAYOUT, zero=zero)) for zero in range(4)]
    assert [s["optimizer"] for s in stages] == [12_000, 1500, 1500, 1500]
    assert [s["gradients"] for s in stages] == [2000, 2000, 250, 250]
    assert [s["weights"] for s in stages] == [2000, 2000, 2000, 250]


def test_a_gpt2_keeps_what_korthikanti_counts_without_dropout() -> None:
    """34 bytes a token and entry of the width, of which 2 are dropout's masks."""
    from raypretrain.planning.memory import kept_by_layer

    found = network("gpt2-124m")
    assert kept_by_layer(found, LAYOUT) * LAYOUT.unit == 32 * found.width


def test_checkpointing_keeps_less() -> None:
    found = network("llama-8b")
    none, selective, full = (
        activations(found, replace(LAYOUT, checkpointing=kind)) for kind in ("none", "selective", "full")
    )
    assert full < selective < none


def test_the_largest_micro_batch_fits_and_one_more_does_not() -> None:
    found, capacity = network("llama-1b"), 79 * GIB
    size = largest_micro_batch(found, LAYOUT, capacity, 4096)
    assert fits(found, replace(LAYOUT, micro_batch=size), capacity)
    assert not fits(found, replace(LAYOUT, micro_batch=size + 1), capacity)
    assert largest_micro_batch(found, LAYOUT, capacity, 2) == 2


def test_what_to_change_first_is_the_cheapest_that_helps() -> None:
    found, capacity = network("llama-8b"), 79 * GIB
    assert not fits(found, replace(LAYOUT, zero=0), capacity)
    said, changed = first_remedy(found, replace(LAYOUT, zero=0), capacity) or ("", LAYOUT)
    assert said == "compute.zero: 1"
    assert fits(found, changed, capacity)
    assert largest_micro_batch(network("llama-405b"), LAYOUT, capacity, 8) == 0
    assert (
        first_remedy(network("llama-405b"), LAYOUT, capacity) is None
    )  # 8 GPUs are not enough, whatever one does


def test_parts_add_up() -> None:
    parts = memory(network("llama-1b"), LAYOUT)
    assert parts["total"] == pytest.approx(sum(v for k, v in parts.items() if k not in ("total", "host")))


def test_a_chunk_of_the_loss_is_as_the_loss_has_it() -> None:
    import torch

    from raypretrain.models.loss import LEAST_ROWS, _chunk_rows

    assert CHUNK_ROWS == LEAST_ROWS
    for vocabulary in (512, 16_384, 128_256):
        rows = _chunk_rows(torch.empty(vocabulary, 1, dtype=torch.bfloat16))
        assert rows == max(CHUNK["cpu"] // vocabulary, CHUNK_ROWS)
