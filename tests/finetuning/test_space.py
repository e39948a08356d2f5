"""The trials of a search."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from raypretrain.config import validate
from raypretrain.errors import RecipeError
from raypretrain.finetuning.adapt import AdaptConfig
from raypretrain.finetuning.kinds.classify import Classify
from raypretrain.finetuning.kinds.regress import Regress
from raypretrain.finetuning.recipe import FinetuneRecipe
from raypretrain.finetuning.space import SearchConfig, expand

MINIMAL = {"base": {"path": "model"}, "tasks": [{"name": "a", "train": {"path": "a.csv"}}]}


def _trials(seed: int = 0, **search: object) -> list[AdaptConfig]:
    return expand(AdaptConfig(), SearchConfig.model_validate(search), seed)


def test_grids_multiply_and_settings_without_effect_do_not():
    space = {"way": {"grid": ["full", "head"]}, "learning_rate": {"grid": [1e-3, 1e-4, 1e-5]}}
    trials = _trials(space=space)
    assert [t.way for t in trials] == ["full"] * 3 + ["head"]
    assert [t.learning_rate for t in trials[:3]] == [1e-3, 1e-4, 1e-5]
    seeds = _trials(space=space | {"seed": {"grid": [0, 1]}})
    assert len(seeds) == 8


def test_adapters_from_scratch_are_left_out_of_a_grid():
    space = {"way": {"grid": ["lora", "head"]}, "init": {"grid": ["base", "scratch"]}}
    assert [(t.way, t.init) for t in _trials(space=space)] == [
        ("lora", "base"),
        ("head", "base"),
        ("head", "scratch"),
    ]


def test_drawn_values_are_within_their_bounds_and_belong_to_the_seed():
    space = {"learning_rate": {"log_uniform": [1e-5, 1e-2]}, "batch": {"choice": [8, 16]}}
    trials = _trials(space=space, trials=60)
    assert trials == _trials(space=space, trials=60)
    assert trials != _trials(space=space, trials=60, seed=1)
    rates = [t.learning_rate for t in trials]
    assert 1e-5 <= min(rates) < 1e-4
    assert 1e-3 < max(rates) <= 1e-2
    assert 15 < sum(math.log10(rate) < -3.5 for rate in rates) < 45
    assert {t.batch for t in trials} == {8, 16}
    uniform = _trials(space={"weight_decay": {"uniform": [0.1, 0.2]}}, trials=5)
    assert all(0.1 <= t.weight_decay <= 0.2 for t in uniform)
    assert len({t.weight_decay for t in uniform}) == 5


@pytest.mark.parametrize(
    ("search", "message"),
    [
        (
            {"space": {"lerning_rate": {"grid": [1]}}},
            "'lerning_rate' is no key of adapt; did you mean 'learning_rate'?",
        ),
        ({"space": {"seed": {"grid": [1], "choice": [2]}}}, "give exactly one of grid, choice, uniform"),
        ({"space": {"seed": {}}}, "give exactly one of grid"),
        (
            {"space": {"way": {"grid": ["full", "lore"]}}},
            "space.way: Input should be 'full', 'lora' or 'head' (got 'lore')",
        ),
        (
            {"space": {"lora.rank": {"grid": [8, 0]}}},
            "space.lora.rank: Input should be greater than 0 (got 0)",
        ),
        ({"space": {"lora.rang": {"grid": [8]}}}, "is no key of adapt; did you mean 'lora.rank'?"),
        ({"space": {"learning_rate": {"uniform": [2, 1]}}}, "the range [2, 1] is empty"),
        ({"space": {"learning_rate": {"log_uniform": [0, 1]}}}, "log_uniform wants bounds above zero"),
        ({"sheduler": "asha"}, "unknown key 'search.sheduler'; did you mean 'scheduler'?"),
        ({"concurrency": 0}, "concurrency is at least 1, or auto"),
    ],
)
def test_what_is_wrong_with_a_search_is_said_before_anything_starts(search, message):
    with pytest.raises(RecipeError) as caught:
        validate(MINIMAL | {"search": search}, FinetuneRecipe, folder=Path("/"), where="recipe.yaml")
    assert message in str(caught.value)
    assert "recipe.yaml" in str(caught.value)


def test_a_minimal_recipe_is_enough_and_its_paths_are_relative_to_it():
    recipe = validate(MINIMAL, FinetuneRecipe, folder=Path("/some"), where="recipe.yaml")
    assert recipe.base.path == "/some/model"
    assert recipe.tasks[0].train.path == "/some/a.csv"
    assert len(recipe.trials()) == 1


def test_two_tasks_of_one_name_are_refused():
    with pytest.raises(RecipeError, match="two tasks are named 'a'"):
        validate(
            MINIMAL | {"tasks": MINIMAL["tasks"] * 2}, FinetuneRecipe, folder=Path("/"), where="recipe.yaml"
        )


def test_values_may_stand_at_the_key_itself():
    adapt = {"way": {"grid": ["lora", "head"]}, "lora": {"rank": {"grid": [4, 8]}, "alpha": 32}, "epochs": 7}
    recipe = validate(MINIMAL | {"adapt": adapt}, FinetuneRecipe, folder=Path("/"), where="recipe.yaml")
    trials = recipe.trials()
    assert [(t.way, t.lora.rank, t.lora.alpha, t.epochs) for t in trials] == [
        ("lora", 4, 32, 7),
        ("lora", 8, 32, 7),
        ("head", 4, 32, 7),
    ]
    misspelt = {"adapt": {"learning_rate": {"log_unifrom": [1e-5, 1e-3]}}}
    with pytest.raises(RecipeError, match="log_unifrom'; did you mean 'log_uniform'"):
        validate(MINIMAL | misspelt, FinetuneRecipe, folder=Path("/"), where="recipe.yaml")
    both = {"adapt": adapt, "search": {"space": {"way": {"grid": ["full"]}}}}
    with pytest.raises(
        RecipeError, match=r"'way' has values in adapt and in search\.space; take one of them out"
    ):
        validate(MINIMAL | both, FinetuneRecipe, folder=Path("/"), where="recipe.yaml")


def test_a_metric_that_a_kind_has_not_is_refused_with_the_nearest():
    search = SearchConfig(metric="validation_acuracy")
    with pytest.raises(
        RecipeError, match="there is no 'validation_acuracy'; did you mean 'validation_accuracy'"
    ):
        search.metric_of(Classify(("a", "b")))
    assert SearchConfig().metric_of(Regress(0.0, 1.0)) == "rmse"
    assert SearchConfig(metric="validation_loss").metric_of(Regress(0.0, 1.0)) == "loss"
