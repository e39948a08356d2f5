"""The step: what each setting costs, and the links; GPUs by name or by figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raypretrain.errors import InputError
from raypretrain.models.config import PRESETS
from raypretrain.planning.calibration import CALIBRATIONS
from raypretrain.planning.hardware import GPUS, NETWORKS, Gpu, find_gpu
from raypretrain.planning.layout import Layout
from raypretrain.planning.time import Step, communication, step
from raypretrain.training.planned import network_of

NETWORK = network_of(replace(PRESETS["llama-8b"], vocabulary=128_256, max_length=8192))
LAYOUT = Layout(workers=64, zero=3, micro_batch=2, length=8192)
H100, HOPPER = GPUS["h100"], CALIBRATIONS["hopper"]


def made(layout: Layout = LAYOUT, gpu: Gpu = H100) -> Step:
    return step(NETWORK, layout, gpu, HOPPER)


def test_the_parts_are_the_whole_and_no_faster_than_the_peak() -> None:
    found = made()
    parts = (
        found.products + found.attention + found.entries + found.launches + found.exposed + found.optimizer
    )
    assert found.seconds == pytest.approx(parts)
    least = 6 * 7e9 * LAYOUT.tokens / H100.flops
    assert least < found.seconds < 5 * least


def test_full_checkpointing_costs_about_a_third_more_products() -> None:
    assert made(replace(LAYOUT, checkpointing="full")).products / made().products == pytest.approx(
        4 / 3, abs=0.03
    )
    assert made(replace(LAYOUT, checkpointing="selective")).products == made().products


def test_muon_is_paid_once_a_step_and_shared_where_its_state_is() -> None:
    def added(**settings: int) -> float:
        layout = replace(LAYOUT, workers=8, **settings)
        return made(replace(layout, muon=True)).optimizer - made(layout).optimizer

    alone = added(zero=3)
    # Of each layer's 218 million weights, in matrices whose shorter side is 4,096 or, of keys and values, 1,024.
    assert alone * HOPPER.products * H100.flops == pytest.approx(32 * 2e13, rel=0.1)
    assert added(zero=2, accumulation=4) == pytest.approx(alone / 8)
    assert added(zero=0) == pytest.approx(alone)


def test_zero_3_sends_half_as_much_again_and_for_each_micro_batch() -> None:
    def sent(**settings: int) -> float:
        return communication(NETWORK, replace(LAYOUT, workers=8, **settings), H100, HOPPER)

    assert sent(zero=3) == pytest.approx(1.5 * sent(zero=1))
    assert sent(zero=2, accumulation=4) == pytest.approx(sent(zero=1) / 4)
    assert sent(zero=3, accumulation=4) == pytest.approx(sent(zero=3))
    assert communication(NETWORK, replace(LAYOUT, workers=1), H100, HOPPER) == 0


def test_a_slow_network_is_waited_for() -> None:
    slow = replace(H100, network=NETWORKS["ethernet-25"][0])
    assert made(gpu=slow).exposed > 20 * made().exposed
    inside = replace(LAYOUT, workers=8)
    assert made(inside, slow) == made(inside)


def test_four_micro_batches_take_four_times_as_long_but_one_optimizer_step() -> None:
    one, four = made(), made(replace(LAYOUT, accumulation=4))
    assert four.seconds - four.optimizer == pytest.approx(4 * (one.seconds - one.optimizer))
    assert four.optimizer == one.optimizer


def test_a_gpu_by_its_own_figures() -> None:
    gpu = find_gpu("mine,tflops=400,memory=48,bandwidth=1.2,link=32,price=1.1")
    assert (gpu.flops, gpu.memory, gpu.link, gpu.price) == (400e12, 48 * 2**30, 32e9, 1.1)
    assert not gpu.measured
    assert find_gpu("H100").name == "h100"
    assert find_gpu("h100,price=2").flops == H100.flops


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("h10", "there is no GPU 'h10'; did you mean 'h100'?"),
        ("abacus", "known: v100"),
        ("mine,tflops=400", "needs tflops, memory and bandwidth"),
        ("h100,beauty=3", "'beauty' is no figure of a GPU"),
        ("h100,price=-2", "'-2' is not greater than 0"),
        ("h100,price=much", "'much' is not greater than 0"),
        ("h100,price=nan", "'nan' is not greater than 0"),
    ],
)
def test_an_unknown_gpu_is_one_line(text: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        find_gpu(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_every_gpu_says_where_its_figures_are_from() -> None:
    assert all(gpu.source and gpu.efficiency in CALIBRATIONS for gpu in GPUS.values())
