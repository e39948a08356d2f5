"""Predicted against measured: whose figures are taken, and that a calibrated machine predicts what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from raypretrain.config import load_recipe
from raypretrain.errors import InputError
from raypretrain.planning.hardware import GPUS
from raypretrain.planning.money import Prices
from raypretrain.planning.plan import estimate, lay_out
from raypretrain.training.cluster import size_up
from raypretrain.training.forecast import forecast
from raypretrain.training.measured import calibrate, compared, gpu_named
from raypretrain.training.probe import short
from raypretrain.training.recipe import PretrainRecipe

from test_choice import JOB, MACHINE  # isort: skip

SMALL = Path(__file__).parents[2] / "jobs" / "pretrain-small.yaml"
RESULT = {"median_step_seconds": 4.0, "data_wait_share": 0.25}


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("A100-40G", "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("Tesla V100-SXM2-32GB", "v100"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
    ],
)
def test_gpus_by_the_names_of_cuda_and_ray(called: str, name: str) -> None:
    gpu = gpu_named(called)
    assert gpu is not None
    assert gpu.name == name


def test_another_gpu_is_not_known() -> None:
    assert gpu_named("Abacus 3000") is None


def test_a_finished_run_is_compared_with_what_was_predicted() -> None:
    recipe = load_recipe(SMALL, PretrainRecipe)
    shape = recipe.model.shape(8192, 256)
    one, two = (
        compared(recipe, shape, replace(size_up(recipe, {"CPU": 4}), threads=threads), "", RESULT)
        for threads in (1, 2)
    )
    assert one is not None
    assert two is not None
    assert one["measured_step_seconds"] == 3.0
    assert one["predicted_over_measured"] == pytest.approx(one["predicted_step_seconds"] / 3.0)
    assert two["predicted_step_seconds"] < one["predicted_step_seconds"]


def test_a_calibrated_machine_predicts_what_was_measured() -> None:
    layout = lay_out(JOB, MACHINE)
    before = estimate(JOB, MACHINE, layout).step
    slower = calibrate(MACHINE, 0.8)
    after = estimate(JOB, slower, layout).step
    assert after.seconds - after.optimizer == pytest.approx((before.seconds - before.optimizer) / 0.8)
    assert "0.80 times what was assumed" in slower.efficiencies.source


def test_a_probe_of_other_gpus_is_refused() -> None:
    recipe = load_recipe(SMALL, PretrainRecipe)
    with pytest.raises(InputError, match="the probe ran on cpu, the plan is for h100; give --gpu cpu"):
        forecast(recipe, GPUS["h100"], 2, Prices(), probed={"gpu": "cpu", "predicted_over_measured": 1.0})


def test_a_probe_is_the_recipe_for_20_steps() -> None:
    recipe = load_recipe(SMALL, PretrainRecipe, ["training.batch_warmup={first: 32, steps: 100}"])
    asked = short(recipe)
    assert (asked.training.steps, asked.training.tokens) == (20, None)
    assert asked.training.batches.first == asked.training.batches.full == 64
    assert (
        short(load_recipe(SMALL, PretrainRecipe, ["training.tokens=null", "training.steps=7"])).training.steps
        == 7
    )
    assert asked.model == recipe.model
