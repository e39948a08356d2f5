"""Searches that learn: what is tried next follows from what was found, before an interruption as well."""

from __future__ import annotations

import json
import math

import pytest

from raypretrain.errors import RecipeError
from raypretrain.finetuning.studies import Studies
from raypretrain.finetuning.work import Work, prepare

RIDGE = {"log_uniform": [1e-6, 1e6]}
EVEN = (8**2 / 2 + 4**2 / 2) / 12
"""Orders of magnitude from the best, on average, where all are as likely."""


@pytest.fixture
def work(recipe):
    def make(trials: int) -> Work:
        wanted = recipe(adapt={"way": "head", "ridge": RIDGE}, search={"searcher": "tpe", "trials": trials})
        return prepare(wanted, wanted.trials())

    return make


def value_of(ridge: float) -> float:
    """Best at 100."""
    return 1 - abs(math.log10(ridge) - 2) / 10


def run(work: Work, most: int, record: bool = False) -> list[float]:
    """What is tried, one after the other."""
    studies, tried = Studies(work), []
    for trial in studies:
        tried.append(trial.adapt.ridge)
        value = value_of(trial.adapt.ridge)
        if record:
            result = work.trial_folder(trial) / "result.json"
            result.write_text(json.dumps({"validation_accuracy": value, "validation_loss": 1.0}))
        studies.tell(trial.id, value)
        if len(tried) == most:
            break
    return tried


def away(tried: list[float]) -> float:
    return sum(abs(math.log10(ridge) - 2) for ridge in tried) / len(tried)


def test_later_trials_are_nearer_to_the_best_than_the_first(work) -> None:
    tried = run(work(30), 30)
    assert len(tried) == 30
    assert away(tried[15:]) < 0.6 * EVEN


def test_after_an_interruption_it_has_learned_what_it_had(work) -> None:
    first = run(work(30), 15, record=True)
    second = run(work(30), 30, record=True)
    assert len(second) == 15
    assert not set(first) & set(second)
    assert away(second) < 0.6 * EVEN


def test_a_trial_without_a_result_is_run_again_first(work) -> None:
    made = work(10)
    studies = Studies(made)
    begun = next(iter(studies))
    again = Studies(work(10))
    assert next(iter(again)).id == begun.id
    assert again.total == 10
    again.tell(begun.id, 0.5)
    [study] = again._studies
    assert [(t.params["ridge"], t.value) for t in study.known.trials] == [(begun.adapt.ridge, 0.5)]


def test_what_cannot_be_searched_is_said(recipe) -> None:
    with pytest.raises(RecipeError, match="searcher: tpe needs a key with choice, uniform or log_uniform"):
        recipe(search={"searcher": "tpe"})
    with pytest.raises(RecipeError, match="searcher: tpe cannot search 'seed'; give it a grid"):
        recipe(adapt={"seed": {"choice": [1, 2]}}, search={"searcher": "tpe"})
