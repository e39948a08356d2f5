"""Scale on paper: the formulas have the values that are known, and docs/scaling.md has the tables of the script."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import scaling
from scaling_collectives import (
    EFA,
    ETHERNET,
    INFINIBAND,
    LENGTH,
    LLAMA_1B,
    LLAMA_8B,
    NETWORKS,
    Network,
    all_gather,
    all_reduce,
    bandwidth,
    gathered_volume,
    reduced_volume,
    ring_latency,
    step,
    tree_latency,
)
from scaling_constants import ALL, BASE, HOP_BETWEEN, HOP_INSIDE, NVLINK, REACHED, TOKENS_OF_8B
from scaling_head import DEALER, Costs, first_full, head, of_model, stream
from scaling_storage import kept, restart, save

ROOT = Path(__file__).parents[2]
GPUS = scaling.GPUS


def test_a_ring_carries_twice_the_message_less_one_part() -> None:
    assert reduced_volume(2) == 1.0
    assert reduced_volume(8) == 2 * 7 / 8
    assert reduced_volume(4_096) == pytest.approx(2, rel=1e-3)
    assert all(gathered_volume(n) == reduced_volume(n) / 2 for n in GPUS)


def test_in_a_node_it_is_nvlink_and_between_nodes_the_nodes_link() -> None:
    inside = NVLINK.value * REACHED.value
    assert {bandwidth(8, network) for network in NETWORKS} == {inside}
    assert bandwidth(16, INFINIBAND) == 400e9 / 8 * REACHED.value
    assert bandwidth(16, Network("as fast as can be", 100_000)) == inside


def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather() -> None:
    size = 16e9
    for gpus in GPUS:
        both = 2 * all_gather(gpus, size, 0, EFA)
        assert all_reduce(gpus, size, 0, EFA) == pytest.approx(both)
    # By hand: 16 GB over 512 GPUs, of 320 GB/s.
    assert all_reduce(512, size, 0, EFA) == pytest.approx(2 * 511 / 512 * 16e9 / 320e9)


def test_latency_counts_hops_inside_and_between_nodes() -> None:
    assert ring_latency(8, 1) == pytest.approx(BASE.value + 7 * HOP_INSIDE.value)
    assert ring_latency(16, 1) == pytest.approx(BASE.value + 13 * HOP_INSIDE.value + 2 * HOP_BETWEEN.value)
    assert ring_latency(16, 2) == pytest.approx(BASE.value + 26 * HOP_INSIDE.value + 4 * HOP_BETWEEN.value)
    depth = math.log2(512)
    assert tree_latency(4_096) == pytest.approx(
        BASE.value + 14 * HOP_INSIDE.value + 2 * depth * HOP_BETWEEN.value
    )
    assert tree_latency(4_096) < ring_latency(4_096, 2) / 50


def test_a_step_alone_has_the_published_speed() -> None:
    assert LENGTH / LLAMA_8B.compute == TOKENS_OF_8B.value
    assert LLAMA_8B.parameters == 8_030_261_248
    assert 30_000 < LENGTH / LLAMA_1B.compute < 50_000


@pytest.mark.parametrize("zero", [1, 2, 3])
@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)
def test_more_gpus_are_never_more_efficient_but_faster_networks_are(zero: int, network: Network) -> None:
    found = [step(LLAMA_8B, gpus, zero, network) for gpus in GPUS]
    assert all(0 < made.exposed <= made.communication or made.exposed > 0 for made in found)
    efficiencies = [made.efficiency for made in found]
    assert efficiencies == sorted(efficiencies, reverse=True)
    assert 0 < efficiencies[-1] < efficiencies[0] <= 1
    faster = Network("faster", network.gigabits * 2)
    assert all(step(LLAMA_8B, g, zero, faster).seconds <= m.seconds for g, m in zip(GPUS, found, strict=True))


def test_what_zero_3_hides_and_zero_1_does_not() -> None:
    flat, sharded = step(LLAMA_8B, 64, 1, EFA), step(LLAMA_8B, 64, 3, EFA)
    assert sharded.communication > flat.communication
    assert sharded.exposed < flat.exposed
    assert flat.exposed == flat.communication
    # Three times the weights pass, where ZeRO 1 has three times as well: reduced, which counts twice, and gathered.
    size = 2 * LLAMA_8B.parameters * gathered_volume(64) / bandwidth(64, EFA)
    assert flat.communication == pytest.approx(3 * size, rel=0.2)
    assert sharded.communication == pytest.approx(3 * size, rel=1.0)


def test_overlap_hides_all_but_the_last_bucket() -> None:
    plain, beside = (step(LLAMA_8B, 512, 2, EFA, overlap=overlap) for overlap in (False, True))
    reduced = all_reduce(512, 2 * LLAMA_8B.parameters, 17, EFA)
    assert plain.exposed - beside.exposed == pytest.approx(reduced * 16 / 17)
    slow = step(LLAMA_8B, 512, 2, ETHERNET), step(LLAMA_8B, 512, 2, ETHERNET, overlap=True)
    assert slow[0].exposed - slow[1].exposed == pytest.approx(
        LLAMA_8B.compute * 2 / 3
    )  # no more than there is


def test_accumulation_helps_zero_1_and_not_the_others() -> None:
    one, two, three = (step(LLAMA_8B, 512, zero, INFINIBAND, sequences=8) for zero in (1, 2, 3))
    assert one.efficiency > two.efficiency
    assert one.efficiency > step(LLAMA_8B, 512, 1, INFINIBAND).efficiency
    assert three.efficiency == pytest.approx(step(LLAMA_8B, 512, 3, INFINIBAND).efficiency)
    needed = scaling.sequences_for(LLAMA_8B, 512, INFINIBAND)
    assert needed
    assert step(LLAMA_8B, 512, 1, INFINIBAND, sequences=needed).efficiency >= scaling.WANTED
    assert step(LLAMA_8B, 512, 1, INFINIBAND, sequences=needed // 2).efficiency < scaling.WANTED


def test_the_dealers_work_by_hand() -> None:
    asked = stream(64, 1_000.0, 512, Costs(call=1e-3, byte=1e-9, token=2e-9, window=1e-2), steps=4)
    assert asked.tokens == 64_000
    assert asked.calls == pytest.approx(64 * 1_000 / 512 / 4)
    windows = 64_000 * 4.1 / 4e6
    assert asked.dealer == pytest.approx(asked.calls * 1e-3 + 64_000 * (4e-9 + 2e-9) + windows * 1e-2)


def test_the_stream_grows_with_the_gpus_and_the_dealers_core_is_full_where_it_says() -> None:
    for model in (LLAMA_1B, LLAMA_8B):
        found = [of_model(model, gpus) for gpus in GPUS]
        for name in ("tokens", "cores", "requests", "dealer"):
            values = [getattr(asked, name) for asked in found]
            assert values == sorted(values)
        full = first_full(lambda gpus, model=model: of_model(model, gpus).dealer)
        assert of_model(model, int(full * 0.9)).dealer < 1 < of_model(model, int(full * 1.1)).dealer


def test_first_full_finds_it_to_two_digits() -> None:
    assert first_full(lambda gpus: gpus / 1_538) == 1_500
    assert first_full(lambda gpus: gpus / 20_480) == 20_000


def test_no_process_of_the_head_is_full_at_4096_workers() -> None:
    needs = head(4_096)
    assert max(needs.board, needs.controller, needs.driver) < 0.75
    assert needs.nodes == 512


def test_worker_0_writes_the_weights_and_every_node_reads_them() -> None:
    small, large = save(LLAMA_8B, 8), save(LLAMA_8B, 4_096)
    assert small.size == large.size == 14 * LLAMA_8B.parameters
    assert small.first > large.first > 2 * LLAMA_8B.parameters
    grown = restart(LLAMA_8B, 4_096).read - restart(LLAMA_8B, 8).read
    assert grown == 511 * 2 * LLAMA_8B.parameters


def test_failures_come_as_often_as_llama_3s_and_goodput_falls_with_them() -> None:
    found = [kept(LLAMA_8B, gpus, 1.5, failures=500) for gpus in GPUS]
    assert found[0].between == pytest.approx(54 * 86_400 / 419 * 16_384 / 8)
    goodputs = [left.goodput for left in found]
    assert goodputs == sorted(goodputs, reverse=True)
    assert all(0.9 < share < 1 for share in goodputs)
    assert [left.every for left in found] == sorted((left.every for left in found), reverse=True)


def test_every_number_says_where_it_comes_from() -> None:
    assert len({known.name for known in ALL}) == len(ALL) > 30
    assert {known.kind for known in ALL} == {"measured", "published", "assumed"}
    assert all(known.value > 0 and known.source for known in ALL)
    for known in ALL:
        if known.kind == "measured":
            file = known.source.split()[0].rstrip(":,")
            assert (ROOT / "benchmarks" / file).is_file(), known.source
    assert DEALER.call in {known.value for known in ALL}


def test_the_document_has_the_tables_of_the_script() -> None:
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    for made in scaling.tables():
        title = made.split("\n", 1)[0]
        assert made in text, f"docs/scaling.md does not have what scaling.py prints for {title}"
    assert text.count("\n| --- |") == len(scaling.tables()), (
        "docs/scaling.md has a table that scaling.py does not print"
    )
