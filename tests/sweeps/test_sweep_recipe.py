"""Searches over pretraining: their recipes, which trials they consist of, and which of these end early."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from raypretrain.config import load_recipe, save_recipe
from raypretrain.errors import RecipeError
from raypretrain.sweeps.recipe import SweepConfig, SweepRecipe, is_pretraining, refuse_impossible
from raypretrain.sweeps.stopping import Curve, stopped_at
from raypretrain.sweeps.trials import Trial, number_of_trials, trial

JOBS = Path(__file__).parents[2] / "jobs"
RECIPE = """
corpus: {sources: [{path: a/*.jsonl, weight: {uniform: [0.1, 0.9]}}, {path: b/*.jsonl, weight: 0.5}]}
model: {preset: llama-1m}
training:
  tokens: 1M
  learning_rate: {log_uniform: [1e-4, 1e-2]}
  global_batch: {grid: [8, 16]}
search: {tokens: 100K, trials: 3}
"""
RATE, BATCH, WEIGHT = "training.learning_rate", "training.global_batch", "corpus.sources.0.weight"


@pytest.fixture
def load(tmp_path: Path):
    path = tmp_path / "search.yaml"

    def one(*overrides: str, text: str = RECIPE) -> SweepRecipe:
        path.write_text(text, encoding="utf-8")
        return load_recipe(path, SweepRecipe, overrides)

    return one


def test_a_distribution_may_stand_at_any_key(load, tmp_path: Path) -> None:
    recipe = load()
    assert set(recipe.search.space) == {RATE, BATCH, WEIGHT}
    plain = recipe.plain({RATE: 5e-3, BATCH: 16, WEIGHT: 0.25}, tmp_path / "own", tokens=100_000)
    assert (plain.training.learning_rate, plain.training.global_batch) == (5e-3, 16)
    assert [source.weight for source in plain.corpus.sources] == [0.25, 0.5]
    assert plain.training.tokens == 100_000
    assert plain.run.folder == str(tmp_path / "own")
    assert plain.corpus.sources[0].path == f"{tmp_path}/a/*.jsonl"


def test_what_is_saved_is_read_again_as_the_same(load, tmp_path: Path) -> None:
    recipe = load()
    save_recipe(recipe, tmp_path / "saved.yaml")
    assert load_recipe(tmp_path / "saved.yaml", SweepRecipe) == recipe


def test_values_are_numbers_where_yaml_sees_a_text(load) -> None:
    assert load("training.learning_rate={choice: [1e-3, 5e-3]}").search.space[RATE].choice == [0.001, 0.005]
    assert load("training.optimizer={choice: [adamw, muon]}").search.drawn["training.optimizer"].choice == [
        "adamw",
        "muon",
    ]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.lerning_rate={choice: [1e-3]}", "did you mean 'learning_rate'"),
        ("training.learning_rate={log_uniform: [1e-2, 1e-4]}", "is empty"),
        ("training.learning_rate={choice: [1e-3, -1]}", "greater than 0"),
        ("training.tokens={choice: [1M, 2M]}", "cannot be searched"),
        ("tokenizer.vocabulary={choice: [4K, 8K]}", "cannot be searched"),
        ("corpus.sources.1.path={choice: [a, b]}", "cannot be searched"),
        ("run.seed={grid: [1, 2]}", "cannot be searched"),
        ("search.space={training.learning_rate: {choice: [1e-3]}}", "take one of them out"),
        ("search.space={corpus.sources.7.weight: {choice: [1]}}", "there is no key"),
        ("search.tokens=2M", "more than the whole run's"),
        ("search={tokens: 1K, searcher: tpe, trials: 0}", "greater than 0"),
    ],
)
def test_what_cannot_be_tried_is_refused_in_a_line(load, override: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        refuse_impossible(load(override))


def test_a_search_needs_something_to_try(load) -> None:
    with pytest.raises(RecipeError, match="nothing to try"):
        load(text="corpus: {sources: [{path: a}]}\nsearch: {tokens: 1K}\n")


def test_the_command_knows_one_kind_of_search_from_the_other(tmp_path: Path) -> None:
    assert is_pretraining(JOBS / "search-pretraining.yaml")
    assert not is_pretraining(JOBS / "search-sentiment.yaml")
    assert not is_pretraining(tmp_path / "missing.yaml")


def test_every_key_of_the_section_is_documented() -> None:
    text = (JOBS.parent / "docs" / "searching.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert documented == list(SweepConfig.model_fields)


def test_the_job_is_valid_and_in_the_list() -> None:
    refuse_impossible(load_recipe(JOBS / "search-pretraining.yaml", SweepRecipe))
    assert "(search-pretraining.yaml)" in (JOBS / "README.md").read_text(encoding="utf-8")


def trials(recipe: SweepRecipe, losses: Any = lambda made: 1.0, seed: int = 0) -> list[Trial]:
    before: list[tuple[Trial, float | None]] = []
    for _ in range(number_of_trials(recipe.search)):
        made = trial(recipe.search, seed, before)
        before.append((made, losses(made)))
    return [made for made, _ in before]


def test_every_combination_of_the_grids_gets_its_samples_and_the_seed_decides_them(load) -> None:
    found = trials(load())
    assert [made.values[BATCH] for made in found] == [8, 16, 8, 16, 8, 16]
    assert len({made.values[RATE] for made in found}) == 6
    assert len({made.name(1) for made in found}) == 6
    assert found[0].name(1) != found[0].name(2)
    assert all(1e-4 < made.values[RATE] < 1e-2 and 0.1 < made.values[WEIGHT] < 0.9 for made in found)
    assert found == trials(load(), losses=lambda made: None)  # random draws do not look at results
    assert found != trials(load(), seed=7)


def test_without_a_drawn_axis_each_combination_is_tried_once(load) -> None:
    recipe = load("training.learning_rate=1e-3", "corpus.sources.0.weight=0.5")
    assert number_of_trials(recipe.search) == 2


def test_tpe_goes_where_the_loss_is_low_and_is_the_same_again(load) -> None:
    recipe = load("search.searcher=tpe", "search.trials=25", "training.global_batch=8")

    def loss(made: Trial) -> float | None:
        return None if made.number == 3 else abs(made.values[WEIGHT] - 0.2)

    found = trials(recipe, loss)
    assert found == trials(recipe, loss)
    late = [abs(made.values[WEIGHT] - 0.2) for made in found[15:]]
    assert sum(late) / len(late) < 0.2  # at random it would be 0.34
    assert found != trials(recipe)


def curve(*losses: float) -> Curve:
    """Evaluated at each tenth of 100 tokens."""
    return [(10 * (i + 1), loss) for i, loss in enumerate(losses)]


def test_halving_lets_only_the_best_third_go_on() -> None:
    before = [curve(5, 4, 3, 2), curve(5, 4.2, 3, 2), curve(5, 4.4, 3, 2)]
    assert stopped_at("asha", curve(5, 4.1), before, 100) == 20  # second of four
    assert stopped_at("asha", curve(5, 3.9), before, 100) is None
    assert stopped_at("asha", curve(5, 3.9, 3, 2.5), before, 100) == 40  # at the second rung
    assert stopped_at("asha", curve(5), before, 100) is None  # before the first
    assert stopped_at("asha", curve(5, 9), before[:2], 100) is None  # too few to compare with
    assert stopped_at("none", curve(5, 9), before, 100) is None
    two_more = [*before, curve(5, 4.6), curve(5, 4.8)]
    assert stopped_at("asha", curve(5, 4.1), two_more, 100) is None  # second of six


def test_the_median_rule_ends_what_is_worse_than_half_of_the_others_were_on_average() -> None:
    before = [curve(4, 3, 2), curve(5, 4, 3), curve(6, 5, 4)]
    assert stopped_at("median", curve(7, 6), before, 100) == 10
    assert stopped_at("median", curve(4.9, 4.6), before, 100) == 20  # the medians: 5, then 4.5
    assert stopped_at("median", curve(4.9, 4.4), before, 100) is None
    assert stopped_at("median", curve(7, 6), before[:2], 100) is None


def test_nobody_is_stopped_at_the_end() -> None:
    whole = [curve(*[5.0 - i / 2] * 10) for i in range(3)]
    bad = [(100, 99.0)]
    for kind in ("asha", "median"):
        assert stopped_at(kind, bad, whole, 100) is None
