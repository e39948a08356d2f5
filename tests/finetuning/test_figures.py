"""What the pictures of a report show."""

from __future__ import annotations

from typing import Any

import pytest

from raypretrain.finetuning.figures import Metric, curves, label_counts, number, parallel, pareto, varied

pytestmark = pytest.mark.unit

ACCURACY = Metric("accuracy", True, "test")
ERROR = Metric("rmse", False, "test")


def row(trial: str, status: str = "finished", **values: Any) -> dict[str, Any]:
    own = {"trial": trial, "status": status, "adapt.way": "full", "adapt.init": "base", "adapt.seed": 0}
    return own | {key.replace("adapt_", "adapt."): value for key, value in values.items()}


def test_what_is_no_finite_number_is_not_measured():
    values = {"a": 1, "b": float("nan"), "c": None, "d": True, "e": "1", "f": float("inf")}
    assert [number(values, key) for key in "abcdefg"] == [1.0, None, None, None, None, None, None]


def test_the_front_has_the_trials_that_none_beats_in_score_and_forgetting():
    places = [(0.0, 0.6), (0.1, 0.8), (0.2, 0.7), (0.3, 0.8), (0.4, 0.9), (0.0, 0.5)]
    rows = [row(name, forgetting=x, test_accuracy=y) for name, (x, y) in zip("abcdef", places, strict=True)]
    rows += [row("g", forgetting=0.0), row("h", "stopped", forgetting=0.0, test_accuracy=1.0)]
    found = pareto(rows, ACCURACY, "e")
    assert [point["trial"] for point in found["points"]] == list("abcdef")
    assert found["front"] == [[0.0, 0.6], [0.1, 0.8], [0.4, 0.9]]
    assert [point["trial"] for point in found["points"] if point["best"]] == ["e"]


def test_of_an_error_the_smaller_one_is_on_the_front():
    rows = [row(str(x), forgetting=x, test_rmse=y) for x, y in ((0.0, 0.5), (0.1, 0.7), (0.2, 0.3))]
    assert pareto(rows, ERROR, None)["front"] == [[0.0, 0.5], [0.2, 0.3]]


def test_settings_that_differ_are_those_with_two_values_and_no_multiple_of_another():
    rows = [
        row("a", adapt_learning_rate=1e-3, adapt_head_learning_rate=1e-2, adapt_batch=8),
        row("b", adapt_learning_rate=1e-4, adapt_head_learning_rate=1e-3, adapt_batch=8),
        row("c", adapt_way="head", adapt_ridge=0.1),
        row("d", adapt_way="head", adapt_ridge=None, adapt_seed=1),
    ]
    assert varied(rows) == ["seed", "learning_rate", "ridge"]


def test_parallel_coordinates_have_a_logarithmic_axis_for_ratios_and_names_for_the_rest():
    rows = [
        row("a", adapt_learning_rate=1e-5, adapt_batch=8, validation_accuracy=0.5),
        row("b", adapt_learning_rate=1e-3, adapt_batch=16, validation_accuracy=0.9),
        row("c", adapt_way="head", adapt_batch=8, validation_accuracy=0.7),
        row("d", "failed", adapt_batch=32),
    ]
    found = parallel(rows, ACCURACY, "b")
    assert [(axis["name"], axis["kind"]) for axis in found["axes"]] == [
        ("way", "names"),
        ("learning_rate", "log"),
        ("batch", "linear"),
        ("validation accuracy", "linear"),
    ]
    assert [line["rank"] for line in found["lines"]] == [0.0, 1.0, 0.5]
    assert found["lines"][2]["values"] == ["head", None, 8.0, 0.7]


def test_without_a_setting_that_varies_there_are_no_parallel_coordinates():
    rows = [row(str(seed), adapt_seed=seed, validation_accuracy=0.5) for seed in range(3)]
    assert parallel(rows, ACCURACY, None) == {"axes": [], "lines": []}


def test_at_each_number_of_labels_the_settings_with_the_best_validation_mean_count():
    rows = [
        row(
            f"{n}-{rate}-{seed}",
            examples=n,
            adapt_learning_rate=rate,
            adapt_seed=seed,
            validation_accuracy=rate + n / 1000,
            test_accuracy=n / 1000 + seed / 10 - rate,
        )
        for n in (100, 500)
        for rate in (0.1, 0.2)
        for seed in (0, 1)
    ]
    (line,) = label_counts(rows, ACCURACY)
    assert [(point["examples"], point["seeds"]) for point in line["points"]] == [(100, 2), (500, 2)]
    assert [point["mean"] for point in line["points"]] == pytest.approx([-0.05, 0.35])
    assert line["points"][0]["spread"] == pytest.approx(0.0707107, abs=1e-6)
    assert label_counts(rows[:4], ACCURACY) == []


def test_a_curve_leaves_out_epochs_without_the_number_and_trials_without_a_log():
    logs = {"a": [{"epoch": 1, "validation_loss": 2.0}, {"epoch": 2, "validation_loss": float("nan")}]}
    (line,) = curves([row("a"), row("b")], logs, "validation_loss", "a")
    assert (line["trial"], line["best"], line["points"]) == ("a", True, [[1.0, 2.0]])
