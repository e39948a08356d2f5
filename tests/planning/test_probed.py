"""On a real cluster: a probe measures, a finished run says what was predicted, and both leave nothing else behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raypretrain.config import load_recipe
from raypretrain.planning.hardware import GPUS
from raypretrain.planning.money import Prices
from raypretrain.training.forecast import forecast
from raypretrain.training.probe import probe
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.smallruns import predicted_loss, read_runs

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_finished_run_says_what_was_predicted_and_what_it_took(undisturbed: Path) -> None:
    result: dict[str, Any] = json.loads((undisturbed / "result.json").read_text())
    found = result["plan"]
    assert found["gpu"] == "cpu"
    assert 0 < found["measured_step_seconds"] <= result["median_step_seconds"]
    ratio = found["predicted_step_seconds"] / found["measured_step_seconds"]
    assert found["predicted_over_measured"] == pytest.approx(ratio)


def test_a_finished_run_is_a_point_of_a_law_but_not_enough(undisturbed: Path) -> None:
    from raypretrain.errors import InputError, RunError

    [run] = read_runs([f"{undisturbed}*"])
    result = json.loads((undisturbed / "result.json").read_text())
    assert (run.parameters, run.tokens, run.loss) == (
        result["parameters"], result["tokens"], result["last_held_out_loss"],
    )  # fmt: skip
    assert run.rate == 3e-3
    with pytest.raises(InputError, match="1 runs of 1 sizes and 1 lengths are too few"):
        predicted_loss([str(undisturbed)], 10**6, 10**8)
    with pytest.raises(RunError, match="is no finished run"):
        read_runs([str(undisturbed / "corpus")])


def test_a_probe_measures_and_leaves_nothing(cluster: str, tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = load_recipe(tiny_recipe, PretrainRecipe, [f"run.folder={tmp_path}/runs/probed"])
    found = probe(recipe, lambda event: None)
    assert found["measured_step_seconds"] > 0
    assert list((tmp_path / "runs").iterdir()) == []
    plain = forecast(recipe, GPUS["cpu"], 2, Prices())
    probed = forecast(recipe, GPUS["cpu"], 2, Prices(), probed=found)
    moved = probed["step"]["seconds"] - probed["step"]["optimizer"]
    assert moved == pytest.approx(
        (plain["step"]["seconds"] - plain["step"]["optimizer"]) / found["predicted_over_measured"]
    )
    assert any("measured by a probe" in line for line in probed["guesses"])
